"""What `flctl predict` says of a file, and with which model."""

from pathlib import Path
from typing import Any, NamedTuple

from flctl.errors import UsageError
from flctl.learning.correction import corrected
from flctl.learning.origin import ReadAs, summary
from flctl.learning.prediction import predict
from flctl.learning.predictions import OF
from flctl.terminal.checkpoints import (
    correction_of,
    load_model,
    own_model,
    task_of,
    threshold_of,
)
from flctl.terminal.patience import reading


class ToPredict(NamedTuple):
    task: str | None
    """None: what the checkpoint names."""
    read_as: ReadAs
    own: Path | None
    """State folder of an agent that may have a model of its own; None: not wanted."""
    threshold: float | None
    """Of anomalies; None: the model's."""
    uncorrected: bool
    private: Path | None
    device: str


def predicted(
    checkpoint: Path, file: Path, wanted: ToPredict
) -> tuple[Any, list[str], dict[str, Any]]:
    """The predictions, the notes about them, and the same for JSON. Raises FlctlError."""
    own = None if wanted.own is None else own_model(checkpoint, wanted.own)
    checkpoint = own.path if own is not None else checkpoint
    chosen, learnt = task_of(checkpoint, wanted.task, wanted.read_as)
    model, on = load_model(learnt, checkpoint, wanted.device, wanted.private)
    with reading(file):
        cases = learnt.cases(file)
    correction = None if wanted.uncorrected else correction_of(checkpoint, learnt)
    better = corrected(learnt, model, correction)
    said = predict(learnt, model if better is None else better, cases.examples, device=on)
    cases, threshold = cases.readable, wanted.threshold
    if learnt.says == "score":
        known = own.threshold(learnt) if own is not None else threshold_of(checkpoint)
        threshold = known if threshold is None else threshold
    elif threshold is not None:
        where = "; the 'threshold' of its class says which labels fit" * (learnt.says == "labels")
        raise UsageError(f"--threshold: the models of task '{learnt.name}' give no scores{where}")
    head: dict[str, Any] = {"checkpoint": str(checkpoint), "own": own is not None}
    head |= {"task": chosen, "file": str(file)}
    notes = (
        []
        if own is None
        else [f"Uses this device's own model, {own.path}; --global uses the run's."]
    )
    read = summary(cases.origins) or [f"{file}, examples: {len(cases.examples):,}"]
    notes += [f"Read: {line}" for line in read]
    if correction:
        head |= {"correction": correction}
        notes.append("Note: corrected for how frequent the classes are; --uncorrected leaves that")
    return OF[learnt.says](learnt, cases, said, threshold), notes, head
