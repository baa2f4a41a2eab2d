"""Copies of a run's models. One of a model for anomalies has its threshold in its metadata: the
round's own file is as old as the model, and the threshold is found by measuring that."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flctl.core.events import Score
from flctl.files import explained, new_file
from flctl.outputs import copy_file
from flctl.wire.parameters import SLICE, ParameterFile, ParameterWriter

THRESHOLD = "threshold"


def threshold_of(score: Score | None) -> float | None:
    """Of the validation part that a round's model was measured on."""
    found = score.validation if score is not None else None
    return found.values.get(THRESHOLD) if found is not None else None


def in_metadata(metadata: Mapping[str, Any]) -> float | None:
    """The threshold that such a copy has."""
    found = metadata.get(THRESHOLD)
    return float(found) if isinstance(found, int | float) else None


def copy_checkpoint(source: Path, target: Path, option: str, threshold: float | None) -> None:
    """Whole or not at all; the same bytes where there is no threshold. Raises StateError."""
    if threshold is None:
        copy_file(source, target, "save the model", option)
        return
    with source.open("rb") as file:
        tensors = ParameterFile(file.fileno(), str(source))
        with explained(target, "save the model", option), new_file(target) as out:
            metadata = {**tensors.metadata, THRESHOLD: threshold}
            writer = ParameterWriter(out.fileno(), tensors.specs, metadata)
            for spec in writer.specs:
                for start in range(0, spec.count, SLICE):
                    writer.write(tensors.read(spec, start, min(SLICE, spec.count - start)))
            writer.finish()
