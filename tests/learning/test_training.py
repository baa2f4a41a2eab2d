import pytest
import torch
from torch import Tensor, nn

from flctl.core.randomness import Seeding
from flctl.errors import CheckpointError, SettingsError, TaskError
from flctl.learning.examples import concatenate
from flctl.learning.optimizer import check_optimizer
from flctl.learning.state import snapshot
from flctl.learning.task import initial_model
from flctl.learning.training import LocalResult, train_locally
from flctl.settings import LocalTraining
from flctl.wire.messages import Limits


def train(task, start, examples, *, agent="pi-1", position=0, round_id=1, seed=1, **training):
    return train_locally(
        task,
        start,
        examples,
        LocalTraining(**{"lr": 0.1, "batch_size": 8, **training}),
        Seeding(seed, agent, round_id - 1, round_id, position),
    )


@pytest.fixture
def start(blobs) -> dict[str, Tensor]:
    return snapshot(initial_model(blobs, seed=1))


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_training_is_a_function_of_its_arguments(blobs, start, points):
    """Whatever the process drew before, the result is the same, and `start` is unchanged."""
    before = {name: tensor.clone() for name, tensor in start.items()}
    one = train(blobs, start, points(50))
    torch.rand(7)
    two = train(blobs, start, points(50))
    assert equal(one.state, two.state)
    assert equal(start, before)
    assert not equal(one.state, start)


def test_two_rounds_of_n_batches_are_one_of_twice_as_many(blobs, start, points):
    """The next round goes on where the last one stopped, across the end of an epoch."""
    examples = points(50)
    first = train(blobs, start, examples, epochs=9, federate_after_n_batches=5)
    second = train(
        blobs,
        first.state,
        examples,
        epochs=9,
        federate_after_n_batches=5,
        position=first.batches,
        round_id=2,
    )
    whole = train(blobs, start, examples, epochs=9, federate_after_n_batches=10)
    assert equal(second.state, whole.state)


def test_full_batches_averaged_by_examples_are_the_central_step(blobs, start, points):
    """One step of SGD on all data is the mean of the agents' steps, weighted by examples."""
    shards = [points(n, seed=n) for n in (10, 25, 60)]
    results = [
        train(blobs, start, shard, agent=f"pi-{at}", batch_size=100)
        for at, shard in enumerate(shards)
    ]
    assert [result.examples for result in results] == [10, 25, 60]
    central = train(blobs, start, concatenate(shards, "all"), batch_size=100).state
    for name, tensor in central.items():
        mean = sum(result.state[name].double() * result.examples for result in results) / 95
        assert torch.allclose(mean, tensor.double(), rtol=0, atol=1e-6)


def test_the_weight_is_the_distinct_examples_of_the_round(blobs, start, points):
    """Two epochs of 20 are 20; where batches are limited, all 60 and all 1,000 count."""
    for n in (60, 1000):
        short = train(blobs, start, points(n), federate_after_n_batches=3)
        assert (short.examples, short.batches, short.exhausted) == (n, 3, False)
    kept = train(blobs, start, points(20), drop_last=True)
    assert (kept.examples, kept.batches) == (16, 2)
    long = train(blobs, start, points(20), epochs=2)
    assert (long.examples, long.batches, long.exhausted) == (20, 6, True)


def test_data_are_exhausted_over_several_rounds(blobs, start, points):
    """Seven batches make an epoch of 50; the third round of three reaches its end."""
    rounds = [
        train(blobs, start, points(50), federate_after_n_batches=3, position=position).exhausted
        for position in (0, 3, 6)
    ]
    assert rounds == [False, False, True]


def test_steps_are_reported_with_their_loss(blobs, start, points):
    """Mean and last loss of the result are those of the steps."""
    steps: list[tuple[int, int, float]] = []
    result: LocalResult = train_locally(
        blobs,
        start,
        points(20),
        LocalTraining(batch_size=8),
        Seeding(1, "pi-1", version=0, sequence=1, position=0),
        on_step=lambda *step: steps.append(step),
    )
    assert [step[:2] for step in steps] == [(1, 3), (2, 3), (3, 3)]
    assert result.last_loss == steps[-1][2]
    assert result.loss == pytest.approx(sum(step[2] for step in steps) / 3)


def test_dropout_depends_on_agent_and_round(blobs, points):
    """The same batch, dropped out differently in another round and by another agent."""
    blobs.model = lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 3))
    start = snapshot(initial_model(blobs, seed=1))
    results = [
        train(blobs, start, points(8), agent=agent, round_id=round_id, shuffle=False).state
        for agent, round_id in (("pi-1", 1), ("pi-1", 1), ("pi-1", 2), ("pi-2", 1))
    ]
    assert equal(results[0], results[1])
    assert not equal(results[0], results[2])
    assert not equal(results[0], results[3])


@pytest.mark.parametrize(
    ("optimizer", "arguments"),
    [
        ("SGD", {"momentum": 0.9, "nesterov": True}),
        ("Adam", {"betas": [0.8, 0.9]}),
        ("LBFGS", {"max_iter": 3}),
        ("Adafactor", {}),
        ("RMSprop", {"alpha": 0.9}),
    ],
)
def test_any_optimiser_trains(blobs, start, points, optimizer, arguments):
    """On full batches the loss falls; also with one that looks at a batch several times."""
    training = {"optimizer": optimizer, "optimizer_args": arguments, "lr": 0.01, "batch_size": 90}
    first = train(blobs, start, points(90), epochs=1, **training)
    assert train(blobs, start, points(90), epochs=6, **training).last_loss < first.loss


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"optimizer": "sgdd"}, "optimizer: torch.optim has no 'sgdd'; did you mean 'SGD'?"),
        ({"optimizer": "Optimizer"}, "torch.optim has no 'Optimizer'"),
        ({"optimizer_args": {"momentun": 0.9}}, "no argument 'momentun'; did you mean 'momentum'?"),
        ({"optimizer_args": {"lr": 0.9}}, "the learning rate is the setting 'lr'"),
        ({"optimizer_args": {"momentum": -1}}, "optimizer SGD: Invalid momentum value: -1"),
        ({"optimizer_args": {"momentum": "big"}}, "momentum of SGD is a number, such as 0"),
        ({"optimizer_args": {"nesterov": 1}}, "nesterov of SGD is true or false"),
        (
            {"optimizer": "Adam", "optimizer_args": {"betas": 3}},
            "betas of Adam is a list of 2 numbers, such as [0.9, 0.999]",
        ),
        (
            {"optimizer": "Adam", "optimizer_args": {"betas": [0.9]}},
            "betas of Adam is a list of 2 numbers",
        ),
    ],
)
def test_an_optimiser_that_cannot_be_made_is_an_error_of_the_settings(
    blobs, start, points, training, message
):
    """It names the optimiser or argument, and what was probably meant."""
    with pytest.raises(SettingsError) as caught:
        train(blobs, start, points(20), **training)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [("SparseAdam", "does not support dense gradients"), ("Muon", "only supports 2D parameters")],
)
def test_an_optimiser_that_cannot_train_the_model_is_known_before(blobs, optimizer, message):
    """It may fail only when it makes a step, or only with the parameters of this model."""
    with pytest.raises(SettingsError, match=f"^optimizer {optimizer}: .*{message}"):
        check_optimizer(LocalTraining(optimizer=optimizer), blobs.model())


@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "LBFGS", "Adafactor", "Rprop", "ASGD"])
def test_to_try_an_optimiser_leaves_the_model_as_it_is(blobs, optimizer):
    """The model that the run begins with is not the one that is tried on."""
    model = initial_model(blobs, seed=1)
    before = snapshot(model)
    check_optimizer(LocalTraining(optimizer=optimizer), model)
    assert equal(before, snapshot(model))


def test_a_loss_that_is_not_finite_names_agent_round_and_step(blobs, start, points):
    """And says what to do about it."""
    blobs.loss = lambda output, target: output.mean() * float("inf")
    message = r"agent pi-1, round 3, step 1 of 3: the loss is (nan|-?inf); begin a new run"
    with pytest.raises(TaskError, match=message):
        train(blobs, start, points(20), round_id=3)


def test_a_parameter_that_is_not_finite_after_the_last_step_is_told_as_the_loss_is(
    blobs, start, points
):
    """Nothing computes a loss with it; the average would be refused without naming the agent."""
    blobs.loss = lambda output, target: output.mean() * 1e30
    message = r"agent pi-1, round 1, step 1 of 1: parameter 0\.\w+ is not finite; begin a new run"
    with pytest.raises(TaskError, match=message):
        train(blobs, start, points(20), lr=1e30, batch_size=20)


def test_the_start_must_be_of_this_model(blobs, start, points):
    """The message names a tensor that differs."""
    start["0.weight"] = torch.zeros(3, 3)
    with pytest.raises(CheckpointError, match=r"another model.*0.weight"):
        train(blobs, start, points(20))


def test_a_collate_of_its_own_gets_single_examples(blobs, start, points):
    """Through torch's loader the same batches give the same model."""
    plain = train(blobs, start, points(50))
    seen = []

    class Collating(type(blobs)):
        def collate(self, examples):
            seen.append(len(examples))
            return super().collate(examples)

    assert equal(train(Collating(), start, points(50)).state, plain.state)
    assert seen == [8, 8, 8, 8, 8, 8, 2]


def test_loader_processes_change_nothing(blobs, start, points):
    """`workers` of a task is only about speed."""
    plain = train(blobs, start, points(50))
    blobs.workers = 1
    assert equal(train(blobs, start, points(50)).state, plain.state)


def test_a_long_round_begins_at_once(blobs, start, points):
    """The owner of the device may stop it at any step, however many are asked for."""

    class EnoughError(Exception):
        pass

    def on_step(step: int, steps: int, loss: float) -> None:
        assert steps == 3 * 10**9
        if step == 3:
            raise EnoughError

    with pytest.raises(EnoughError):
        train_locally(
            blobs,
            start,
            points(50),
            LocalTraining(epochs=10**9, batch_size=16),
            Seeding(1, "pi-01", version=0, sequence=1, position=0),
            on_step=on_step,
            limits=Limits(),
        )
