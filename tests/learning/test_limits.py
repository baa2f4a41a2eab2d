"""The owner's floors against a coordinator that asks for single examples."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from flctl.core.randomness import Seeding
from flctl.errors import OwnerRefuses
from flctl.learning.classification import Classification
from flctl.learning.examples import Examples
from flctl.learning.limits import check_held_out, within
from flctl.learning.loader import BatchPlan
from flctl.learning.state import snapshot
from flctl.learning.task import initial_model
from flctl.learning.training import LocalResult, train_locally
from flctl.settings import LocalTraining
from flctl.wire.messages import Limits

DEFAULT = Limits()
NONE = None


class Sensors(Classification):
    """As in examples/machines, without the hidden layer."""

    name = "sensors"
    classes = ("fine", "bearing", "imbalance")

    def model(self) -> nn.Module:
        return nn.Linear(4, 3)

    def train_data(self, path: Path | None) -> Examples:
        raise NotImplementedError


def readings(count: int) -> Examples:
    draw = np.random.default_rng(5)
    x = torch.tensor(draw.normal(50, 20, (count, 4)), dtype=torch.float32)
    return Examples(x, torch.arange(count) % 3, classes=3)


def order(
    examples: Examples,
    limits: Limits | None,
    start: dict[str, Tensor] | None = None,
    position: int = 0,
    **asked: object,
) -> LocalResult:
    task = Sensors()
    return train_locally(
        task,
        start or snapshot(initial_model(task, seed=1)),
        examples,
        LocalTraining(**{"lr": 0.01, **asked}),  # type: ignore[arg-type]
        Seeding(1, "pi-01", version=0, sequence=1, position=position),
        limits=limits,
    )


def row_of(before: dict[str, Tensor], after: dict[str, Tensor]) -> Tensor:
    """x = ΔW/Δb of one step of SGD on one example."""
    weight, bias = after["weight"] - before["weight"], after["bias"] - before["bias"]
    best = int(bias.abs().argmax())
    return weight[best] / bias[best]


def first_model() -> dict[str, Tensor]:
    return snapshot(initial_model(Sensors(), seed=1))


SINGLE: dict[str, object] = {"batch_size": 1, "federate_after_n_batches": 1}


def test_one_batch_of_one_tells_a_row_of_the_data():
    """The attack works where the owner allows it."""
    examples = readings(100)
    stolen = row_of(first_model(), order(examples, NONE, **SINGLE).state)
    assert any(torch.allclose(stolen, row, rtol=1e-3) for row in examples.x)


def test_the_default_floors_refuse_one_batch_of_one():
    """Before a step is taken, so that not even its loss is told."""
    steps: list[int] = []
    with pytest.raises(OwnerRefuses, match="a batch of 1 example is below --min-batch-size 8"):
        train_locally(
            Sensors(), first_model(), readings(100), LocalTraining(**SINGLE),
            Seeding(1, "pi-01", version=0, sequence=1, position=0), limits=DEFAULT,
            on_step=lambda step, *_: steps.append(step),
        )  # fmt: skip
    assert not steps


@pytest.mark.parametrize(
    "asked",
    [
        {"batch_size": 16, "federate_after_n_batches": 1},
        {"batch_size": 32},
        {"batch_size": 8, "epochs": 2, "shuffle": False},
        {"batch_size": 10**6, "optimizer": "Adam"},
    ],
    ids=str,
)
def test_the_same_order_with_permitted_sizes_trains_the_same(asked: dict[str, object]):
    """Limits refuse, they change nothing about what is allowed."""
    examples = readings(96)
    allowed, free = order(examples, DEFAULT, **asked), order(examples, NONE, **asked)
    assert (allowed.examples, allowed.batches, allowed.left_out) == (free.examples, free.batches, 0)
    assert all(torch.equal(allowed.state[name], free.state[name]) for name in free.state)


@pytest.mark.parametrize(
    ("count", "asked", "why"),
    [
        (5, {"batch_size": 32}, "a batch of 5 examples is below --min-batch-size 8"),
        (5, {"batch_size": 10**9}, "a batch of 5 examples is below"),
        (12, {"batch_size": 32}, "a round on 12 examples is below --min-examples 16"),
        (12, {"batch_size": 32, "epochs": 50}, "a round on 12 examples is below"),
        (100, {"batch_size": 8, "federate_after_n_batches": 1}, "a round on 8 examples is below"),
        (100, {"batch_size": 4, "epochs": 9}, "a batch of 4 examples is below"),
        (8, {"batch_size": 8, "epochs": 9, "shuffle": False}, "a round on 8 examples is below"),
    ],
)  # fmt: skip
def test_floors_count_what_is_really_trained_on(count: int, asked: dict[str, object], why: str):
    """Not what the order says: data may be fewer than a batch, epochs show the same ones again."""
    with pytest.raises(OwnerRefuses, match=why):
        order(readings(count), DEFAULT, **asked)


def test_a_round_of_too_few_batches_is_refused():
    """Also when the data have no more."""
    with pytest.raises(OwnerRefuses, match="a round of 3 batches is below --min-batches 4"):
        order(readings(96), Limits(min_batches=4))
    assert order(readings(96), Limits(min_batches=4), epochs=2).batches == 6


def test_rounds_that_differ_by_the_last_batch_do_not_tell_it():
    """Of 33 examples in batches of 32 the last one would be a batch of its own: with the same
    seed, one batch and one epoch differ by exactly that."""
    examples = readings(33)
    asked: dict[str, object] = {"batch_size": 32, "shuffle": False, "lr": 1e-5}
    one = order(examples, NONE, federate_after_n_batches=1, **asked)
    stolen = row_of(one.state, order(examples, NONE, **asked).state)
    assert torch.allclose(stolen, examples.x[32], rtol=1e-2)

    one = order(examples, DEFAULT, federate_after_n_batches=1, **asked)
    whole = order(examples, DEFAULT, **asked)
    assert all(torch.equal(one.state[name], whole.state[name]) for name in one.state)
    assert (whole.examples, whole.batches, whole.left_out) == (32, 1, 1)
    for position in range(5):  # whichever batch the coordinator asks for
        there = order(examples, DEFAULT, position=position, federate_after_n_batches=1, **asked)
        assert all(torch.equal(one.state[name], there.state[name]) for name in one.state)


def test_what_is_left_out_comes_in_other_epochs():
    """The order of the examples is drawn for every epoch: none is left out for good."""
    training, left_out = within(LocalTraining(batch_size=8), 17, DEFAULT)
    assert (training.drop_last, left_out) == (True, 1)
    plan = BatchPlan(17, training, seed=1, agent="pi-01")
    seen = {int(row) for number in range(40) for row in plan.batch(number)}
    assert seen == set(range(17))


@pytest.mark.parametrize(("examples", "left_out"), [(32, 0), (40, 0), (39, 7), (64, 0), (31, 0)])
def test_only_a_batch_below_the_floor_is_left_out(examples: int, left_out: int):
    """Eight are enough, and the only batch of an epoch is refused rather than left out."""
    assert within(LocalTraining(batch_size=32), examples, DEFAULT)[1] == left_out
    assert within(LocalTraining(batch_size=32), examples, NONE)[1] == 0


def test_metrics_of_too_few_examples_are_refused():
    """The loss of one example under a model of the coordinator's choice is a number about it."""
    with pytest.raises(
        OwnerRefuses, match="measures nothing with 15 examples, as its --min-examples is 16"
    ):
        check_held_out(15, DEFAULT)
    check_held_out(16, DEFAULT)
    check_held_out(1, NONE)
