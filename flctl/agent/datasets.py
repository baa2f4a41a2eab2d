"""Which data this agent has, as its worker has found out."""

import logging

from msgspec.structs import replace

from flctl.agent.config import AgentConfig
from flctl.wire.messages import Shard
from flctl.worker.jobs import TRIES, DataSource, Describe, Described, JobFailed

logger = logging.getLogger(__name__)


class Datasets:
    """Looked at once: at the start of the agent, or when it knows which part is its own."""

    def __init__(self, config: AgentConfig, tasks: tuple[str, ...]) -> None:
        self._config, self._tasks = config, tasks
        self._sources = None if config.shard_from_coordinator else config.datasets
        self._looked_at = self._sources
        self._looks = 0
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
        """Of a data set that was found."""
        assert self._sources is not None
        return self._sources[name]

    def deal(self, shard: Shard) -> None:
        """From now on this part of each is this agent's."""
        whole = self._config.datasets
        dealt = {name: replace(source, shard=shard) for name, source in whole.items()}
        if dealt != self._sources:
            self._sources, self.found, self._looks = dealt, None, 0

    def look(self) -> Describe:
        """The job that finds out."""
        assert self._sources is not None
        self._looks += 1
        self._looked_at = self._sources
        named = bool(self._config.tasks)  # nobody expects a download for what is merely installed
        return Describe(
            tasks=self._tasks,
            datasets=self._sources,
            download=named,
            device=self._config.device,
        )

    def on_described(self, found: Described) -> None:
        if self._looked_at is not self._sources:
            return  # dealt anew meanwhile: what was seen is of another part
        if found.error is None and found.problems and self._config.tasks:
            # The owner has named these tasks: that one cannot be used is no mere chance.
            found = replace(found, error="; ".join(found.problems)[:2000])
        self.found = found
        for info in found.datasets:
            logger.info(
                "dataset=%s task=%s examples=%d held_out=%d",
                info.name,
                info.task,
                info.examples,
                info.held_out,
            )
        if found.error is not None:
            logger.error("%s: %s", "not usable" if found.datasets else "no data", found.error)

    def on_failed(self, failure: JobFailed) -> None:
        """A worker that has died may be luckier the next time."""
        if not failure.is_death or self._looks >= TRIES:
            error = failure.message
            self.on_described(Described(datasets=(), torch="", cuda=False, error=error))
