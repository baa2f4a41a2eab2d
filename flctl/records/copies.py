"""Copies of a run's models. One of a model for anomalies has its threshold in its metadata, one of
some classifiers their correction: the round's own file is as old as the model, and these are found
by measuring that."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import to_builtins

from flctl.core.events import Score
from flctl.files import explained, new_file
from flctl.learning.correction import CORRECTION, correction_of
from flctl.outputs import copy_file
from flctl.wire.parameters import SLICE, ParameterFile, ParameterWriter

THRESHOLD = "threshold"
FOUND = (THRESHOLD, CORRECTION)
"""Names in metadata."""


def found_of(checkpoint: Path, score: Score | None) -> dict[str, Any]:
    """What the validation part says of a round's model, by its name in metadata."""
    measured = score.validation if score is not None else None
    if measured is None:
        return {}
    with checkpoint.open("rb") as file:
        task = ParameterFile(file.fileno(), str(checkpoint)).metadata.get("task", "")
    correction = correction_of(task, measured.counts)
    found = {THRESHOLD: measured.values.get(THRESHOLD), CORRECTION: to_builtins(correction)}
    return {name: value for name, value in found.items() if value is not None}


def in_metadata(metadata: Mapping[str, Any]) -> float | None:
    """The threshold that such a copy has."""
    found = metadata.get(THRESHOLD)
    return float(found) if isinstance(found, int | float) else None


def copy_checkpoint(source: Path, target: Path, option: str, found: Mapping[str, Any]) -> None:
    """With what was `found` of it; whole or not at all; the same bytes where there is nothing.
    Raises StateError."""
    if not found:
        copy_file(source, target, "save the model", option)
        return
    with source.open("rb") as file:
        tensors = ParameterFile(file.fileno(), str(source))
        with explained(target, "save the model", option), new_file(target) as out:
            metadata = {**tensors.metadata, **found}
            writer = ParameterWriter(out.fileno(), tensors.specs, metadata)
            for spec in writer.specs:
                for start in range(0, spec.count, SLICE):
                    writer.write(tensors.read(spec, start, min(SLICE, spec.count - start)))
            writer.finish()
