"""From the spool of a closed round to its model on disk; within bounded memory."""

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from msgspec import Struct

from flctl.coordinator.store.folder import RunFolder, state_name
from flctl.core.strategies import Weights, combine, state_specs, strategy_of, weigh
from flctl.files import Syncing, explained
from flctl.settings import RunSettings
from flctl.wire.compression import open_update
from flctl.wire.messages import Digest
from flctl.wire.parameters import (
    ParameterFile,
    ParameterWriter,
    Source,
    TensorSpec,
    check_specs,
)

logger = logging.getLogger(__name__)


class Aggregated(Struct, frozen=True):
    model: Digest
    size: int
    path: Path
    """In its place; it counts once the journal says so."""
    server_state: dict[str, Digest] = {}
    """Digests of the strategy's state files next to the model, by name."""
    syncing: Syncing | None = None
    """All of it is on disk after its `wait`; None: not synced here."""

    @property
    def files(self) -> list[Path]:
        return [self.path, *(self.path.with_name(state_name(name)) for name in self.server_state)]


def aggregate(
    folder: RunFolder,
    round_id: int,
    examples: dict[str, int],
    settings: RunSettings,
    *,
    held: Mapping[str, Source] | None = None,
    sync: bool = True,
) -> Aggregated:
    """Combine the updates of the agents in `examples` into the round's model file.

    Updates that are not in `held` are in the spool. With `sync` the files are being made durable
    when this returns, else the caller does it. Raises StateError when the disk fails,
    ParametersError when the spool is damaged, StrategyError when the strategy cannot work with
    these updates.
    """
    strategy = strategy_of(settings)
    agents = sorted(examples)
    weights = weigh([examples[a] for a in agents], settings.weighting, settings.max_share)
    if settings.weighting == "examples" and strategy.weighs:
        _log_bounded(round_id, examples, weights)
    before, here = folder.round_path(round_id - 1), folder.round_path(round_id)
    spool = folder.spool_path(round_id)
    with ExitStack() as stack:
        base = _open(stack, folder.model_path(round_id - 1), "read the model")
        updates = []
        for agent in agents:
            path, what = spool / f"{agent}.safetensors", f"round {round_id}, update of {agent}"
            if held is not None and agent in held:
                update = ParameterFile(held[agent], what)
            else:
                update = _open(stack, path, "read the updates", what)
            updates.append(open_update(update, base, settings))
        of_state = tuple(state_specs(base.specs).values())
        state = {
            name: _open(stack, before / state_name(name), "read the server's state")
            for name in strategy.initial
            if round_id > 1
        }
        for file in state.values():
            check_specs(file, of_state)
        with explained(here, "make the round's folder"):
            here.mkdir(exist_ok=True)
        model = _New(stack, here, "model.safetensors", base.specs, base.metadata)
        state_out = {
            name: _New(stack, here, state_name(name), of_state) for name in strategy.initial
        }
        with explained(here, "write the model"):
            combine(
                strategy,
                base,
                updates,
                weights,
                model.writer,
                clip_norm=settings.clip_norm,
                buffers=base.buffers,
                state=state or None,
                state_out={name: new.writer for name, new in state_out.items()},
            )
            digests = {name: new.finish()[0] for name, new in state_out.items()}
            digest, size = model.finish()
            fds = [new.fd for new in (model, *state_out.values())]
            syncing = Syncing(fds, here) if sync else None
    return Aggregated(digest, size, folder.model_path(round_id), digests, syncing)


def _log_bounded(round_id: int, examples: Mapping[str, int], weights: Weights) -> None:
    """Log the agents whose weight is bounded below their share of examples."""
    everybody = sum(examples.values())
    for agent, share in zip(sorted(examples), weights, strict=True):
        if share < examples[agent] / everybody * (1 - 1e-9):
            logger.info(
                "round=%d agent=%s has %d of %d examples, and weighs %.3f (max_share)",
                round_id, agent, examples[agent], everybody, share,
            )  # fmt: skip


def _open(stack: ExitStack, path: Path, doing: str, what: str = "") -> ParameterFile:
    with explained(path, doing):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    return ParameterFile(fd, what or str(path))


class _New:
    """A file that gets its name when it is whole."""

    def __init__(
        self,
        stack: ExitStack,
        folder: Path,
        name: str,
        specs: Sequence[TensorSpec],
        metadata: Mapping[str, object] | None = None,
    ) -> None:
        self._path, self._temporary = folder / name, folder / f".{name}.tmp"
        with explained(self._temporary, "write the model"):
            file = stack.enter_context(self._temporary.open("wb", buffering=0))
            self.fd = file.fileno()
            self.writer = ParameterWriter(self.fd, specs, metadata)

    def finish(self) -> tuple[Digest, int]:
        made = self.writer.finish()
        self._temporary.replace(self._path)
        return made
