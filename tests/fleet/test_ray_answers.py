"""What a cluster's workers answer, and how they end; ray itself is played, in this process."""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from ray import exceptions
from test_jobs import Noisy, outcome, start

from flctl.errors import SettingsError
from flctl.fleet import processes, site
from flctl.fleet.cluster import expect_shareable
from flctl.fleet.processes import Alone, Processes, workers
from flctl.fleet.replay import replay
from flctl.fleet.virtual import VirtualRun
from flctl.settings import RunSettings, changed, parse

TOPK = {"compression": "topk", "partition": "dirichlet"}
GIVEN = {"task": "ecg", "virtual": 4}


class PlayedRay:
    """An order is done when its answer is fetched; `answering` may make another one of it."""

    def __init__(self, answering: Callable[[str, Any], Any]) -> None:
        self.exceptions, self._answering = exceptions, answering
        self.alive: set[PlayedRay.Handle] = set()
        self.started = 0
        self.kept: list[Any] = []

    class Handle:
        """Of an actor."""

        def __init__(self, worker: Any) -> None:
            for name in ("facts", "do"):
                method = getattr(worker, name)
                later = SimpleNamespace(remote=lambda *given, m=method, n=name: Later(n, m, given))
                setattr(self, name, later)

    def remote(self, kind: type) -> Any:
        def make(*given: Any) -> PlayedRay.Handle:
            handle = self.Handle(kind(*(self.get(each) for each in given)))
            self.alive.add(handle)
            self.started += 1
            return handle

        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=make))

    def get(self, what: Any) -> Any:
        if isinstance(what, Put):
            return what.value
        if not isinstance(what, Later):
            return what
        told = self._answering(what.name, lambda: what.method(*what.given))
        if isinstance(told, Exception):
            raise told
        return told

    def wait(self, asked: list[Any], **_: Any) -> tuple[list[Any], list[Any]]:
        return asked, []

    def put(self, value: Any) -> "Put":
        return Put(value)

    def kill(self, handle: Handle) -> None:
        self.alive.discard(handle)

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 3.0}

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(get_node_id=lambda: "n1")

    def is_initialized(self) -> bool:
        """The program that uses flctl has connected."""
        return True


class Put:
    def __init__(self, value: Any) -> None:
        self.value = value


class Later:
    def __init__(self, name: str, method: Any, given: tuple[Any, ...]) -> None:
        self.name, self.method, self.given = name, method, given


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., PlayedRay]:
    monkeypatch.setattr(site, "_own_folder", lambda: Path(tempfile.mkdtemp(dir=tmp_path)))

    def play(answering: Callable[[str, Any], Any] = lambda _, work: work()) -> PlayedRay:
        made = PlayedRay(answering)
        monkeypatch.setitem(sys.modules, "ray", made)
        return made

    return play


@pytest.mark.parametrize("given", [{}, TOPK, {"evaluate": "agents", "fraction": 0.5}])
def test_the_bytes_are_the_same_and_workers_that_die_are_replaced(
    tmp_path: Path, played: Callable[..., PlayedRay], given: dict[str, Any]
):
    plain = outcome(start(tmp_path / "plain", **given).run())
    asked = 0

    def answering(name: str, work: Callable[[], Any]) -> Any:
        nonlocal asked
        asked += name == "do"
        return exceptions.ActorDiedError() if name == "do" and asked in (2, 3, 9) else work()

    ray = played(answering)
    run = start(tmp_path / "ray", engine="ray", **given)
    assert outcome(run.run()) == plain
    assert not ray.alive
    assert 6 <= ray.started <= 12  # three, and those in place of the dead and of their neighbours
    assert all(row.same for row in replay(run.folder, {}))


def with_version(told: Any) -> Any:
    facts = msgspec.msgpack.decode(told[0])
    return msgspec.msgpack.encode({**facts, "flctl": "0.0.9", "host": "pc2"}), None, None


def for_another(told: Any) -> Any:
    answer = msgspec.msgpack.decode(told[0])
    answer["update"] |= {"agent": "pi-99"}
    return msgspec.msgpack.encode(answer), *told[1:]


MISSING = exceptions.RayTaskError("f", "…", ImportError("node pc2: No module named 'flctl'"))


@pytest.mark.parametrize(
    ("of", "made", "says", "starts"),
    [
        ("facts", with_version, "node pc2: flctl 0.0.9, here ", 3),
        ("facts", lambda _: MISSING, "starts on the cluster: node pc2: No module named 'flctl'", 3),
        ("facts", lambda _: exceptions.ActorDiedError(), "no worker starts on the cluster: ", 11),
        ("facts", lambda _: "hello", "a worker of the cluster sent an invalid answer", 3),
        ("facts", lambda _: (b"\xc1", None, None), "the answer of a worker of the cluster: ", 3),
        (
            "do",
            lambda told: (told[0], None, None),
            "the answer of the cluster is for another order",
            3,
        ),
        (
            "do",
            lambda told: (told[0], b"x", None),
            "the answer of the cluster is for another order",
            3,
        ),
        ("do", for_another, "training pi-01: the answer of the cluster is for another order", 3),
        (
            "do",
            lambda _: exceptions.ActorDiedError(),
            "has crashed its process 3 times: The act",
            9,
        ),
    ],
)
def test_what_fits_no_order_pauses_the_run(
    tmp_path: Path, played: Callable[..., PlayedRay], of: str, made: Any, says: str, starts: int
):
    ray = played(lambda name, work: made(work()) if name == of else work())
    history = start(tmp_path, engine="ray").run()
    assert history.reason is not None and says in history.reason
    assert "\n" not in history.reason
    assert not ray.alive
    assert ray.started <= starts


def test_a_paused_run_goes_on_without_the_cluster(tmp_path: Path, played: Callable[..., PlayedRay]):
    plain = outcome(start(tmp_path / "plain").run())
    played(lambda name, work: "hello" if name == "do" else work())
    run = start(tmp_path / "ray", engine="ray", ray_address="pc1:6379", jobs=2)
    assert not outcome(run.run())
    again = VirtualRun(run.folder, changes={"engine": "processes", "jobs": 1})
    assert again.settings.ray_address is None
    assert outcome(again.run()) == plain


def test_the_address_goes_with_the_engine():
    settings = parse({**GIVEN, "engine": "ray", "ray_address": "pc1:6379"}, "the test")
    assert changed(settings, {"jobs": 3}, "").ray_address == "pc1:6379"
    assert changed(settings, {"engine": "processes"}, "").ray_address is None
    with pytest.raises(SettingsError, match="ray_address is for engine ray"):
        changed(settings, {"engine": "processes", "ray_address": "pc2:6379"}, "the test")


def test_jobs_of_a_cluster_are_not_forked_here(monkeypatch: pytest.MonkeyPatch):
    """Where the agents of a finished run personalise its model."""
    monkeypatch.setattr(processes, "cores", lambda: 2)
    forked: list[int] = []
    monkeypatch.setattr(Processes, "__init__", lambda self, size, *_: forked.append(size))

    def made(**given: Any) -> Any:
        settings: RunSettings = parse({**GIVEN, **given}, "the test")
        return workers(settings, "cpu", lambda *_: None, lambda: None)  # type: ignore[arg-type, return-value]

    made(engine="ray", jobs=64), made(jobs=3), made(engine="ray", jobs=0)
    assert forked == [2, 3, 2]
    assert isinstance(made(engine="ray"), Alone)


def test_private_tensors_do_not_go_to_a_cluster(tmp_path: Path, played: Callable[..., PlayedRay]):
    played()
    given = {"task": "test_private:Norms", "virtual": 2, "rounds": 1, "engine": "ray"}
    with pytest.raises(SettingsError, match="private tensors of task 'heads' stay on this machine"):
        VirtualRun.start(tmp_path, given, "the test")
    assert not [*(tmp_path / "runs").glob("*")]
    expect_shareable(Noisy())
