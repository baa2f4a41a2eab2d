"""Every way in which a user's task can be wrong is one line that says where and why."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flctl.errors import UnknownTask
from flctl.fleet.checking import CHECKS, check_task
from flctl.learning.checkup import Finding

WHOLE = """
import random
from pathlib import Path
import torch
from torch import nn
from flctl.learning.classification import Classification
from flctl.learning.examples import Examples
from flctl.learning.task import Task

CALLS = []

def points(n, classes=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % classes
    return torch.randn(n, 4, generator=generator) + torch.eye(3, 4)[y % 3] * 2, y

class Own(Classification):
    name = "own"
    classes = ("a", "b", "c")
    defaults = {"batch_size": 8}

    def model(self):
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))

    def train_data(self, path):
        x, y = points(40)
        return Examples(x, y, classes=3, group=[f"r{i % 5}" for i in range(40)], where="points")

    def held_out(self, path):
        return Examples(*points(21, seed=2), classes=3, where="points")
"""

TRAIN = "def train_data(self, path):\n        "
MODEL = "def model(self):\n        "
WRONG: dict[str, tuple[str, str, str]] = {
    # What stands in the class instead, the check that finds it, and words of its line.
    "raises in model": (f"{MODEL}return {{}}['layers']", "model", "task 'own', model: KeyError"),
    "model returns None": (f"{MODEL}pass", "model", "model: returns None, not a torch.nn.Module"),
    "model returns a class": (f"{MODEL}return nn.Linear", "model", "not a torch.nn.Module"),
    "no model": ("model = Task.model", "model", "has no method 'model'"),
    "no data": ("train_data = Task.train_data", "data", "has no method 'train_data'"),
    "exits": (f"{MODEL}raise SystemExit(3)", "model", "SystemExit: 3"),
    "recursion": (f"{MODEL}return self.model()", "model", "task 'own', model: RecursionError"),
    "wrong arguments": ("def train_data(self):\n        return 1", "class", "train_data: takes"),
    "model is an attribute": ("model = nn.Linear(4, 3)", "model", "task 'own', model: TypeError"),
    "a property": ("model = 3", "class", "task 'own', model: is no method"),
    "one class": ("classes = ('a',)", "class", "name two or more, each once"),
    "a class twice": ("classes = ('a', 'b', 'a')", "class", "name two or more, each once"),
    "class names": ("class_names = ('A', 'B')", "class", "class_names: 2 for 3 classes"),
    "misspelt default": ("defaults = {'bach_size': 8}", "class", "did you mean 'batch_size'"),
    "default out of range": ("defaults = {'lr': -1.0}", "class", "defaults: "),
    "defaults of a wrong kind": ("defaults = ['lr']", "class", "task 'own', defaults: "),
    "misspelt method": (
        "def trian_data(self, path):\n        pass",
        "import",
        "did you mean 'train_data'?",
    ),
    "setting of a run": ("lr = 0.1", "import", "did you mean 'defaults = {'lr': …}'?"),
    "misspelt setting": ("validation_shares = 0.3", "import", "did you mean 'validation_share'?"),
    "workers": ("workers = -1", "class", "workers: -1: write a number"),
    "no optimiser": ("defaults = {'optimizer': 'SDG'}", "step", "did you mean 'SGD'?"),
    "lambda in the state": (
        "def model(self):\n"
        "        class Odd(nn.Linear):\n"
        "            def get_extra_state(self):\n"
        "                return lambda: 1\n"
        "        return Odd(4, 3)",
        "model",
        "task 'own', model: the model's state '_extra_state' is function, which a checkpoint",
    ),
    "object in the state": (
        "def model(self):\n"
        "        class Odd(nn.Linear):\n"
        "            def get_extra_state(self):\n"
        "                return {'f': lambda: 1}\n"
        "            def set_extra_state(self, state):\n"
        "                pass\n"
        "        return Odd(4, 3)",
        "model",
        "'_extra_state' is dict, which a checkpoint cannot hold",
    ),
    "complex numbers": (
        f"{MODEL}return nn.Linear(4, 3, dtype=torch.complex64)",
        "model",
        "is torch.complex64, which a checkpoint cannot hold",
    ),
    "lazy layers": (f"{MODEL}return nn.LazyLinear(3)", "model", "say the sizes of its layers"),
    "meta": (f"{MODEL}return nn.Linear(4, 3, device='meta')", "model", "build it on the CPU"),
    "nothing to train": (f"{MODEL}return nn.Identity()", "model", "no parameter that can be"),
    "NaN in the model": (
        f"{MODEL}m = nn.Linear(4, 3)\n        nn.init.constant_(m.bias, float('nan'))\n"
        "        return m",
        "state",
        "state 'bias' holds NaN",
    ),
    "another shape each time": (
        f"{MODEL}CALLS.append(1)\n        return nn.Linear(4, 3, bias=len(CALLS) % 2 == 1)",
        "state",
        "another one does not take its state",
    ),
    "model of chance": (
        f"{MODEL}m = nn.Linear(4, 3)\n        nn.init.constant_(m.bias, random.random())\n"
        "        return m",
        "same again",
        "task 'own', model: the same seed gives other results",
    ),
    "forward of chance": (
        "def inputs(self, x, *, training):\n        return x + random.random() * training",
        "same again",
        "the same seed gives other results",
    ),
    "order of a set": (
        f"{TRAIN}names = list({{'a', 'b', 'c', 'd', 'e', 'f', 'g'}})\n"
        "        return Examples(*points(39), classes=3, group=(names * 6)[:39])",
        "elsewhere",
        "task 'own', train_data: the same seed gives other results in another process",
    ),
    "classes of a set": (
        "classes = tuple(set('abcdefghijklmnopqrstuvwxyz'))[:3]",
        "elsewhere",
        "task 'own', classes: the same seed gives other results in another process",
    ),
    "raises in train_data": (f"{TRAIN}return 1 / 0", "data", "train_data: ZeroDivisionError"),
    "no file": (f"{TRAIN}return open('/none')", "data", "train_data: FileNotFoundError"),
    "data are None": (f"{TRAIN}pass", "data", "train_data: returns None, not flctl's Examples"),
    "data are a tuple": (f"{TRAIN}return points(9)", "data", "an object of type tuple"),
    "label out of range": (
        f"{TRAIN}return Examples(*points(40, 4), classes=3)",
        "data",
        "task 'own', train_data: the data: example 3 has label 3, not in 0 to 2",
    ),
    "labels are shares": (
        f"{TRAIN}x, y = points(40)\n        return Examples(x, y / 3, classes=3)",
        "data",
        "labels of type torch.float32 that are no whole numbers",
    ),
    "other classes": (
        f"{TRAIN}return Examples(*points(40), classes=7)",
        "data",
        "Examples of 7 classes, but the task has 3",
    ),
    "no examples": (f"{TRAIN}return Examples(*points(0), classes=3)", "data", "no examples"),
    "NaN in the data": (
        f"{TRAIN}x, y = points(40)\n        x[5, 1] = float('nan')\n"
        "        return Examples(x, y, classes=3)",
        "data",
        "example 5 holds NaN",
    ),
    "texts": (
        f"{TRAIN}x, y = points(40)\n        return Examples(x.numpy().astype(str), y, classes=3)",
        "data",
        "train_data: the data: the inputs are a <U32, not a torch.Tensor or numbers",
    ),
    "on another device": (
        f"{TRAIN}x, y = points(40)\n        return Examples(x.to('meta'), y, classes=3)",
        "data",
        "the inputs are on the device 'meta'; keep them on the CPU",
    ),
    "other data each time": (
        f"{TRAIN}return Examples(*points(40, seed=random.random().__hash__()), classes=3)",
        "data",
        "another call gives other data",
    ),
    "test of another shape": (
        "def held_out(self, path):\n"
        "        return Examples(torch.zeros(9, 5), torch.zeros(9), classes=3)",
        "test data",
        "'test' holds float32 of shape [5], but train_data float32 of shape [4]",
    ),
    "test parts are a list": (
        "def test_parts(self, path):\n        return [1]",
        "test data",
        "test_parts: returns an object of type list, not a dict",
    ),
    "inputs are None": (
        "def inputs(self, x, *, training):\n        pass",
        "batch",
        "inputs: returns None, not a tensor",
    ),
    "inputs lose rows": (
        "def inputs(self, x, *, training):\n        return x[1:]",
        "batch",
        "inputs: returns a tensor of shape [7, 4] for a batch of 8",
    ),
    "inputs are not finite": (
        "def inputs(self, x, *, training):\n        return x / 0",
        "batch",
        "inputs: returns NaN or infinite numbers",
    ),
    "collate raises": (
        "def collate(self, examples):\n        raise ValueError('no such file')",
        "batch",
        "task 'own', collate: ValueError: no such file",
    ),
    "collate raises in a process": (
        "workers = 1\n    def collate(self, examples):\n        raise ValueError('no such file')",
        "batch",
        "task 'own', collate: ValueError: no such file",
    ),
    "collate is half": (
        "def collate(self, examples):\n        return torch.stack([x for x, _ in examples])",
        "batch",
        "not inputs (a tensor, or a dict or tuple of some) and targets",
    ),
    "shapes do not fit": (
        f"{MODEL}return nn.Linear(5, 3)",
        "forward",
        "task 'own', the model's forward: RuntimeError: mat1 and mat2",
    ),
    "too many outputs": (
        f"{MODEL}return nn.Linear(4, 5)",
        "forward",
        "returns a tensor of shape [8, 5], not [8, 3]",
    ),
    "output is a tuple": (
        "def model(self):\n"
        "        class Odd(nn.Linear):\n"
        "            def forward(self, x):\n"
        "                return super().forward(x), x\n"
        "        return Odd(4, 3)",
        "forward",
        "the model's forward: returns an object of type tuple",
    ),
    "loss is None": (
        "def loss(self, output, target):\n        pass",
        "step",
        "task 'own', loss: returns None, not a tensor with one",
    ),
    "loss of each": (
        "def loss(self, output, target):\n"
        "        return nn.functional.cross_entropy(output, target, reduction='none')",
        "step",
        "loss: returns a tensor of shape [8], not",
    ),
    "loss without gradient": (
        "def loss(self, output, target):\n"
        "        return nn.functional.cross_entropy(output.detach(), target)",
        "step",
        "task 'own', the backward pass: RuntimeError: element 0 of tensors does not require grad",
    ),
    "loss is NaN": (
        "def loss(self, output, target):\n        return output.sum() * float('nan')",
        "step",
        "the loss is nan",
    ),
    "training loss is no function": (
        "def training_loss(self, examples):\n        return 3",
        "step",
        "training_loss: returns an object of type int, not a function",
    ),
    "training loss raises": (
        "def training_loss(self, examples):\n        return lambda o, t: {}['x']",
        "step",
        "task 'own', loss: KeyError",
    ),
    "probabilities": (
        "def probabilities(self, output):\n        return output",
        "metrics",
        "probabilities: returns rows that are negative or do not sum to 1",
    ),
}

Check = Callable[[str], list[Finding]]


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """Findings about the whole task with `change` at the end of its class."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(change: str, path: Path | None = None) -> list[Finding]:
        sys.modules.pop("own_task_checked", None)
        (tmp_path / "own_task_checked.py").write_text(f"{WHOLE}\n    {change}\n")
        try:
            return list(check_task("own_task_checked:Own", path))
        finally:
            sys.modules.pop("own_task_checked", None)

    return run


@pytest.mark.parametrize("case", WRONG)
def test_each_way_to_be_wrong_is_found(check: Check, case: str) -> None:
    """By the check that is about it; the line names the task, the method and the reason."""
    change, name, words = WRONG[case]
    problems = [f for f in check(change) if f.verdict == "problem"]
    assert [f.check for f in problems] == [name], problems
    assert words in problems[0].text
    assert "own" in problems[0].text and "\n" not in problems[0].text


def test_a_whole_task_has_nothing_but_ok(check: Check) -> None:
    """With what it will send, its data and its figures for programs."""
    found = {f.check: f for f in check("")}
    assert list(found) == ["import", *(name for name, _, _ in CHECKS)]
    assert {f.verdict for f in found.values()} == {"ok"}, found
    assert found["state"].figures["tensors"][0]["shape"] == [8]
    assert found["data"].figures["classes"] == {"a": 14, "b": 13, "c": 13}
    assert found["partition"].figures["usable"][-1] == "record"
    assert found["cost"].figures["seconds_per_batch"] > 0


@pytest.mark.parametrize(
    ("change", "name", "words"),
    [
        ("held_out = Task.held_out", "test data", "nothing to evaluate on"),
        ("def held_out(self, path):\n        return self.train_data(path)", "test data", "40 of"),
        (
            f"{TRAIN}x = random.Random(3)\n"
            "        x = torch.tensor([x.random() for _ in range(400)]).unfold(0, 32, 4)\n"
            "        CALLS[:] = [x]\n"
            "        return Examples(x[::2], torch.arange(47) % 3, classes=3)\n"
            "    def held_out(self, path):\n"
            "        self.train_data(path)\n"
            "        return Examples(CALLS[0][1::2], torch.arange(46) % 3, classes=3)\n"
            "    def model(self):\n        return nn.Linear(32, 3)",
            "test data",
            "windows of test overlap with those for training: leave the length of a window",
        ),
        ("columns = ('a', 'b')", "class", "nothing reads its 'columns'"),
        (
            "classes = ('a', 'b', 'c', 'd')\n    def train_data(self, path):\n"
            "        return Examples(*points(40), classes=4)\n"
            "    held_out = Task.held_out\n"
            "    def model(self):\n        return nn.Linear(4, 4)",
            "data",
            "none is of class d",
        ),
        (
            f"{TRAIN}x, y = points(40)\n"
            "        return Examples([*x[:9], torch.ones(3), *x[10:]], y, classes=3)",
            "batch",
            "1 of 40 will be left out; example 9 of the data: it is tensor [3] of fractions, most",
        ),
        (
            f"{MODEL}return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))",
            "forward",
            'set defaults = {"drop_last": True}',
        ),
        (
            "def model(self):\n        m = nn.Linear(4, 3)\n        m.more = nn.Linear(2, 2)\n"
            "        return m",
            "step",
            "no gradient reaches more.weight, more.bias",
        ),
    ],
)
def test_what_is_worth_to_know_is_a_note(check, monkeypatch, change, name, words) -> None:
    """It does not make the task unfit."""
    monkeypatch.setattr("flctl.fleet.checking.CHECKS", [c for c in CHECKS if c[0] != "elsewhere"])
    found = {f.check: f for f in check(change)}
    assert found[name].verdict == "note" and words in found[name].text, found[name]
    assert "problem" not in {f.verdict for f in found.values()}


def test_what_depends_on_a_problem_is_skipped(check: Check) -> None:
    """It names the check that is to be mended first; the rest is still looked at."""
    found = {f.check: f for f in check(f"{MODEL}return None")}
    assert found["round"].verdict == "skipped"
    assert found["round"].text == "until 'model' passes"
    assert found["data"].verdict == found["test data"].verdict == "ok"


def test_a_task_that_does_not_import(check: Check) -> None:
    """The reason has the line; a task that does not exist is wrong usage."""
    (broken,) = check("raise SystemExit('bye')")
    assert (broken.check, broken.verdict) == ("import", "problem")
    assert "cannot be imported: SystemExit: bye (own_task_checked.py, line" in broken.text
    (broken,) = check("def __init__(self, folder):\n        pass")
    assert "Own() fails: TypeError" in broken.text
    with pytest.raises(UnknownTask):
        list(check_task("own_task_checked:Other", None))
