"""A module that is used for many trainings is each time as good as a new one."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from flctl.core.randomness import Seeding, derive, sample
from flctl.errors import CheckpointError
from flctl.learning.classification import Classification
from flctl.learning.examples import Examples
from flctl.learning.reuse import Reused
from flctl.learning.state import same_bytes
from flctl.learning.training import train_locally
from flctl.settings import LocalTraining


class Counts(nn.Module):
    def __init__(self, keep: object) -> None:
        super().__init__()
        self.linear, self.keep = nn.Linear(3, 2), keep
        self.register_buffer("shift", torch.ones(2), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if isinstance(self.keep, int):
            self.keep += 1
        elif isinstance(self.keep, list):
            self.keep.append(1)
        self.shift += 1
        steps = len(self.keep) if isinstance(self.keep, list) else 0
        out: torch.Tensor = self.linear(x) * steps + self.shift
        return out + float(self.keep) if isinstance(self.keep, int) else out


class Odd(Classification):
    name = "odd"
    classes = ("a", "b")
    built = 0

    def __init__(self, what: str) -> None:
        self.what = what

    def model(self) -> nn.Module:
        self.built += 1
        torch.manual_seed(1)
        match self.what:
            case "plain" | "thawed":
                model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))
            case "norm":
                model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
            case "hook":
                model = nn.utils.weight_norm(nn.Linear(3, 2))
            case _:
                model = Counts({"buffer": None, "number": 0, "list": []}[self.what])
        return model


@pytest.mark.parametrize(
    ("what", "built"),
    [("plain", 1), ("norm", 1), ("buffer", 1), ("number", 3), ("list", 3), ("hook", 3)],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_trains_to_the_same_bytes_as_a_new_one(what: str, built: int):
    rng = np.random.default_rng(1)
    x = torch.from_numpy(rng.normal(size=(20, 3)).astype(np.float32))
    examples = Examples(x, torch.arange(20) % 2, classes=2)
    training = LocalTraining(batch_size=4, lr=0.1)
    one, other = Odd(what), Odd(what)
    reused = Reused(one)
    for version in range(3):
        seeding = Seeding(1, f"pi-{version}", version, 1, 0)
        start = {name: t + version for name, t in Odd(what).model().state_dict().items()}
        again = train_locally(one, start, examples, training, seeding, reused=reused)
        new = train_locally(other, start, examples, training, seeding)
        assert again.loss == new.loss
        assert all(same_bytes(again.state[name], t) for name, t in new.state.items())
    assert one.built == built


def test_a_reused_module_begins_with_what_it_is_given():
    """Also twice with the same; that of another model is refused, and nothing of it stays."""
    reused, cpu = Reused(Odd("norm")), torch.device("cpu")
    start = {name: t + 3 for name, t in Odd("norm").model().state_dict().items()}
    other = {name: t * 2 for name, t in start.items()}
    for given in (start, start, other, start):
        model = reused.begin(given, cpu)
        assert all(same_bytes(t, given[name]) for name, t in model.state_dict().items())
        for tensor in model.state_dict().values():
            tensor.zero_()
    with pytest.raises(CheckpointError, match="another model"):
        reused.begin(Odd("plain").model().state_dict(), cpu)
    model = reused.begin(start, cpu)
    assert all(same_bytes(t, start[name]) for name, t in model.state_dict().items())


def test_a_run_of_batches_is_a_copy():
    """A task may change its inputs in place."""
    examples = Examples(np.ones((4, 2), np.float32), np.zeros(4, np.int64), classes=1)
    examples.run(0, 2)[0].zero_()
    examples.batch([0, 1])[0].zero_()
    assert examples.x.min() == 1


def test_the_sample_is_of_those_with_the_smallest_hash():
    names = [f"pi-{number:02d}" for number in range(1, 51)]
    for round_id in (1, 7):
        ranked = sorted(names, key=lambda name: (derive(5, "sample", round_id, name), name))
        for count in (0, 1, 9, 50, 60):
            assert sample(5, round_id, names, count) == sorted(ranked[:count])


def test_training_does_not_load_the_compiler():
    """It takes as long to load, and as much memory, as the rest of torch."""
    code = (
        "import sys, tempfile, pathlib\n"
        "from flctl.fleet.virtual import VirtualRun\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    given = {'task': 'ecg', 'virtual': 16, 'fraction': 0.1, 'rounds': 1, 'epochs': 1}\n"
        "    given |= {'optimizer': sys.argv[1], 'lr': 0.001}\n"
        "    run = VirtualRun.start(pathlib.Path(folder), given, 'the test')\n"
        "    assert run.run().state == 'finished'\n"
        "assert 'torch' in sys.modules and 'torch._dynamo' not in sys.modules\n"
    )
    for optimizer in ("SGD", "Adam"):
        subprocess.run([sys.executable, "-c", code, optimizer], check=True, timeout=120)
