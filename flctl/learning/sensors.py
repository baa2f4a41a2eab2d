"""Task `sensors`: classes, numbers or anomalies in time series (docs/reference/tasks.md)."""

import tempfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from flctl.errors import DataError, SettingsError, TaskError, UsageError
from flctl.learning.anomaly import Anomaly
from flctl.learning.arguments import converted
from flctl.learning.cases import Cases
from flctl.learning.classification import Classification
from flctl.learning.examples import Examples
from flctl.learning.origin import Origin
from flctl.learning.regression import Regression
from flctl.learning.series import (
    NORMAL,
    TEST,
    TRAIN,
    VALIDATION,
    DeviceSeries,
    Windows,
    cut,
    read_lines,
)
from flctl.learning.series_args import SeriesArgs
from flctl.learning.series_files import files_of, read_table
from flctl.learning.series_sample import sample_files
from flctl.learning.series_windows import read_stored, write_stored
from flctl.learning.task import Task
from flctl.wire.messages import VALIDATION as CHOOSING

if TYPE_CHECKING:
    from torch import Tensor, nn


class Series(Task):
    """What the three kinds have in common: their data."""

    name = "sensors"
    axes = ("samples", "deviations")
    args: SeriesArgs = SeriesArgs()
    defaults: ClassVar[Mapping[str, Any]] = {
        "partition": "record",
        "rounds": 20,
        "epochs": 2,
        "batch_size": 32,
        "optimizer": "Adam",
        "lr": 0.002,
    }

    def take(self, given: Mapping[str, Any]) -> Task:
        """The kind of task that learns what is asked for."""
        args = converted(self.args, given, self.name)
        assert isinstance(args, SeriesArgs)
        if twice := [name for name in args.columns if args.columns.count(name) > 1]:
            raise SettingsError(f"task_args of task 'sensors': columns has '{twice[0]}' twice")
        made = {"anomaly": Sensors, "class": SensorClasses, "number": SensorNumbers}[args.learn]()
        made.args = args
        made.note()
        return made

    def settle(self, path: Path | None) -> None:
        """The columns; of classes their names, of numbers what is usual in all training data."""
        if not self.args.columns:
            stored = read_stored(path)
            found = stored.columns if stored else self._lines(path)[0].columns
            self.args = replace(self.args, columns=found)
        self.settle_targets(path)
        self.note()

    def settle_targets(self, path: Path | None) -> None:
        pass

    def expect_target(self, path: Path) -> None:
        if read_stored(path) or _all_targets(self._lines(path)):
            return
        try:
            read_table(files_of(path)[0], replace(self.args, columns=(self.args.target,)))
        except DataError as error:
            raise UsageError(f"--task-args target: {error}") from error

    def note(self) -> None:
        """Take over arguments that are attributes of the kind."""

    def train_data(self, path: Path | None) -> Examples:
        found = self._examples(path, TRAIN)
        if found is None:
            raise DataError(f"{path or self.name}: too short: no window for training")
        return found

    def validation(self, path: Path | None) -> Examples | None:
        return self._examples(path, VALIDATION)

    def held_out(self, path: Path | None) -> Examples | None:
        return self._examples(path, TEST)

    def cases(self, path: Path) -> Cases:
        """All windows, in order of time; their target need not be known."""
        if read_stored(path):
            return super().cases(path)
        windows = cut(self._lines(path), self.args, predicted=True)
        whole = self._of(windows, None, path)
        assert whole is not None
        at_s, line = np.concatenate(windows.at_s), np.concatenate(windows.line)
        return Cases(whole, labelled=whole.labelled, at_s=at_s, line=line, origins=windows.origins)

    def origins(self, path: Path | None) -> list[Origin]:
        return [] if read_stored(path) else cut(self._lines(path), self.args).origins

    def shape(self) -> tuple[int, ...]:
        return self.columns(), self.args.window

    def points(self, x: "Tensor") -> "tuple[Tensor, Tensor]":
        """Samples before the last one, and each column's deviation from what is usual."""
        at, _ = super().points(x[0])
        return at - (len(at) - 1), x.float().T

    def write(self, folder: Path, train: Examples | None, tests: Mapping[str, Examples]) -> None:
        """One file windows.npz."""
        parts = [] if train is None else [(TRAIN, train)]
        parts += [(VALIDATION if name == CHOOSING else TEST, part) for name, part in tests.items()]
        write_stored(folder, self.args, self.args.classes, parts)

    def sample(self) -> Mapping[str, bytes]:
        """Invented readings of six pumps."""
        return {name: text.encode() for name, text in sample_files().items()}

    def _lines(self, path: Path | None) -> list[DeviceSeries]:
        return _sample(self.args) if path is None else read_lines(path, self.args)

    def _examples(self, path: Path | None, part: int) -> Examples | None:
        stored = read_stored(path)
        if stored is None:
            return self._of(cut(self._lines(path), self.args), part, path)
        rows = np.flatnonzero(stored.part == part)
        same = stored.learn == self.args.learn
        if not same and self.args.learn != "anomaly":
            raise DataError(f"{path}: windows to learn '{stored.learn}', not '{self.args.learn}'")
        dealt = {"window": stored.x.shape[2], "columns": stored.columns}
        for name, have in (dealt | ({"classes": stored.classes} if same else {})).items():
            if have != (want := getattr(self.args, name)):
                raise DataError(
                    f"{path}: {name} {have}, not {want}: set --task-args, or deal again"
                )
        if not len(rows):
            return None
        y = stored.y[rows] if same else None
        return self._made(stored.x[rows], y, stored.device[rows], path)

    def _of(self, windows: Windows, part: int | None, path: Path | None) -> Examples | None:
        parts = np.concatenate(windows.part)
        rows = np.flatnonzero(parts == part) if part is not None else np.arange(len(parts))
        if not len(rows):
            return None
        said = np.concatenate(windows.target)[rows]
        y = self.y(said, str(path or self.name)) if windows.labelled else None
        x, device = windows.view(self.args.window)[rows], np.concatenate(windows.device)[rows]
        return self._made(x, y, device, path)

    def _made(
        self, x: Any, y: NDArray[Any] | None, device: NDArray[Any], path: Path | None
    ) -> Examples:
        classes = len(self.args.classes) if self.args.learn == "class" else 0
        return Examples(x, y, classes=classes, group=device, where=str(path or self.name))

    def y(self, said: NDArray[np.str_], where: str) -> NDArray[Any]:
        raise NotImplementedError

    def columns(self) -> int:
        """Raises TaskError while they are not known."""
        if not self.args.columns:
            raise TaskError("there are no data to find the columns in: --task-args columns=[…]")
        return len(self.args.columns)


class Sensors(Series, Anomaly):
    """Windows that are not like those of the device's usual time."""

    def model(self) -> "nn.Module":
        from flctl.learning.series_nets import series_autoencoder

        return series_autoencoder(self.columns(), self.args.window)

    def y(self, said: NDArray[np.str_], where: str) -> NDArray[Any]:  # noqa: ARG002
        return (~np.isin(np.char.lower(said), NORMAL)).astype(np.int64)


class SensorClasses(Series, Classification):
    """The class of each window."""

    primary = "macro_f1"

    def note(self) -> None:
        self.classes = self.args.classes

    def settle_targets(self, path: Path | None) -> None:
        if not self.args.classes:
            stored = read_stored(path)
            found = stored.classes if stored else _all_targets(self._lines(path))
            self.args = replace(self.args, classes=tuple(found))

    def model(self) -> "nn.Module":
        from flctl.learning.series_nets import series_net

        if len(self.classes) < 2:
            raise TaskError("there are no data to find the classes in: --task-args classes=[…]")
        return series_net(self.columns(), len(self.classes))

    def y(self, said: NDArray[np.str_], where: str) -> NDArray[Any]:
        names, codes = np.unique(said, return_inverse=True)
        for name in names:
            if name not in self.classes:
                have = ", ".join(self.classes)
                raise DataError(
                    f"{where}: '{self.args.target}' is '{name}', no class of this run ({have:.200})"
                )
        return np.array([self.classes.index(name) for name in names], np.int64)[codes]


NO_TARGETS = (
    "there are no data to find the usual numbers in: --task-args target_center=…,target_spread=…, "
    "the mean and standard deviation of the target"
)


class SensorNumbers(Series, Regression):
    """A number that belongs to each window, or comes after it."""

    def note(self) -> None:
        self.unit = self.args.unit
        self.center = self.args.target_center or 0.0
        self.scale = self.args.target_spread or 1.0

    def settle_targets(self, path: Path | None) -> None:
        if self.args.target_center is not None and self.args.target_spread is not None:
            return
        try:
            y = self.train_data(path).targets
        except DataError as error:
            if path is not None:
                raise
            raise TaskError(NO_TARGETS) from error  # the sample has other columns
        usual, spread = float(f"{y.mean():.3g}"), float(f"{y.std():.3g}") or 1.0
        args = self.args
        self.args = replace(
            args,
            target_center=usual if args.target_center is None else args.target_center,
            target_spread=spread if args.target_spread is None else args.target_spread,
        )

    def model(self) -> "nn.Module":
        from flctl.learning.series_nets import series_net

        if self.args.target_center is None or self.args.target_spread is None:
            raise TaskError(NO_TARGETS)
        return series_net(self.columns(), 1)

    def y(self, said: NDArray[np.str_], where: str) -> NDArray[Any]:  # noqa: ARG002
        return said.astype(np.float64)


def _all_targets(lines: list[DeviceSeries]) -> list[str]:
    return sorted({each for line in lines if line.target is not None
                   for each in np.unique(line.target).tolist() if each})  # fmt: skip


@lru_cache(maxsize=2)
def _sample(args: SeriesArgs) -> list[DeviceSeries]:
    with tempfile.TemporaryDirectory(prefix="flctl-sensors-") as folder:
        for name, text in sample_files().items():
            (Path(folder) / name).write_text(text, encoding="utf-8")
        return read_lines(Path(folder), args)
