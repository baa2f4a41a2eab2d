import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flctl.errors import SettingsError
from flctl.learning import loader
from flctl.learning.examples import Examples
from flctl.learning.loader import BatchPlan, in_order
from flctl.settings import LocalTraining


def plan(examples: int, agent: str = "pi-1", seed: int = 1, **training: object) -> BatchPlan:
    return BatchPlan(examples, LocalTraining(**training), seed=seed, agent=agent)


@settings(deadline=None)
@given(st.integers(1, 50), st.integers(1, 20), st.integers(0, 60))
def test_a_batch_depends_on_its_position_alone(examples, size, position):
    """Asked directly or after all those before it, batch n holds the same examples."""
    direct = plan(examples, batch_size=size).batch(position)
    walked = plan(examples, batch_size=size)
    for at in range(position):
        walked.batch(at)
    assert np.array_equal(walked.batch(position), direct)


@settings(deadline=None)
@given(st.integers(1, 50), st.integers(1, 20), st.integers(0, 3))
def test_an_epoch_holds_each_example_once(examples, size, epoch):
    """The batches of any epoch are a permutation of the data."""
    batches = plan(examples, batch_size=size)
    first = epoch * batches.per_epoch
    rows = [batches.batch(first + at) for at in range(batches.per_epoch)]
    assert sorted(np.concatenate(rows)) == list(range(examples))


def test_epochs_and_agents_are_shuffled_differently():
    """Neither the next epoch nor another agent repeats an order."""
    ours = plan(64, batch_size=64)
    assert not np.array_equal(ours.batch(0), ours.batch(1))
    assert not np.array_equal(ours.batch(0), plan(64, agent="pi-2", batch_size=64).batch(0))


def test_without_shuffle_the_order_is_that_of_the_data():
    """Also in later epochs."""
    assert list(plan(6, batch_size=4, shuffle=False).batch(3)) == [4, 5]


def test_drop_last_leaves_out_the_short_batch():
    """Ten examples in batches of four are two batches, or three with the rest."""
    assert plan(10, batch_size=4, drop_last=True).per_epoch == 2
    assert plan(10, batch_size=4).per_epoch == 3


def test_drop_last_that_leaves_nothing_is_an_error():
    """The message names the agent and what to lower."""
    with pytest.raises(SettingsError, match=r"pi-1 no batch.*are 3, .*lower batch_size"):
        plan(3, batch_size=4, drop_last=True)


@pytest.mark.parametrize(("limit", "steps"), [(None, 6), (4, 4), (100, 6)])
def test_a_round_ends_at_its_epochs_or_at_its_batches(limit, steps):
    """Whichever comes first."""
    training = LocalTraining(batch_size=4, epochs=2, federate_after_n_batches=limit)
    assert BatchPlan(10, training, seed=1, agent="pi-1").steps(training) == steps


def test_evaluation_sees_everything_in_order(blobs, points):
    """The last batch may be shorter."""
    examples = points(10)
    batches = list(in_order(blobs, examples, 4))
    assert [len(y) for _, y in batches] == [4, 4, 2]
    assert [int(v) for _, y in batches for v in y] == examples.y.tolist()


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_batches_that_are_copied_out_together_are_those_one_by_one(
    blobs, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And changing one in place changes neither the data nor another one."""
    monkeypatch.setattr(loader, "TOGETHER_BYTES", 70)
    x = np.arange(40 * 6).reshape(40, 6).astype(kind)
    examples = Examples(x, np.arange(40) % 3, classes=3)
    drawn = ([3, 1, 2], [9], [0, 39, 5, 4], [3, 3], [7] * 20, [8])
    batches = [np.array(each, np.int64) for each in drawn]
    found = []
    for inputs, targets in loader.load(blobs, examples, batches):
        found.append((inputs.tolist(), targets.tolist()))
        inputs.zero_()
    assert found == [(x[rows].tolist(), (rows % 3).tolist()) for rows in batches]
    assert examples.array.sum() == x.sum() > 0
