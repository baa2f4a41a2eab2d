"""Small real data, and runs over virtual agents with what they have left."""

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from safetensors.torch import load_file
from torch import Tensor

PATIENTS = ("106", "119", "208", "223")
STRANGER = "116"


class Done(NamedTuple):
    """A run of `flctl train --json`."""

    folder: Path
    events: list[dict[str, Any]]

    def named(self, event: str) -> list[dict[str, Any]]:
        return [found for found in self.events if found["event"] == event]

    def model(self, round_id: int) -> dict[str, Tensor]:
        return load_file(self.folder / "rounds" / f"{round_id:04d}" / "model.safetensors")


@pytest.fixture
def train(flctl, tmp_path) -> Callable[..., Done]:
    """`flctl train` with these arguments; it must end well."""

    def run(*args: object) -> Done:
        done = flctl("train", "--json", "--keep-rounds", 0, *args)
        assert (done.code, done.err) == (0, "")
        events = [json.loads(line) for line in done.out.splitlines()]
        return Done(tmp_path / "state" / "runs" / events[-1]["run"], events)

    return run


@pytest.fixture(scope="session")
def ecg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """360 beats of those that ship with flctl, as they follow one another: of each of four
    patients 60 to train on and 20 later ones, and 40 of a patient whom nobody trains on."""
    with np.load(str(files("flctl.learning") / "data" / "ecg_demo.npz")) as whole:
        arrays = {name: whole[name] for name in ("X", "y", "record", "split")}
    record, split = arrays["record"].astype(str), arrays["split"]
    wanted = [(name, part, n) for name in PATIENTS for part, n in ((0, 60), (1, 20))]
    chosen = [
        np.flatnonzero((record == name) & (split == part))[:count]
        for name, part, count in [*wanted, (STRANGER, 2, 40)]
    ]
    rows = np.sort(np.concatenate(chosen))
    path = tmp_path_factory.mktemp("ecg") / "beats.npz"
    np.savez(path, **{name: array[rows] for name, array in arrays.items()})
    return path
