"""A checkpoint that a command is given, and the task that it is of."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from flctl.errors import StateError, UsageError, one_line
from flctl.learning.whole import metadata_of, round_model, whole
from flctl.terminal.output import warn

if TYPE_CHECKING:
    import torch
    from torch import nn

    from flctl.coordinator.store.folder import RunFolder
    from flctl.learning.correction import Correction
    from flctl.learning.origin import ReadAs
    from flctl.learning.own_models import OwnRecord
    from flctl.learning.task import Task


def task_of(checkpoint: Path, given: str | None, read_as: "ReadAs") -> "tuple[str, Task]":
    """The task that is `given`, else the installed one that the file names, and its name.

    That the model has learnt from data that were read in another way than `read_as` is a warning.
    Raises CheckpointError when it is not a checkpoint, UsageError when neither names a task.
    """
    from flctl.learning.registry import task_to_load
    from flctl.learning.task import load_task

    metadata = metadata_of(checkpoint)
    named = metadata.get("task")
    named = named if isinstance(named, str) else None
    if not given and named is None:
        raise UsageError(f"{checkpoint} does not name its task; add --task NAME")
    name = task_to_load(given or None, named or "", str(checkpoint))
    args = metadata.get("task_args", {})
    task = load_task(name, args if isinstance(args, dict) else {})
    task.will_read(read_as)
    known = metadata.get("read_as", {})
    if known and known != read_as.given:
        warn(
            f"{checkpoint} was trained on data that were read {_flags(known)}, these are read "
            f"{_flags(read_as.given)}"
        )
    return name, task


def _flags(given: object) -> str:
    """As on the command line."""
    pairs = given.items() if isinstance(given, dict) else ()
    flags = (f"--{key.replace('_', '-')} {value}" for key, value in pairs)
    return f"with {one_line(' '.join(flags))}" if pairs else "as they say themselves"


def expect_task(folder: "RunFolder", given: str | None) -> None:
    """Check that the code of a run's task may be imported: it is installed, or `given`.

    Raises UsageError.
    """
    from flctl.learning.registry import task_to_load

    task = folder.settings().task
    if task_to_load(given, task, f"run {folder.name}") != task:
        raise UsageError(f"--task {given}: run {folder.name} is of task '{task}'")


def load_model(
    task: "Task", checkpoint: Path, device: str, private: Path | None = None
) -> "tuple[nn.Module, torch.device]":
    """The model with the parameters of the checkpoint, and where it is to compute; `private` is the
    file with the tensors that one agent has for itself, or their folder.

    Raises UsageError, CheckpointError.
    """
    from flctl.learning import device as devices
    from flctl.learning.state import load_into
    from flctl.learning.whole import frozen_of

    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device {device}: write auto, cpu or cuda")
    on = devices.set_up(device)  # type: ignore[arg-type]  # checked above
    model, frozen = task.model(), frozen_of(checkpoint)
    with checkpoint.open("rb") as file:
        load_into(model, file.fileno(), str(checkpoint), frozen, _newest(private))
    return model, on


def _newest(private: Path | None) -> Path | None:
    from flctl.learning.positions import files_in

    if private is None or not private.is_dir():
        return private
    if not (files := files_in(private)):
        raise UsageError(
            f"--private {private}: contains no private tensors; name the folder own/private/RUN "
            "of an agent's state folder"
        )
    return files[-1]


def threshold_of(checkpoint: Path) -> float | None:
    """Raises CheckpointError, StateError."""
    from flctl.records import copies

    return copies.in_metadata(_found_of(checkpoint))


def correction_of(checkpoint: Path, task: "Task") -> "Correction | None":
    """Raises CheckpointError, StateError."""
    from flctl.learning.correction import applies_to, stored

    return stored(_found_of(checkpoint), len(task.classes)) if applies_to(task) else None


def _found_of(checkpoint: Path) -> dict[str, Any]:
    """Metadata of a copy, else what the round's validation part says of a model that is still in
    its run's folder; empty without them. Raises CheckpointError, StateError."""
    from flctl.fleet.own_data import run_of
    from flctl.records import copies

    known = metadata_of(checkpoint)
    run = None if known.keys() & {*copies.FOUND} else run_of(checkpoint)
    if run is None:
        return {name: known[name] for name in copies.FOUND if name in known}
    digest = round_model(checkpoint)
    scores = [event.metrics for event in run.history().rounds if event.model == digest]
    return copies.found_of(checkpoint, scores[-1]) if scores else {}


class OwnModel(NamedTuple):
    """A device's own model."""

    record: "OwnRecord"
    path: Path

    def threshold(self, task: "Task") -> float | None:
        """Of its scores on the validation part of the device."""
        from flctl.core.metrics import metrics_of

        sums = self.record.outcome.own.get("validation")
        return metrics_of(sums, task.measures).values.get("threshold") if sums else None


def own_model(checkpoint: Path, state: Path) -> OwnModel | None:
    """The model that the agent of the folder `state` has for itself, made of this checkpoint, or of
    a model of the run of that name; None where it has none. Raises CheckpointError."""
    from flctl.agent.state import own_models_of

    folder = own_models_of(state)
    if not folder.is_dir():
        return None
    from flctl.learning.own_models import OwnModels

    base = round_model(checkpoint) if checkpoint.is_file() else None
    found = OwnModels(folder).newest(base, "" if base else str(checkpoint))
    return None if found is None else OwnModel(*found)


def copy_model(checkpoint: Path, target: Path, option: str) -> None:
    """Copy the model of a finished run. Raises StateError."""
    from flctl.records.copies import copy_checkpoint

    try:
        with whole(checkpoint) as path:
            copy_checkpoint(path, target, option, _found_of(checkpoint))
    except StateError as error:
        raise StateError(f"{error}; the run is done, its model is in {checkpoint}") from error
