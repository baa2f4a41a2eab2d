"""What an agent declares of data that change while it runs."""

from pathlib import Path

import pytest
from agent_rig import Rig, digest, evaluate, memfd, train

from flctl.agent.datasets import DUTY, LOOK_S
from flctl.core.metrics import from_confusion
from flctl.wire.messages import (
    Claim,
    DatasetInfo,
    Evaluated,
    Failed,
    Hello,
    Message,
    UpdateReady,
    Welcome,
)
from flctl.worker.jobs import DataSource, Describe, Described, JobFailed, Trained


def trained(rig: Rig, available: int) -> None:
    data = b"update"
    rig.worker.end(
        Trained(
            blob=digest(data), size=len(data), available=available,
            claim=Claim(
                examples=available, batches=2, loss=0.5, last_loss=0.4, seconds=1.0, data="d" * 64
            ),
        ),
        memfd(data),
    )  # fmt: skip


def counts(hello: Hello) -> list[tuple[int, int]]:
    return [(info.examples, info.held_out) for info in hello.datasets]


def order_of(rig: Rig, *kinds: type[Message]) -> list[type[Message]]:
    return [type(message) for message in rig.heard if isinstance(message, kinds)]


def test_more_data_are_declared_before_the_update_of_them_is_offered(ready: Rig) -> None:
    """The coordinator refuses an update of more than it knows of; the digest goes along."""
    ready.begin(train())
    trained(ready, 104)
    ready.step()
    assert order_of(ready, Hello, UpdateReady) == [Hello, UpdateReady]
    assert counts(ready.take(Hello)[0]) == [(104, 20)]
    (offer,) = ready.take(UpdateReady)
    assert offer.claim.data == "d" * 64


def test_the_same_data_are_declared_once(ready: Rig) -> None:
    """A round that changes nothing tells nothing."""
    ready.begin(train())
    trained(ready, 100)
    ready.step()
    assert order_of(ready, Hello, UpdateReady) == [UpdateReady]


def test_more_held_out_data_are_declared_before_their_figures(ready: Rig) -> None:
    """These are refused too if they count more than was declared."""
    ready.begin(evaluate())
    ready.worker.score(test=from_confusion(0.5, [[20, 4], [2, 4]]))
    ready.step()
    assert order_of(ready, Hello, Evaluated) == [Hello, Evaluated]
    assert counts(ready.take(Hello)[0]) == [(100, 30)]


def test_data_that_are_gone_are_no_data(ready: Rig) -> None:
    """The agent says so before it says that it cannot train, and is asked no more."""
    ready.begin(train())
    ready.worker.end(JobFailed(kind="data", message="/data: no files"))
    ready.found = Described(datasets=(), torch="2", cuda=False, error="/data: no files")
    ready.step()
    assert order_of(ready, Hello, Failed) == [Hello, Failed]
    hello = ready.take(Hello)[0]
    assert hello.datasets == (
        DatasetInfo("default", "ecg", examples=0, held_out=20, data="d" * 64),
    )
    ready.begin(evaluate())
    ready.worker.end(JobFailed(kind="data", message="/data: no files"))
    ready.step()
    (hello,) = ready.take(Hello)
    assert (hello.datasets, hello.error) == ((), "/data: no files")
    assert ready.supervisor.state == "no data"


@pytest.fixture
def rig_of_files(tmp_path: Path):
    (tmp_path / "data").mkdir()
    made = Rig(tmp_path, datasets={"default": DataSource(path=str(tmp_path / "data"))})
    made.welcome()
    yield made
    made.close()


def looks(rig: Rig) -> int:
    return sum(isinstance(job, Describe) for job in rig.worker.jobs)


def test_an_idle_agent_declares_what_has_come(rig_of_files: Rig, tmp_path: Path) -> None:
    """Once nobody writes any more; what stays as it is is not read again."""
    rig = rig_of_files
    for _ in range(4):
        rig.step(LOOK_S)
    assert looks(rig) == 1
    rig.found = Described(
        datasets=(DatasetInfo(name="default", task="ecg", examples=150, data="d" * 64),),
        torch="2",
        cuda=False,
    )
    (tmp_path / "data" / "a").write_text("1")
    rig.step(LOOK_S)
    (tmp_path / "data" / "b").write_text("2")
    rig.step(LOOK_S)
    assert looks(rig) == 1 and not rig.take(Hello)
    rig.step(LOOK_S)
    rig.step()
    assert looks(rig) == 2 and counts(rig.take(Hello)[-1]) == [(150, 0)]
    rig.say(Welcome(name="pi-01", version="1", heartbeat_s=5.0))
    rig.step(LOOK_S)
    rig.step(LOOK_S)
    assert looks(rig) == 2 and not rig.take(Hello)


def test_files_that_never_rest_do_not_keep_a_pi_busy(tmp_path: Path) -> None:
    """Reading them takes at most a twentieth of an idle agent's time."""
    (tmp_path / "data").mkdir()
    rig = Rig(tmp_path, None, datasets={"default": DataSource(path=str(tmp_path / "data"))})
    rig.welcome()
    rig.step(30.0)
    rig.worker.end(Rig.found)  # reading took half a minute
    rig.step()
    (tmp_path / "data" / "a").write_text("1")
    for _ in range(int(DUTY * 30.0 / LOOK_S) - 1):
        rig.step(LOOK_S)
    assert looks(rig) == 1
    for _ in range(3):
        rig.step(LOOK_S)
    assert looks(rig) == 2
    rig.close()


def test_what_could_not_be_read_is_looked_at_again(rig_of_files: Rig) -> None:
    """Though its files may seem to be the same: they were half-written when the round began."""
    rig = rig_of_files
    rig.begin(train())
    rig.worker.end(JobFailed(kind="data", message="half a file"))
    rig.step()
    assert rig.take(Failed) and counts(rig.take(Hello)[0]) == [(0, 20)]
    rig.say(Welcome(name="pi-01", version="1", heartbeat_s=5.0))
    rig.step(LOOK_S)
    rig.step(LOOK_S)
    rig.step()
    assert counts(rig.take(Hello)[-1]) == [(100, 20)]
