"""What `flctl predict` reads of a file, by a task's own `cases` and without one."""

import json
import sys

import numpy as np
import pytest

import flctl as public
from flctl.errors import DataError

OWN = """
import csv
from pathlib import Path
import torch
from torch import nn
import flctl

class Own(flctl.Regression):
    name = "own"
    defaults = {"batch_size": 8, "rounds": 1}

    def model(self):
        return nn.Linear(1, 1)

    def train_data(self, path):
        return self._read(path, "train")

    def held_out(self, path):
        return self._read(path, "test")

    def _read(self, path, part):
        path = path or Path(__file__).with_name("rows.csv")
        lines = csv.DictReader(path.read_text().splitlines())
        rows = [row for row in lines if part in (None, row["part"])]
        x = torch.tensor([[float(row["x"])] for row in rows])
        return flctl.Examples(x, torch.tensor([2 * float(row["x"]) for row in rows]))
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A task in the current folder whose class ends with these lines."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    parts = "".join(f"{at / 50},{'test' if at % 5 == 0 else 'train'}\n" for at in range(50))
    (tmp_path / "rows.csv").write_text(f"x,part\n{parts}")

    def write(more=""):
        sys.modules.pop("own_cases", None)
        (tmp_path / "own_cases.py").write_text(OWN + more)
        return "own_cases:Own"

    yield write
    sys.modules.pop("own_cases", None)


ALL = "\n    def cases(self, path):\n        return flctl.Cases(self._read(path, None))\n"


@pytest.mark.parametrize(
    ("more", "count", "note"),
    [("", 10, "only what is for testing; 40 for training"), (ALL, 50, "")],
)
def test_without_cases_only_the_testing_part_is_predicted_and_it_is_said(
    flctl, own, tmp_path, more, count, note
):
    ref, state = own(more), tmp_path / "s"
    check = flctl("tasks", "check", ref)
    (line,) = [line for line in check.out.splitlines() if line.startswith("predict ")]
    assert check.code == 0 and f"{count} examples to predict" in line, check.out
    assert flctl("train", "--task", ref, "--virtual", 2, "--state", state).code == 0
    (model,) = (state / "runs").glob("*/last.safetensors")
    done = flctl("predict", model, tmp_path / "rows.csv", "--task", ref, "--json")
    told = json.loads(done.out)
    assert told["examples"] == count
    assert note in told["note"] and bool(note) == bool(told["note"])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("self._read(path, None)", "cases: returns an object of type Examples, not flctl.Cases"),
        ("None", "cases: returns None, not flctl.Cases: return flctl.Cases(examples)"),
        ("flctl.Cases([1, 2])", "cases: Cases of an object of type list, not of flctl.Examples"),
        ("flctl.Cases(flctl.Examples(torch.ones(3, 1), torch.ones(3, 2)))", "targets of shape"),
        ("flctl.Cases(flctl.Examples(torch.ones(3, 2)))", "the model's forward: RuntimeError"),
    ],
)
def test_what_is_no_cases_is_found_before_somebody_predicts(flctl, own, body, words):
    done = flctl("tasks", "check", own(f"\n    def cases(self, path):\n        return {body}\n"))
    assert done.code == 1 and done.complaint.endswith("not fit for a fleet yet: predict")
    (line,) = [line for line in done.out.splitlines() if line.startswith("predict ")]
    assert words in line


def test_cases_without_a_file_that_ships_are_not_tried(flctl, own):
    """Most need the path that they are given."""
    ref = own(
        "\n    def cases(self, path):\n        return flctl.Cases(self._read(path / 'x', 'a'))\n"
    )
    done = flctl("tasks", "check", ref)
    assert done.code == 0, done.out
    assert "not tried: " in done.out and "name a file with --data" in done.out


def test_cases_are_public_and_looked_at():
    examples = public.Examples(np.ones((3, 1)))
    assert not public.Cases(examples).labelled, "Examples without y have none to compare with"
    assert public.Cases(examples, at_s=[0, 1, 2.5]).at_s.dtype == np.float64
    with pytest.raises(DataError, match=r"3 cases, but at_s of shape \[2\]"):
        public.Cases(examples, at_s=[0.0, 1.0])
