"""Which parts of a task's data `flctl evaluate --split` means."""

from pathlib import Path

from flctl.errors import DataError, UsageError
from flctl.learning.examples import Examples, concatenate
from flctl.learning.source import parts_of
from flctl.learning.task import Task
from flctl.wire.messages import VALIDATION

SPLITS = ("auto", "train", VALIDATION, "all")


def chosen_parts(task: Task, data: Path | None, split: str) -> dict[str, Examples]:
    """Raises UsageError, DataError."""
    if split in ("train", VALIDATION):
        training, validation = parts_of(task, data, task.train_data(data))
        found = training if split == "train" else validation
        if found is None:
            raise DataError(f"{data or 'these data'}: too few for a validation part")
        return {split: found}
    tests = task.test_parts(data)
    if split == "all":
        tests = {"train": task.train_data(data), **tests}
        trained, *others = tests.values()
        # Of data without splits, the test part is all of them.
        seen = any(part.contains(trained) for part in others)
        parts = others if seen else [trained, *others]
        return {"all": concatenate(parts, str(data or "the task's data")), **tests}
    chosen = {name: part for name, part in tests.items() if split in ("auto", name)}
    if not chosen and tests:
        raise UsageError(
            f"--split {split}: not in {data or 'the data that come with the task'}, which have "
            f"{', '.join((*SPLITS, *tests))}; name other data with --data"
        )
    if not chosen:
        raise DataError(f"{data or 'these data'}: nothing to test on; try --split train, or --data")
    return chosen
