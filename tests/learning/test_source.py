from dataclasses import dataclass, replace

import numpy as np
import pytest

from flctl.errors import DataError
from flctl.learning import source
from flctl.learning.task import load_task
from flctl.settings import Partition


@dataclass(frozen=True)
class Shard:
    index: int
    of: int = 3
    partition: Partition = "iid"
    alpha: float = 0.5
    seed: int = 1


@dataclass(frozen=True)
class Source:
    shard: Shard | None = None
    path: str | None = None
    trained_on: bool = False
    beside: str | None = None
    all: Shard | None = None


@pytest.mark.parametrize("kind", ["iid", "label", "dirichlet", "size", "record"])
def test_the_shards_are_the_whole(blobs, kind):
    """For training, validation and held out alike, each example belongs to one shard."""
    shares = [source.own_parts(blobs, Source(Shard(at, partition=kind))) for at in range(3)]
    assert all(len(training) > len(validation) > 0 for training, validation in shares)
    held = [source.held_out_examples(blobs, Source(Shard(at, partition=kind))) for at in range(3)]
    for parts, whole in (
        ([part for share in shares for part in share], blobs.train_data(None)),
        (held, blobs.held_out(None)),
    ):
        rows = np.concatenate([part.x.numpy() for part in parts])
        assert sorted(map(tuple, rows)) == sorted(map(tuple, whole.x.numpy()))


@pytest.mark.parametrize("kind", ["iid", "label", "dirichlet", "size", "record"])
@pytest.mark.parametrize("brings", [False, True])
def test_all_are_dealt_what_each_would_be(blobs, monkeypatch, kind, brings):
    """Each part is copied when it is asked for; what cannot be read of it stays known."""
    if brings:
        monkeypatch.setattr(blobs, "validation", blobs.held_out)
    owners, shard = {at: f"pi-{at}" for at in range(5)}, Shard(0, of=5, partition=kind)
    training, validation = source.deal(blobs, blobs.train_data(None), None, shard, owners)
    held = source.deal_held_out(blobs, None, shard, owners)
    for at, name in owners.items():
        mine = Source(replace(shard, index=at))
        parts = (*source.own_parts(blobs, mine), source.held_out_examples(blobs, mine))
        for dealt, part in zip((training, validation, held), parts, strict=True):
            found = dealt.get(name)
            assert (name in dealt) == (part is not None)
            assert found is None or found.digest == part.digest
    assert training["pi-0"] is not training["pi-0"]
    training["pi-0"].broken[1] = "cut short"
    assert (training["pi-0"].broken, training["pi-1"].broken) == ({1: "cut short"}, {})


def test_by_record_an_agent_is_tested_on_its_own_records(blobs):
    """What it holds out is of those it trains on."""
    for at in range(3):
        mine = Source(Shard(at, partition="record"))
        trained = set(source.training_examples(blobs, mine).group)
        assert set(source.held_out_examples(blobs, mine).group) <= trained


def test_without_a_shard_it_is_all(blobs):
    """An agent that owns its data has them to itself."""
    training, validation = source.own_parts(blobs, Source())
    assert (len(training), len(validation)) == (83, 7)
    assert len(source.held_out_examples(blobs, Source())) == 31
    assert list(source.evaluation_parts(blobs, Source())) == ["test"]


def test_a_shard_that_does_not_exist_is_an_error(blobs):
    """Parts are counted from 0."""
    with pytest.raises(DataError, match="shard 3 of 3"):
        source.training_examples(blobs, Source(Shard(3)))


def test_too_many_agents_are_an_error_that_names_the_data(blobs):
    """And says how many records there are, to the one that gets none."""
    with pytest.raises(DataError, match="points: 8 agents, but only 7 records; use"):
        source.training_examples(blobs, Source(replace(Shard(7), of=8, partition="record")))
    source.training_examples(blobs, Source(replace(Shard(6), of=8, partition="record")))


def test_what_agents_train_on_is_not_what_the_model_is_tested_on(tmp_path):
    """Data without splits: all of them test a model, unless agents train on them."""
    rng = np.random.default_rng(1)
    path = tmp_path / "beats.npz"
    np.savez(path, X=rng.integers(-300, 300, (50, 187)).astype(np.int16), y=np.arange(50) % 5)
    ecg = load_task("ecg")
    (whole,) = source.evaluation_parts(ecg, Source(path=str(path))).items()
    (dealt,) = source.evaluation_parts(ecg, Source(path=str(path), trained_on=True)).items()
    assert (whole[0], len(whole[1])) == ("test", 50)
    assert dealt[0] == "held out" and len(dealt[1]) == 50 - len(ecg.train_data(path)) > 0
