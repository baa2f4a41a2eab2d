"""Which data this agent has, as its worker has found out."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path

from msgspec.structs import replace

from flctl.agent.config import AgentConfig
from flctl.learning.stamps import Stamp, stamp_of
from flctl.wire.messages import (
    DatasetInfo,
    Digest,
    Evaluate,
    MeasuredPart,
    Personalise,
    Shard,
    Sums,
    Train,
)
from flctl.worker.jobs import TRIES, DataSource, Describe, Described, JobFailed

logger = logging.getLogger(__name__)

LOOK_S = 15.0
"""Between two looks from outside at whether files have changed; two that agree say that none is
being written."""
ENTRIES = 2000
"""Maximum number of files and folders in such a look; before a round the worker checks all."""
DUTY = 20
"""Data are read again no sooner than this many times the duration of the last reading."""


class Datasets:
    """Looked at when the agent starts, or knows which part is its own, and again when their files
    have changed. In between, each round and evaluation says how many there were."""

    def __init__(self, config: AgentConfig, tasks: tuple[str, ...]) -> None:
        self._config, self._tasks = config, tasks
        self._sources = None if config.shard_from_coordinator else config.datasets
        self._looked_at = self._sources
        self._looks = 0
        self._seen: list[Stamp] | None = None
        """The files at the last look from outside …"""
        self._read: list[Stamp] | None = None
        """When the worker was asked to read them all."""
        self._look_at = self._read_at = self._began = -math.inf
        self.found: Described | None = None
        """None until the worker has looked."""

    @property
    def usable(self) -> frozenset[tuple[str, str]]:
        """(name, task) of all that can be trained or evaluated on."""
        infos = self.found.datasets if self.found is not None else ()
        return frozenset((info.name, info.task) for info in infos)

    @property
    def known(self) -> bool:
        """Whether it is certain which data they are."""
        return self._sources is not None

    def source(self, name: str) -> DataSource:
        """Source of a data set that was found."""
        assert self._sources is not None
        return self._sources[name]

    def deal(self, shard: Shard) -> None:
        """From now on this part of each is this agent's."""
        whole = self._config.datasets
        dealt = {name: replace(source, shard=shard) for name, source in whole.items()}
        if dealt != self._sources:
            self._sources, self.found, self._looks = dealt, None, 0

    def look(self, now: float = 0.0) -> Describe:
        """The job that finds out."""
        assert self._sources is not None
        self._read, self._began = self._stamps(), now
        self._looks += 1
        self._looked_at = self._sources
        named = bool(
            self._config.tasks
        )  # a task that is merely installed must not cause a download
        return Describe(
            tasks=self._tasks, datasets=self._sources, download=named, device=self._config.device
        )

    def changed(self, now: float) -> bool:
        """Whether files have changed since they were read, and are at rest again."""
        if now < self._look_at:
            return False
        self._look_at = now + LOOK_S
        seen, self._seen = self._seen, self._stamps()
        return self._seen == seen and seen != self._read and now >= self._read_at

    def declare(
        self,
        order: Train | Evaluate | Personalise,
        *,
        examples: int | None = None,
        validation: int | None = None,
        held_out: int | None = None,
        data: Digest | None = None,
        error: str | None = None,
        damaged: bool = False,
    ) -> bool:
        """Update the given counts for `order`; returns whether anything changed."""
        assert self.found is not None
        infos = {(info.name, info.task): info for info in self.found.datasets}
        old = infos.get((order.dataset, order.task))
        if old is None:
            return False
        infos[order.dataset, order.task] = new = replace(
            old,
            examples=old.examples if examples is None else examples,
            validation=old.validation if validation is None else validation,
            held_out=old.held_out if held_out is None else held_out,
            data=old.data if data is None else data,
        )
        if new == old:
            return False
        there = tuple(info for info in infos.values() if info.examples or info.held_out)
        pair = old.name, old.task
        pairs = self.found.damaged
        if examples is not None:
            pairs = (*(other for other in pairs if other != pair), *([pair] if damaged else []))
        self.found = replace(
            self.found, datasets=there, error=None if there else error, damaged=pairs
        )
        logger.info("dataset=%s task=%s examples=%d held_out=%d now", *_figures(new))
        return True

    def lost(
        self, order: Train | Evaluate | Personalise, error: str, damaged: bool = False
    ) -> bool:
        """Note that the data for `order` can no longer be read; returns whether that is new."""
        self._read = None  # they are looked at again, also where they seem to be the same
        if not isinstance(order, Evaluate):
            return self.declare(order, examples=0, error=error, damaged=damaged)
        return self.measured(order, {}, error=error)

    def measured(self, order: Evaluate, found: Mapping[str, int], error: str | None = None) -> bool:
        """How many examples there were of each part that was wanted; whether that is news."""
        validation, held_out = (
            found.get(part, 0) if part in order.parts else None for part in ("validation", "test")
        )
        return self.declare(order, validation=validation, held_out=held_out, error=error)

    def personalised(self, order: Personalise, found: Mapping[MeasuredPart, Sums]) -> bool:
        """How many examples there were of each part that was measured; whether that is news."""
        counts = {part: sums.examples for part, sums in found.items()}
        validation, held_out = counts.get("validation"), counts.get("test")
        return self.declare(order, validation=validation, held_out=held_out)

    def on_described(self, found: Described, now: float = 0.0) -> bool:
        """Whether it is news."""
        if self._looked_at is not self._sources:
            return False  # divided differently meanwhile: what was seen belongs to another part
        self._read_at = now + DUTY * (now - self._began)
        if found.error is None and found.problems and self._config.tasks:
            # The owner has named these tasks, so one that cannot be used is an error.
            found = replace(found, error="; ".join(found.problems)[:2000])
        if found == self.found:
            return False
        self.found = found
        for info in found.datasets:
            logger.info("dataset=%s task=%s examples=%d held_out=%d", *_figures(info))
        if found.error is not None:
            logger.error("%s: %s", "not usable" if found.datasets else "no data", found.error)
        return True

    def on_failed(self, failure: JobFailed) -> None:
        """A worker that has died may be luckier the next time."""
        if not failure.is_death or self._looks >= TRIES:
            pairs = tuple((name, task) for name in self._sources or () for task in self._tasks)
            error = failure.message
            self.on_described(
                Described(datasets=(), torch="", cuda=False, error=error, damaged=pairs)
            )

    def _stamps(self) -> list[Stamp]:
        sources = self._sources or {}
        paths = [None if source.path is None else Path(source.path) for source in sources.values()]
        return [stamp_of(path, ENTRIES) for path in paths]


def _figures(info: DatasetInfo) -> tuple[str, str, int, int]:
    return info.name, info.task, info.examples, info.held_out
