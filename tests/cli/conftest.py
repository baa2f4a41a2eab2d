"""The command line, called in this process, and small data files."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest


class Outcome(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line on stderr; fails when there are more, or none."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("flctl: ")
        return lines[0].removeprefix("flctl: ")


Flctl = Callable[..., Outcome]


@pytest.fixture
def flctl(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Flctl]:
    """Runs a command line as the console script does; its state folder is tmp_path/state."""
    from flctl.cli.app import app
    from flctl.cli.errors import run

    monkeypatch.setenv("FLCTL_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "100")
    root, below = logging.getLogger(), logging.getLogger("flctl.coordinator")
    before = root.handlers[:], root.level, below.level

    def call(*args: object) -> Outcome:
        capsys.readouterr()
        code = run(app, [str(arg) for arg in args])
        return Outcome(code, *capsys.readouterr())

    yield call
    root.handlers[:], root.level = before[0], before[1]
    below.setLevel(before[2])


@pytest.fixture(scope="session")
def beats(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes 4 records of 24 beats as an .npz; keywords replace its arrays."""
    folder = tmp_path_factory.mktemp("beats")

    def write(name: str = "beats.npz", **arrays: np.ndarray) -> Path:
        rng = np.random.default_rng(1)
        path = folder / name
        if not path.exists() or arrays:
            n = 96
            whole = {
                "X": rng.integers(-300, 300, (n, 187)).astype(np.int16),
                "y": np.arange(n) % 3,
                "record": np.repeat(["101", "102", "103", "104"], n // 4),
                "split": np.tile([0, 0, 0, 1], n // 4),
            }
            np.savez(path, **{**whole, **arrays})
        return path

    return write
