import pytest

from flctl.learning.baseline import central, local_only
from flctl.settings import RunSettings


def test_central_training_is_better_than_training_alone(blobs, points):
    """Each from little data of its own, against all of them in one place."""
    shards = {f"pi-{at}": points(9, seed=at + 10) for at in range(4)}
    settings = RunSettings(task="blobs", rounds=6, lr=0.2, batch_size=4)
    test = points(300, seed=9)
    together = central(blobs, list(shards.values()), settings, test)
    alone = local_only(blobs, shards, settings, test, every=3)
    assert list(together) == list(range(1, 7))
    assert list(alone) == [3, 6]
    assert together[6].values["accuracy"] > alone[6].values["accuracy"]
    assert alone[6].examples == 300


def test_central_training_takes_as_many_batches_as_all_agents(blobs, points, monkeypatch):
    """With a limit of two batches for each of three agents it takes six."""
    from flctl.learning import baseline

    taken = []
    train = baseline.train_locally
    monkeypatch.setattr(
        baseline, "train_locally", lambda *a, **k: taken.append(train(*a, **k)) or taken[-1]
    )
    settings = RunSettings(task="blobs", rounds=1, batch_size=4, federate_after_n_batches=2)
    central(blobs, [points(30, seed=at) for at in range(3)], settings, points(9))
    assert [result.batches for result in taken] == [6]


def test_training_alone_is_averaged_over_agents(blobs, points):
    """The mean of two agents lies between them."""
    settings = RunSettings(task="blobs", rounds=1)
    shards = {"pi-1": points(60, seed=1), "pi-2": points(12, seed=2)}
    curves = [local_only(blobs, {n: s}, settings, points(99, seed=3)) for n, s in shards.items()]
    both = local_only(blobs, shards, settings, points(99, seed=3))
    assert both[1].values["accuracy"] == pytest.approx(
        sum(c[1].values["accuracy"] for c in curves) / 2
    )
