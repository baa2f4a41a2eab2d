"""What several readers of one process need is read once, as long as its files do not change."""

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from flctl.learning.stamps import Stamp, stamp_of
from flctl.learning.task import Task

T = TypeVar("T")
MOST = 8
"""A run needs fewer; those of earlier runs, with other arguments, must not fill the memory."""


class Once:
    def __init__(self) -> None:
        self._kept: dict[Hashable, tuple[list[Stamp], Any]] = {}

    def __reduce__(self) -> tuple[type["Once"], tuple[()]]:
        """A process that loads batches gets the task, not the data."""
        return Once, ()

    def get(self, key: Hashable, paths: Sequence[Path | None], read: Callable[[], T]) -> T:
        """What `read` finds in `paths`. Raises what it raises."""
        stamps = [stamp_of(path) for path in paths]
        kept = self._kept.pop(key, None)
        if kept is None or kept[0] != stamps:
            kept = None  # its memory before that of the new data
            kept = stamps, read()
        self._kept[key] = kept
        if len(self._kept) > MOST:
            del self._kept[next(iter(self._kept))]  # not wanted for longest
        found: T = kept[1]
        return found

    def of(self, task: Task) -> Task:
        """`task`, whose data are read through this from now on."""
        for method in ("train_data", "held_out"):
            setattr(task, method, partial(self._of, task, method, getattr(task, method)))
        return task

    def _of(
        self, task: Task, method: str, read: Callable[[Path | None], T], path: Path | None
    ) -> T:
        return self.get((method, path, repr((task.read_as, task.args))), [path], lambda: read(path))
