"""An agent fetches the next round's model before it is ordered to train from it."""

import os

import pytest
from agent_rig import MODEL, Rig, digest, evaluate, key, train

from flctl.wire.messages import (
    Accepted,
    BlobGone,
    Cancel,
    Chunk,
    Coded,
    Failed,
    Fetch,
    NextModel,
    UpdateReady,
)
from flctl.worker.jobs import TrainJob

NEXT = os.urandom(len(MODEL))
OTHER = os.urandom(len(MODEL))


def ahead(model: bytes = NEXT, run: str = "run-a", **changes: object) -> NextModel:
    return NextModel(run=run, model=Coded(blob=digest(model), size=len(model), **changes))  # type: ignore[arg-type]


def jobs(rig: Rig) -> list[int]:
    """Rounds that its worker was given."""
    return [job.seeding.round for job in rig.worker.jobs if isinstance(job, TrainJob)]


@pytest.fixture
def trained(ready: Rig) -> Rig:
    """An agent whose update of the first round was accepted."""
    ready.begin(train(1))
    ready.worker.train()
    ready.step()
    assert ready.take(UpdateReady)
    ready.say(Accepted(key=key(1)))
    return ready


def test_a_model_that_is_here_when_its_order_comes_is_not_fetched_again(trained: Rig):
    trained.say(ahead())
    trained.serve(NEXT)
    assert jobs(trained) == [1] and trained.supervisor.state == "ready"
    trained.say(train(2, model=NEXT))
    trained.step()
    assert jobs(trained) == [1, 2] and trained.worker.models[-1] == NEXT
    assert not [f for f in trained.take(Fetch) if f.blob == digest(NEXT)]


def test_an_order_in_the_midst_of_it_goes_on_where_it_is(trained: Rig):
    trained.say(ahead())
    first, *rest = trained.take(Fetch)
    trained.say(Chunk(blob=first.blob, offset=0), NEXT[: first.length])
    trained.say(train(2, model=NEXT))
    trained.step()
    trained.heard.extend(rest)
    served = trained.serve(NEXT)
    trained.step()
    assert all(fetch.offset > 0 for fetch in served)
    assert jobs(trained) == [1, 2] and trained.worker.models[-1] == NEXT


@pytest.mark.parametrize(
    "message",
    [
        ahead(run="run-b"),
        ahead(NEXT + b"more"),
        ahead(codec="int8"),
        ahead(base=digest(MODEL)),
        ahead(MODEL),
    ],
    ids=["another run", "another size", "coded", "of a base", "it is here"],
)
def test_only_a_model_like_the_last_is_fetched_ahead(trained: Rig, message: NextModel):
    """What an owner allows is asked when an order comes; until then nothing new is believed."""
    trained.say(message)
    trained.step()
    assert not trained.take(Fetch)


def test_an_agent_that_has_not_worked_fetches_nothing(ready: Rig):
    ready.say(ahead())
    ready.step()
    assert not ready.take(Fetch)


def test_an_order_comes_first(trained: Rig):
    """One that is being carried out, and one for another model that comes later."""
    trained.begin(evaluate(1))
    trained.say(ahead())
    assert not trained.take(Fetch)
    trained.say(Cancel(run="run-a"))
    trained.say(ahead())
    assert trained.take(Fetch)
    trained.begin(train(2, model=OTHER), OTHER)
    assert trained.worker.models[-1] == OTHER
    assert trained.store.memory_bytes == 2 * len(MODEL)


def test_a_cancelled_run_ends_the_fetching(trained: Rig):
    trained.say(ahead())
    assert trained.take(Fetch)
    trained.say(Cancel(run="run-a"))
    trained.step(11.0)
    assert not trained.take(Fetch) and trained.store.memory_bytes == len(MODEL)


def test_without_room_in_memory_it_waits_for_the_order(trained: Rig):
    """The card is not written to for what may never be used."""
    trained.store.memory_limit_bytes = len(MODEL) + 1
    trained.say(ahead())
    assert not trained.take(Fetch)
    trained.begin(train(2, model=NEXT), NEXT)
    assert trained.worker.models[-1] == NEXT


@pytest.mark.parametrize("gone", [True, False], ids=["gone", "damaged"])
def test_what_goes_wrong_with_it_is_no_failure(trained: Rig, gone: bool):
    trained.say(ahead())
    if gone:
        trained.say(BlobGone(blob=digest(NEXT)))
    else:
        trained.serve(OTHER)
    trained.step()
    assert not trained.take(Failed) and trained.store.memory_bytes == len(MODEL)
    trained.begin(train(2, model=NEXT), NEXT)
    assert jobs(trained) == [1, 2]
