"""Training, evaluating, offering updates, and everything that can go wrong with them."""

import os
from pathlib import Path

import pytest
from agent_rig import MODEL, SUMS, Rig, digest, evaluate, key, train

from flctl.core.randomness import Seeding
from flctl.transport.credit import CLOSING_OFFSET
from flctl.wire.messages import (
    CHUNK_BYTES,
    Accepted,
    BlobGone,
    Cancel,
    Chunk,
    Discarded,
    Evaluated,
    Failed,
    Fetch,
    Hello,
    Progress,
    UpdateReady,
    Welcome,
)
from flctl.worker.jobs import Described, EvaluateJob, JobFailed, Stepped, TrainJob


def reconnect(rig: Rig) -> None:
    """The connection breaks and comes back; the coordinator knows the session."""
    rig.link.reconnect()
    rig.step()
    assert rig.take(Hello)
    rig.say(Welcome(name="pi-01", version="1", heartbeat_s=5.0))


def state_of(rig: Rig) -> str:
    return rig.supervisor.state


def test_an_update_from_order_to_acceptance(ready: Rig) -> None:
    """Train, model fetched, worker runs on it, offer, chunks on request, accepted, forgotten."""
    ready.begin(train(seed=5, position=12))
    assert ready.supervisor.work.doing == "training"
    job = ready.worker.jobs[-1]
    assert isinstance(job, TrainJob)
    assert job.seeding == Seeding(5, "pi-01", version=0, sequence=1, position=12)
    assert ready.worker.models[-1] == MODEL
    update = os.urandom(CHUNK_BYTES + 10)
    ready.worker.train(update)
    ready.step()
    (offer,) = ready.take(UpdateReady)
    assert (offer.key, offer.update.blob, offer.update.size) == (key(), digest(update), len(update))
    assert (offer.claim.examples, offer.claim.batches) == (8, 2)
    assert state_of(ready) == "offering"
    ready.say(Fetch(blob=offer.update.blob, offset=0, length=CHUNK_BYTES))
    ready.say(Fetch(blob=offer.update.blob, offset=CHUNK_BYTES, length=10))
    ready.say(Fetch(blob=offer.update.blob, offset=CLOSING_OFFSET, length=1))
    assert len(ready.take(Chunk)) == 2
    assert b"".join(data for _, data in sorted(ready.payloads.items())) == update
    ready.say(Accepted(key=key()))
    assert state_of(ready) == "ready"
    ready.say(Fetch(blob=offer.update.blob, offset=0, length=1))
    assert [gone.blob for gone in ready.take(BlobGone)] == [offer.update.blob]
    assert ready.store.memory_bytes == len(MODEL), "only the model is kept"


def test_the_window_of_a_download_is_eight_chunks(ready: Rig) -> None:
    """Of a large model eight chunks are asked for, and more as they come."""
    big = bytes(12 * CHUNK_BYTES)
    ready.say(train(model=big))
    ready.step()
    assert len(ready.take(Fetch)) == 8
    ready.say(Chunk(blob=digest(big), offset=0), big[:CHUNK_BYTES])
    assert len(ready.take(Fetch)) == 1


def test_a_download_goes_on_after_a_reconnection(ready: Rig) -> None:
    """What has arrived is not asked for again."""
    ready.say(train())
    ready.step()
    first = ready.take(Fetch)[0]
    ready.say(Chunk(blob=first.blob, offset=0), MODEL[:CHUNK_BYTES])
    reconnect(ready)
    again = ready.take(Fetch)
    assert again and all(fetch.offset > 0 for fetch in again)
    ready.heard.extend(again)
    ready.serve()
    ready.step()
    assert ready.worker.models[-1] == MODEL


def test_lost_chunks_are_asked_for_again(ready: Rig) -> None:
    """Nothing for ten seconds: the same requests once more."""
    ready.say(train())
    ready.step()
    first = ready.take(Fetch)
    ready.step(11.0)
    assert ready.take(Fetch) == first


def test_the_same_order_again_changes_nothing(ready: Rig) -> None:
    """While it is trained it goes on; when it is finished it is offered at once."""
    ready.begin(train())
    ready.say(train())
    assert ready.worker.cancelled == 0
    ready.worker.train()
    ready.step()
    ready.take(UpdateReady)
    ready.say(train())
    assert len(ready.take(UpdateReady)) == 1
    assert sum(isinstance(job, TrainJob) for job in ready.worker.jobs) == 1


def test_an_order_for_another_model_supersedes(ready: Rig) -> None:
    """The worker is stopped in the middle, and the new round is trained."""
    ready.begin(train(1))
    other = bytes(1000)
    ready.begin(train(2, model=other), other)
    assert ready.worker.cancelled == 1
    job = ready.worker.jobs[-1]
    assert isinstance(job, TrainJob) and job.seeding.round == 2 and ready.worker.models[-1] == other


def test_evaluation_and_training_of_one_model_come_one_after_the_other(ready: Rig) -> None:
    """The next round starts from the model that is evaluated: neither replaces the other."""
    ready.begin(evaluate(1))
    ready.say(train(2))
    ready.worker.score(test=SUMS)
    ready.step()
    assert [e.sums for e in ready.take(Evaluated)] == [SUMS]
    ready.step()
    assert isinstance(ready.worker.jobs[-1], TrainJob) and ready.worker.cancelled == 0


def test_two_models_are_kept(ready: Rig) -> None:
    """Those of this round and the last; the third pushes the first out."""
    models = [bytes([n]) * 1000 for n in range(3)]
    for number, model in enumerate(models):
        ready.begin(train(number, model=model), model)
        ready.worker.train(b"u")
        ready.step()
        ready.say(Accepted(key=key(number, model=model)))
    assert ready.store.memory_bytes == 2000


def test_metrics_are_sent_again_when_asked_again(ready: Rig) -> None:
    """An Evaluate for the same model and round is answered without work."""
    ready.begin(evaluate())
    job = ready.worker.jobs[-1]
    assert isinstance(job, EvaluateJob) and job.side == "agent" and job.batch_size == 100
    assert ready.supervisor.state == "evaluating"
    ready.worker.score(test=SUMS)
    ready.step()
    assert len(ready.take(Evaluated)) == 1
    ready.say(evaluate())
    assert len(ready.take(Evaluated)) == 1 and ready.worker.jobs[-1] is job


def test_no_held_out_data_is_a_failure_in_words(ready: Rig) -> None:
    """Failed of kind "data"."""
    ready.begin(evaluate())
    ready.worker.score()
    ready.step()
    (failed,) = ready.take(Failed)
    assert (failed.what, failed.kind, failed.retrying) == ("evaluate", "data", False)


def test_an_offer_is_repeated_until_it_is_answered(ready: Rig) -> None:
    """Each 30 s, after each welcome, and for as long as the coordinator is away."""
    ready.begin(train())
    ready.worker.train()
    ready.step()
    assert len(ready.take(UpdateReady)) == 1
    ready.step(29.0)
    assert not ready.take(UpdateReady)
    ready.step(1.5)
    assert len(ready.take(UpdateReady)) == 1
    ready.hub.close()
    for _ in range(48):
        ready.step(3600.0)
    ready.hub = ready.network.hub()
    ready.step()
    ready.take(Hello)
    ready.say(Welcome(name="pi-01", version="1", heartbeat_s=5.0))
    assert len(ready.take(UpdateReady)) == 1
    ready.say(Discarded(key=key(), reason="the round is over"))
    ready.step(31.0)
    assert not ready.take(UpdateReady) and ready.supervisor.state == "ready"


def test_training_that_ends_while_the_coordinator_is_away_is_offered_later(ready: Rig) -> None:
    """The connection breaks during training: the outcome waits."""
    ready.begin(train())
    ready.link.cut()
    ready.worker.train()
    ready.step(100.0)
    ready.link.mend()
    ready.step()
    ready.take(Hello)
    ready.say(Welcome(name="pi-01", version="1", heartbeat_s=5.0))
    assert len(ready.take(UpdateReady)) == 1


def test_progress_is_told_twice_a_second_and_at_the_end(ready: Rig) -> None:
    """Of 40 steps in 4 s about eight are told, and the last."""
    ready.begin(train())
    for step in range(1, 41):
        ready.worker.end(Stepped(step=step, steps=40, loss=1.0))
        ready.step(0.1)
    told = [progress.step for progress in ready.take(Progress)]
    assert told[-1] == 40 and 7 <= len(told) <= 10


def test_a_dead_worker_is_reported_at_once_and_started_again(ready: Rig) -> None:
    """Twice with retrying, the third time for good."""
    ready.begin(train())
    for retrying in (True, True, False):
        ready.worker.die()
        ready.step()
        (failed,) = ready.take(Failed)
        assert (failed.kind, failed.retrying) == ("worker died", retrying)
        assert "signal 9" in failed.message
        ready.step()
    assert sum(isinstance(job, TrainJob) for job in ready.worker.jobs) == 3
    assert ready.supervisor.state == "ready"
    assert (ready.supervisor.work.error or "").startswith("worker died")
    ready.say(train())
    ready.step()
    assert sum(isinstance(job, TrainJob) for job in ready.worker.jobs) == 4


def test_out_of_memory_is_tried_again_with_its_kind(ready: Rig) -> None:
    """Less may run beside it the next time."""
    ready.begin(train())
    ready.worker.end(JobFailed(kind="out of memory", message="killed"))
    ready.step()
    assert [(f.kind, f.retrying) for f in ready.take(Failed)] == [("out of memory", True)]


@pytest.mark.parametrize(
    ("kind", "told"), [("data", "data"), ("task", "task"), ("usage", "task"), ("error", "error")]
)
def test_an_error_of_the_task_is_not_tried_again(ready: Rig, kind: str, told: str) -> None:
    """It would only happen again; wrong settings are the task's."""
    ready.begin(train())
    ready.worker.end(JobFailed(kind=kind, message="beats.csv, line 7: not a number"))  # type: ignore[arg-type]
    ready.step()
    (failed,) = ready.take(Failed)
    assert (failed.kind, failed.retrying) == (told, False)
    assert failed.message == "beats.csv, line 7: not a number"


def test_failures_wait_for_the_coordinator(ready: Rig) -> None:
    """What happened while it was away is told after the next welcome."""
    ready.begin(train())
    ready.link.cut()
    ready.worker.end(JobFailed(kind="data", message="gone"))
    ready.step(1.0)
    ready.link.mend()
    ready.step()
    ready.take(Hello)
    assert not ready.take(Failed)
    ready.say(Welcome(name="pi-01", version="1", heartbeat_s=5.0))
    assert len(ready.take(Failed)) == 1


def test_a_model_with_a_wrong_digest_is_fetched_anew_once(ready: Rig) -> None:
    """Then it is a failure for good; it never reaches the worker."""
    wrong = bytes(len(MODEL))
    ready.begin(train(), wrong)
    ready.serve(wrong)
    told = [(f.kind, f.retrying) for f in ready.take(Failed)]
    assert told == [("model", True), ("model", False)]
    assert not any(isinstance(job, TrainJob) for job in ready.worker.jobs)
    assert ready.store.memory_bytes == 0


def test_a_model_that_is_gone_ends_the_order(ready: Rig) -> None:
    """BlobGone: the round is over for this agent."""
    ready.say(train())
    ready.step()
    ready.say(BlobGone(blob=digest(MODEL)))
    assert [(f.kind, f.retrying) for f in ready.take(Failed)] == [("model", False)]
    assert ready.supervisor.state == "ready"


def test_a_chunk_that_was_not_asked_for_is_ignored(
    ready: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    """One line in the log; the download goes on."""
    ready.say(train())
    ready.step()
    ready.say(Chunk(blob=digest(MODEL), offset=7), b"x")
    assert "was not asked for" in caplog.text
    ready.serve()
    ready.step()
    assert ready.worker.models[-1] == MODEL


def test_only_enabled_tasks_are_run(ready: Rig) -> None:
    """A coordinator cannot make a Pi import what its owner has not enabled."""
    ready.say(train(task="os:system"))
    ready.step()
    (failed,) = ready.take(Failed)
    assert failed.kind == "task" and "not enabled on this agent" in failed.message
    assert not ready.take(Fetch)


def test_only_described_data_sets_are_used(ready: Rig) -> None:
    """The message names those that there are."""
    ready.say(train(dataset="other"))
    ready.step()
    (failed,) = ready.take(Failed)
    assert failed.kind == "data" and "there are: default" in failed.message


def test_an_agent_that_evaluates_does_not_train(tmp_path: Path) -> None:
    """Its role forbids it, whatever it is asked."""
    rig = Rig(tmp_path, role="evaluate")
    rig.welcome()
    rig.say(train())
    rig.step()
    assert "only evaluates" in rig.take(Failed)[0].message
    rig.begin(evaluate())
    assert isinstance(rig.worker.jobs[-1], EvaluateJob)
    rig.close()


def test_cancel_drops_all_work_of_the_run(ready: Rig) -> None:
    """Training stops, finished updates are forgotten; another run's stay."""
    ready.begin(train(1, run="run-b"))
    ready.worker.train(b"b")
    ready.step()
    ready.begin(train(1))
    ready.worker.train(b"a")
    ready.step()
    ready.begin(train(2))
    ready.take(UpdateReady)
    ready.say(Cancel(run="run-a"))
    assert ready.worker.cancelled == 1 and ready.supervisor.state == "offering"
    ready.step(31.0)
    assert [offer.key.run for offer in ready.take(UpdateReady)] == ["run-b"]


def test_at_most_four_updates_wait(ready: Rig) -> None:
    """An agent whose offers nobody answers does not fill its memory."""
    for number in range(6):
        ready.begin(train(number))
        ready.worker.train(b"u" * 100)
        ready.step()
    ready.take(UpdateReady)
    ready.step(31.0)
    assert [offer.key.round for offer in ready.take(UpdateReady)] == [2, 3, 4, 5]


def test_chunks_wait_for_room_in_the_queue(ready: Rig) -> None:
    """A full queue delays an answer and does not lose it."""
    ready.begin(train())
    ready.worker.train(b"update")
    ready.step()
    (offer,) = ready.take(UpdateReady)
    send, ready.link.send = ready.link.send, lambda frames: False  # type: ignore[method-assign]
    ready.say(Fetch(blob=offer.update.blob, offset=0, length=6))
    assert ready.step() < 0.1, "it does not wait long to try again"
    ready.link.send = send  # type: ignore[method-assign]
    ready.step()
    assert len(ready.take(Chunk)) == 1 and ready.payloads[0] == b"update"


def test_an_idle_worker_gives_its_memory_back(ready: Rig) -> None:
    """After a minute without work the process is stopped, and started by the next order."""
    ready.step(59.0)
    assert ready.worker.stopped == 0
    ready.step(2.0)
    assert ready.worker.stopped == 1
    ready.begin(train())
    assert isinstance(ready.worker.jobs[-1], TrainJob)


def test_an_order_before_the_data_are_known_waits(tmp_path: Path) -> None:
    """It is begun when the worker has looked."""
    rig = Rig(tmp_path, found=None)
    rig.step()
    rig.say(Welcome(name="pi-01", version="1", heartbeat_s=5.0))
    rig.say(train())
    assert not rig.take(Failed) and len(rig.worker.jobs) == 1
    assert isinstance(Rig.found, Described)
    rig.worker.end(Rig.found)
    rig.step()
    rig.step()
    rig.serve()
    rig.step()
    assert isinstance(rig.worker.jobs[-1], TrainJob)
    rig.close()
