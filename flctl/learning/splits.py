"""Which parts of a task's data `flctl evaluate --split` means."""

from pathlib import Path

from flctl.errors import DataError, UsageError
from flctl.learning.examples import Examples, concatenate
from flctl.learning.task import Task

SPLITS = ("auto", "train", "all")


def chosen_parts(task: Task, data: Path | None, split: str) -> dict[str, Examples]:
    """Raises UsageError, DataError."""
    tests = task.test_parts(data) if split != "train" else {}
    if split in ("train", "all"):
        tests = {"train": task.train_data(data), **tests}
    if split == "all":
        trained, *others = tests.values()
        # Of data without splits, the test part is all of them.
        seen = any(part.contains(trained) for part in others)
        parts = others if seen else [trained, *others]
        return {"all": concatenate(parts, str(data or "the task's data")), **tests}
    if split in SPLITS:
        found = tests
    else:
        found = {name: part for name, part in tests.items() if name == split}
        if not found and tests:
            raise UsageError(f"--split {split}: there are auto, train, all, {', '.join(tests)}")
    if not found:
        raise DataError(f"{data or 'these data'}: nothing to test on; try --split train")
    return found
