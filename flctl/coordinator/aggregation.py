"""From the spool of a closed round to its model on disk; within bounded memory."""

import os
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from flctl.coordinator.runs import RunFolder
from flctl.core.strategies import federated_average, weigh
from flctl.files import Syncing, explained
from flctl.settings import RunSettings
from flctl.wire.messages import Digest
from flctl.wire.parameters import ParameterFile, ParameterWriter, TensorSpec, check_specs


class Aggregated(Struct, frozen=True):
    model: Digest
    size: int
    path: Path
    """In its place and synced; it counts once the journal says so."""


def read_model(path: Path) -> tuple[tuple[TensorSpec, ...], dict[str, object]]:
    """Tensors and metadata of a model file. Raises ParametersError, StateError."""
    with explained(path, "read the model"), path.open("rb") as file:
        parameters = ParameterFile(file.fileno(), str(path))
        return parameters.specs, parameters.metadata


def aggregate(
    folder: RunFolder,
    round_id: int,
    examples: dict[str, int],
    settings: RunSettings,
) -> Aggregated:
    """Average the updates of the agents in `examples` into the round's model file.

    Raises StateError when the disk fails, ParametersError when the spool is damaged.
    """
    agents = sorted(examples)
    weights = weigh([examples[a] for a in agents], settings.weighting, settings.max_share)
    specs, metadata = read_model(folder.model_path(round_id - 1))
    spool = folder.spool_path(round_id)
    temporary = folder.round_path(round_id) / ".model.safetensors.tmp"
    descriptors: list[int] = []
    try:
        with explained(spool, "read the updates"):
            for agent in agents:
                descriptors.append(os.open(spool / f"{agent}.safetensors", os.O_RDONLY))
        files = _open_all(descriptors, agents, round_id, specs)
        with explained(temporary, "write the model"), temporary.open("wb", buffering=0) as out:
            writer = ParameterWriter(out.fileno(), specs, metadata)
            federated_average(files, weights, writer)
            digest, size = writer.finish()
            path = temporary.replace(folder.model_path(round_id))
            Syncing([out.fileno()], path.parent).wait()
    finally:
        for fd in descriptors:
            os.close(fd)
    return Aggregated(digest, size, path)


def _open_all(
    descriptors: Sequence[int],
    agents: Sequence[str],
    round_id: int,
    specs: tuple[TensorSpec, ...],
) -> list[ParameterFile]:
    files = [
        ParameterFile(fd, f"round {round_id}, update of {agent}")
        for fd, agent in zip(descriptors, agents, strict=True)
    ]
    for file in files:
        check_specs(file, specs)
    return files
