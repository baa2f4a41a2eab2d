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
from flctl.learning.cases import Cases
from flctl.learning.evaluation import evaluate
from flctl.learning.examples import concatenate
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
    told = r"loading a batch: no example of \d+ can be read; \d+\.jpg \(.*\): OSError: file \d+ is"
    with pytest.raises(TaskError, match=told):
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


LONG = [torch.full((4,), at / 20) for at in range(20)]


class Ids(Images):
    """Embeds whole numbers as they are."""

    def inputs(self, x, *, training):
        return x

    def model(self):
        return nn.Sequential(nn.EmbeddingBag(30, 2))


@pytest.mark.parametrize(
    ("odd", "why"),
    [
        (torch.ones(5), "it is tensor [5] of fractions, most others are tensor [4] of fractions"),
        (torch.ones(4, dtype=torch.complex64), "it is tensor [4] of complex, most others"),
        (np.ones(4), "it is array [4] of fractions, most others are tensor"),
        (None, "it is None"),
        (np.array([1, np.nan, 3, 4]), "it holds NaN or infinite numbers"),
        ("text", "it is of type str, most others"),
        ({"x": torch.ones(4)}, "it is dict(x: tensor [4] of fractions), most others"),
        ([torch.ones(4), torch.ones(4)], "it is (tensor [4] of fractions, tensor [4]"),
    ],
    ids=["width", "complex", "array", "None", "NaN", "text", "dict", "list"],
)
@pytest.mark.parametrize("batch_size", [1, 4, 20])
def test_one_item_that_is_unlike_the_others_is_left_out(odd, why, batch_size):
    """Whatever batch it is in, also one of its own; the others train the same model."""
    items = [*LONG[:13], odd, *LONG[13:]]
    examples = Examples(items, torch.arange(21) % 2, classes=2, where="a list")
    result = train(guarded(Images()), examples, batch_size=batch_size)
    assert (result.broken, result.examples) == (1, 20)
    assert list(examples.broken) == [13] and why in examples.broken[13]
    assert evaluate(guarded(Images()), Images().model(), examples).examples == 20


def test_whole_numbers_among_fractions_are_fractions_but_not_the_other_way_round():
    """A reading of 20 stands for 20.0; half a token is none. Where `inputs` makes everything
    float32, both are the same."""
    half, whole = torch.full((4,), 0.5), torch.ones(4, dtype=torch.int64)
    y = torch.arange(20) % 2
    mixed = Examples([*LONG[:19], whole], y, classes=2)
    assert train(guarded(Images()), mixed).broken == 0
    tokens = Examples([*[whole] * 19, half], y, classes=2)
    assert train(guarded(Ids()), tokens).broken == 1
    assert "fractions, most others are tensor [4] of whole numbers" in tokens.broken[19]
    assert train(guarded(Images()), Examples([*[whole] * 19, half], y, classes=2)).broken == 0


class Dicts(Images):
    def inputs(self, x, *, training):
        return torch.stack([x["a"], x["b"]], 1).float()

    def model(self):
        return nn.Linear(2, 2)


@pytest.mark.parametrize("odd", [{"a": 1.0}, {"a": 1.0, "b": 2.0, "c": 3.0}, {"a": 1.0, "b": "x"},
                                 {"a": 1.0, "b": float("inf")}])  # fmt: skip
def test_a_dict_with_other_keys_is_left_out(odd):
    """Too few, too many, of another type, not finite; first or last of its batch."""
    for place in (0, 7):
        items = [{"a": at / 8, "b": 1} for at in range(8)]
        items.insert(place, odd)
        examples = Examples(items, torch.arange(9) % 2, classes=2)
        assert train(guarded(Dicts()), examples, shuffle=False).broken == 1
        assert list(examples.broken) == [place]


class Twins(Lengths):
    """Padded by its own collate, of rows of two numbers; labels come from the items."""

    odd = ()

    def collate(self, examples):
        batch, y = super().collate([(x[0] if isinstance(x, list) else x, y) for x, y in examples])
        return {**batch, "values": batch["values"].sum(2)}, y


@pytest.mark.parametrize("batch_size", [1, 7, 40])
def test_one_that_fits_alone_but_not_with_its_batch_is_left_out(batch_size):
    """By a collate of the task's own: found by halves, also where it is the first of its batch or
    has one of its own. `broken` is the same for each order."""
    x = [torch.ones(1 + at % 5, 2) for at in range(40)]
    x[0] = x[21] = torch.ones(3, 4)
    for shuffle in (True, False):
        examples = Examples(x, np.ones(40))
        train(guarded(Twins()), examples, batch_size=batch_size, shuffle=shuffle)
        assert sorted(examples.broken) == [0, 21]
        assert "RuntimeError" in examples.broken[21]


def test_what_collate_makes_of_an_example_is_looked_at_too():
    """A label out of range, and NaN of a division by 0."""

    class Own(Images):
        def collate(self, examples):
            x = torch.stack([x for x, _ in examples])
            return x[:, :4] / x[:, 4:5], x[:, 5].long()

    good = torch.tensor([1.0, 2, 3, 4, 1, 1])
    items = [good] * 20
    items[3], items[12] = good * torch.tensor([1, 1, 1, 1, 0, 1]), good + 8
    examples = Examples(items, torch.zeros(20), classes=2)
    assert train(guarded(Own()), examples).examples == 18
    assert "NaN or infinite" in examples.broken[3]
    assert "labels from 9 to 9, not in 0 to 1" in examples.broken[12]


def test_a_collate_that_never_takes_two_is_the_tasks_fault():
    """No example is to blame, so none is left out."""

    class Alone(Images):
        def collate(self, examples):
            ((x, y),) = examples
            return x[None], y[None]

    examples = Examples(LONG, torch.arange(20) % 2, classes=2)
    with pytest.raises(TaskError, match="task 'images', collate: ValueError: too many values"):
        train(guarded(Alone()), examples)
    assert not examples.broken
    assert train(guarded(Alone()), examples, batch_size=1).examples == 20


def test_looking_at_what_is_usual_draws_no_random_numbers():
    """A Dataset that augments by itself gives the same bytes where they were looked at before."""

    class Noisy(Files):
        def __getitem__(self, at):
            return super().__getitem__(at) + torch.randn(4)

    def examples():
        return Examples(Noisy(20), torch.arange(20) % 2, classes=2)

    first = examples()
    one = train(guarded(Images()), first).state
    assert first.usual
    for each in (train(guarded(Images()), first), train(guarded(Images()), examples())):
        assert all(torch.equal(one[name], each.state[name]) for name in one)
