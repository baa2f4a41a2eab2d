"""Inputs that are read when a batch needs them, in whatever form; and those that cannot be."""

import logging

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, TensorDataset

from flctl import Classification, Examples, Regression
from flctl.core.randomness import Seeding
from flctl.errors import TaskError
from flctl.learning.evaluation import evaluate
from flctl.learning.examples import Cases, concatenate
from flctl.learning.guard import guarded
from flctl.learning.loader import in_order
from flctl.learning.prediction import predict
from flctl.learning.training import train_locally
from flctl.settings import LocalTraining

SEEDING = Seeding(1, "pi-01", version=0, sequence=1, position=0)


class Files(Dataset):
    """As many as there are names; some cannot be read."""

    def __init__(self, n, broken=(), holes=()):
        self.n, self.broken, self.holes = n, broken, holes

    def __len__(self):
        return self.n

    def __getitem__(self, at):
        if at in self.broken:
            raise OSError(f"file {at} is truncated")
        x = torch.full((4,), float(at) / self.n)
        return x * torch.nan if at in self.holes else x


class Images(Classification):
    name = "images"
    classes = ("a", "b")

    def model(self):
        return nn.Linear(4, 2)


def files(n=20, **bad):
    return Examples(
        Files(n, **bad), torch.arange(n) % 2, classes=2,
        names=[f"{at:03d}.jpg" for at in range(n)], where="photos",
    )  # fmt: skip


def train(task, examples, **training):
    torch.manual_seed(0)
    model = task.model()
    settings = LocalTraining(**{"batch_size": 4, "lr": 0.1, **training})
    return train_locally(task, model.state_dict(), examples, settings, SEEDING)


def test_a_dataset_trains_as_the_same_in_memory():
    """Byte for byte."""
    inside = Examples(torch.stack([*map(Files(20).__getitem__, range(20))]),
                      torch.arange(20) % 2, classes=2)  # fmt: skip
    task = guarded(Images())
    one, other = (train(task, examples).state for examples in (files(), inside))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("workers", [0, 1])
def test_what_cannot_be_read_is_left_out_named_and_counted(workers, caplog):
    """Once; the others are trained on, measured and predicted."""
    task = guarded(Images())
    task.workers = workers
    examples = files(broken=(3, 7), holes=(11,))
    with caplog.at_level(logging.WARNING):
        result = train(task, examples, epochs=2)
    assert (result.broken, result.examples, result.batches) == (3, 17, 10)
    named = [record.getMessage() for record in caplog.records]
    assert len(named) == 3
    assert "003.jpg (example 3 of photos) is left out: OSError: file 3 is truncated" in named[0] + (
        named[1] + named[2]
    )
    assert any("011.jpg" in line and "NaN" in line for line in named)
    assert evaluate(task, task.model(), examples).examples == 17
    assert len(predict(task, task.model(), examples, batch_size=2)) == 17
    cases = Cases(examples, at_s=np.arange(20.0)).readable
    assert len(cases.examples) == len(cases.at_s) == 17
    assert "left out: 3 that cannot be read; 003.jpg" in cases.note


def test_batches_that_are_broken_as_a_whole_are_passed_over():
    """But not when nothing at all can be read: that is reported as it is."""
    task = guarded(Images())
    assert train(task, files(broken=range(5), holes=(9,)), batch_size=1).examples == 14
    with pytest.raises(TaskError, match=r"^task 'images', loading a batch: OSError: file \d+ is"):
        train(task, files(broken=range(20)))


def test_a_selection_of_a_dataset_keeps_names_and_can_be_joined():
    """One example stays one for every reader."""
    whole = files()
    one, two = whole.select(np.array([5, 2])), whole.select(np.array([9]))
    assert one.name(0) == "005.jpg (example 0 of photos)"
    both = concatenate([one, two], "both")
    (x, y), *_ = in_order(Images(), both, 8)
    assert x[:, 0].tolist() == pytest.approx([5 / 20, 2 / 20, 9 / 20]) and y.tolist() == [1, 0, 1]
    assert whole.contains(both) and not one.contains(two)
    assert files().digest == whole.digest != one.digest
    assert whole.contains(files(4))


def test_pairs_of_a_dataset_give_their_inputs():
    """As most Datasets of torch and torchvision do."""
    pairs = TensorDataset(torch.ones(6, 4), torch.zeros(6))
    (x, _), *_ = in_order(Images(), Examples(pairs, torch.arange(6) % 2, classes=2), 6)
    assert x.shape == (6, 4)


class Lengths(Regression):
    """Sequences of unequal length, padded, with their lengths beside them."""

    name = "lengths"

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(2, 1)

        def forward(self, values, lengths):
            return self.out(torch.stack([values.sum(1), lengths.float()], 1) / 10)

    def model(self):
        return self.Net()

    def collate(self, examples):
        x = [each for each, _ in examples]
        lengths = torch.tensor([len(each) for each in x])
        values = pad_sequence(x, batch_first=True)
        return {"values": values, "lengths": lengths}, torch.stack([y for _, y in examples])

    def apply(self, model, x):
        return model(**x)


def test_sequences_of_unequal_length_come_as_a_dict():
    """A list of tensors, the task's own batch, a model of several arguments."""
    x = [torch.ones(1 + at % 5) for at in range(40)]
    examples = Examples(x, np.array([float(len(each)) for each in x]))
    task = guarded(Lengths())
    before = evaluate(task, task.model(), examples, batch_size=7).means["mae"].mean
    state = train(task, examples, epochs=30).state
    model = task.model()
    model.load_state_dict(state)
    assert evaluate(task, model, examples, batch_size=7).means["mae"].mean < before / 4


def test_a_collate_that_trips_over_one_example_leaves_it_out():
    class Tripping(Lengths):
        def collate(self, examples):
            if any(len(x) == 3 for x, _ in examples):
                raise ValueError("three")
            return super().collate(examples)

    x = [torch.ones(1 + at % 5) for at in range(40)]
    examples = Examples(x, np.array([float(len(each)) for each in x]))
    result = train(guarded(Tripping()), examples)
    assert (result.broken, result.examples) == (8, 32)
    assert "ValueError: three" in next(iter(examples.broken.values()))
