"""What the owner of a device allows, checked by its agent when an order comes."""

from pathlib import Path

import pytest
from agent_rig import MODEL, SUMS, Rig, evaluate, key, train

from flctl.agent.config import Choices
from flctl.agent.main import enabled_tasks
from flctl.errors import UsageError
from flctl.settings import LocalTraining
from flctl.wire.messages import (
    Accepted,
    Evaluated,
    Failed,
    Fetch,
    Hello,
    Limits,
    UpdateReady,
    Welcome,
)
from flctl.worker.jobs import EvaluateJob, JobFailed, TrainJob

MIB = 2**20


def refused(rig: Rig) -> Failed:
    (failed,) = rig.take(Failed)
    assert failed.kind == "owner" and not failed.retrying
    return failed


def test_one_batch_of_one_is_refused_by_default(ready: Rig, caplog: pytest.LogCaptureFixture):
    """With one line, before the model is fetched, and nothing comes to the worker."""
    jobs = len(ready.worker.jobs)
    ready.say(train(training=LocalTraining(batch_size=1, federate_after_n_batches=1)))
    ready.step()
    failed = refused(ready)
    assert failed.message == "batches of 1 are below --min-batch-size 8"
    assert not ready.take(Fetch) and len(ready.worker.jobs) == jobs
    lines = [r.message for r in caplog.records if "min-batch-size" in r.message]
    assert lines == [
        "round=1 agent=pi-01 run=run-a train failed kind=owner: "
        "batches of 1 are below --min-batch-size 8"
    ]
    assert ready.supervisor.work.error == "owner: batches of 1 are below --min-batch-size 8"
    ready.begin(train(training=LocalTraining(batch_size=16, federate_after_n_batches=1)))
    assert isinstance(ready.worker.jobs[-1], TrainJob)


@pytest.mark.parametrize(
    ("limits", "asked", "why"),
    [
        (
            Limits(),
            {"batch_size": 8, "federate_after_n_batches": 1},
            "federate_after_n_batches=1 of batch_size=8 is below --min-examples 16",
        ),
        (
            Limits(min_batches=5),
            {"federate_after_n_batches": 4},
            "federate_after_n_batches=4 is below --min-batches 5",
        ),
        (Limits(min_batch_size=64), {}, "batches of 32 are below --min-batch-size 64"),
    ],
)
def test_what_no_data_can_mend_is_refused_at_once(
    tmp_path: Path, limits: Limits, asked: dict[str, int], why: str
):
    """The rest is for the worker, which gets the limits with its job."""
    rig = Rig(tmp_path, limits=limits)
    rig.welcome()
    rig.say(train(training=LocalTraining(**asked)))
    rig.step()
    assert refused(rig).message == why
    rig.close()


def test_the_worker_gets_the_limits(ready: Rig):
    """It alone knows how many examples a batch really has; what it refuses is the owner's word."""
    ready.begin(train())
    job = ready.worker.jobs[-1]
    assert isinstance(job, TrainJob) and job.limits == Limits()
    ready.worker.end(JobFailed(kind="owner", message="a batch of 3 examples is below …"))
    ready.step()
    assert refused(ready).message.startswith("a batch of 3")
    ready.begin(evaluate())
    job = ready.worker.jobs[-1]
    assert isinstance(job, EvaluateJob) and job.limits == Limits()


def test_a_model_larger_than_allowed_is_not_fetched(tmp_path: Path):
    """Neither for training nor for evaluation: a coordinator cannot fill the card."""
    rig = Rig(tmp_path, limits=Limits(max_model_mb=1))
    rig.welcome()
    for order in (train(model_size=MIB + 1), evaluate(model_size=MIB + 1)):
        rig.say(order)
        rig.step()
        assert refused(rig).message == "a model of 2 MiB is above --max-model-mb 1"
    assert not rig.take(Fetch)
    rig.begin(train())
    assert rig.worker.models[-1] == MODEL
    rig.close()


def let_pass(rig: Rig, seconds: float) -> None:
    """With heartbeats and their echoes."""
    steps = int(seconds // 20) + 1
    for _ in range(steps):
        rig.step(seconds / steps)


def do_round(rig: Rig, number: int) -> None:
    rig.begin(train(number))
    if isinstance(rig.worker.jobs[-1], TrainJob) and rig.worker.busy:
        rig.worker.train()
        rig.step()
        assert rig.take(UpdateReady)
        rig.say(Accepted(key=key(number)))


def test_rounds_an_hour_are_counted_by_the_clock_that_is_passed_in(tmp_path: Path):
    """The third within an hour is refused, and told when it is allowed; evaluations are counted
    for themselves."""
    rig = Rig(tmp_path, limits=Limits(max_rounds_per_hour=2))
    rig.welcome()
    do_round(rig, 1)
    let_pass(rig, 600.0)
    do_round(rig, 2)
    do_round(rig, 3)
    failed = refused(rig)
    assert failed.again_s == pytest.approx(3000.0)
    assert (
        "2 rounds were started within an hour, as many as --max-rounds-per-hour" in failed.message
    )
    rig.begin(evaluate(2))
    rig.worker.score(test=SUMS)
    rig.step()
    assert rig.take(Evaluated)
    let_pass(rig, failed.again_s)
    do_round(rig, 4)
    assert not rig.take(Failed)
    rig.close()


def test_a_worker_that_died_does_not_use_up_another_round(tmp_path: Path):
    """It is the same one."""
    rig = Rig(tmp_path, limits=Limits(max_rounds_per_hour=1))
    rig.welcome()
    rig.begin(train())
    rig.worker.die()
    rig.step()
    (failed,) = rig.take(Failed)
    assert failed.retrying
    rig.step()
    rig.worker.train()
    rig.step()
    assert rig.take(UpdateReady)
    rig.close()


def test_a_restart_does_not_begin_to_count_at_nought(tmp_path: Path):
    """A coordinator can end an agent by refusing its token; its container starts again."""
    rig = Rig(tmp_path, limits=Limits(max_rounds_per_hour=1))
    rig.welcome()
    do_round(rig, 1)
    rig.close()
    again = Rig(tmp_path, limits=Limits(max_rounds_per_hour=1))
    again.welcome()
    do_round(again, 2)
    assert refused(again).again_s is not None
    again.close()


def test_no_limit_of_rounds_is_nought(tmp_path: Path):
    """As local agents have it."""
    rig = Rig(tmp_path, limits=Limits(max_rounds_per_hour=0))
    rig.welcome()
    for number in range(5):
        do_round(rig, number)
    assert not rig.take(Failed)
    rig.close()


def test_only_allowed_tasks_can_be_asked_for(tmp_path: Path):
    """Of those that are enabled."""
    rig = Rig(tmp_path, allow_tasks=("mnist",))
    rig.welcome()
    rig.say(train())
    rig.step()
    assert refused(rig).message == "task 'ecg' is not among --allow-task mnist"
    rig.close()


def test_tasks_that_are_not_allowed_are_not_declared():
    """So that a run does not count on them; a name that is not enabled is a mistake."""
    assert list(enabled_tasks((), ("ecg",))) == ["ecg"]
    assert list(enabled_tasks(("ecg", "mnist"), ("mnist",))) == ["mnist"]
    with pytest.raises(UsageError, match="--allow-task mnist: is not among --task ecg"):
        enabled_tasks(("ecg",), ("mnist",))


def test_the_hello_says_what_the_owner_allows(tmp_path: Path):
    """For `flctl status --wide`; and for `flctl discover` which image it runs, and a digest of the
    other settings that a fleet has in common."""
    rig = Rig(tmp_path, limits=Limits(min_examples=500), image="a" * 64, tasks=("ecg",))
    rig.step()
    (hello,) = rig.take(Hello)
    assert hello.limits == Limits(min_examples=500)
    assert (hello.image, hello.settings) == ("a" * 64, Choices(tasks=("ecg",)).digest)
    rig.say(Welcome(name="pi-01", version="1", heartbeat_s=5.0))
    rig.close()


def test_weights_that_were_brought_are_refused_unless_the_owner_allows_them(tmp_path: Path):
    """In training and in evaluations, before the model is fetched."""
    rig = Rig(tmp_path)
    rig.welcome()
    for order in (train(brought=True), evaluate(brought=True)):
        rig.say(order)
        rig.step()
        assert "weights that an operator brought" in refused(rig).message
        assert "--accept-weights" in rig.supervisor.work.error
    assert not rig.take(Fetch)
    rig.close()
    rig = Rig(tmp_path / "other", limits=Limits(accept_weights=True))
    rig.welcome()
    rig.begin(train(brought=True))
    job = rig.worker.jobs[-1]
    assert isinstance(job, TrainJob) and job.limits == Limits(accept_weights=True)
    rig.close()
