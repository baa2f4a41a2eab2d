"""What a coordinator answers is checked, and compared with what it was asked."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flctl.core.events import AnyEvent
from flctl.errors import FlctlError, MalformedMessage
from flctl.fleet.console import RemoteRuns
from flctl.records.recorded import RecordedRun
from flctl.transport.channel import Frame, LinkEvent
from flctl.wire import framing
from flctl.wire.messages import Answer, Ask, RunEvent

KEY = "k" * 40
MODEL = "a" * 64
RUN = {
    "run": "ecg-1", "state": "finished", "reason": "", "kind": "fleet", "task": "ecg", "round": 1,
    "rounds": 1, "metrics": None, "checkpoint": "/there/model.safetensors", "started": 1.0,
}  # fmt: skip
STARTED = {
    "event": "started", "at": 1.0, "schema": 1, "run": "ecg-1", "kind": "fleet", "model": MODEL,
    "size": 9, "task_digest": MODEL, "version": "1", "machine": "here",
}  # fmt: skip
ROUND = {
    "event": "round", "at": 2.0, "round": 1, "attempt": 1, "model": MODEL, "size": 9,
    "seconds": 1.0, "participants": {"pi-01": {"examples": 9, "batches": 9, "loss": 1.0,
    "last_loss": 1.0, "seconds": 1.0}},
}  # fmt: skip
DETAILS = {**RUN, "settings": {"agents": []}}
INFO = {"version": "1", "uptime_s": 1.0, "endpoint": "a:1", "server_key": KEY, "run": None}
STATUS = {"coordinator": INFO, "agents": [], "waiting": []}
KEYS: dict[str, Any] = {"server_key": KEY, "keys": [], "waiting": []}
QUOTE = "'; reboot #".ljust(40, "k")


class Lying:
    """A link to a coordinator that gives one answer to everything, or tells one event."""

    def __init__(self, body: Any = None, event: Any = None) -> None:
        self._body, self._event = body, event
        self._asked: list[Ask] = []

    def send(self, frames: Sequence[Frame]) -> bool:
        _, message, _ = framing.to_coordinator()(list(frames))
        assert isinstance(message, Ask)
        self._asked.append(message)
        return True

    def receive(self) -> Iterable[list[Frame]]:
        for ask in self._asked:
            if self._event is not None:
                yield framing.encode(RunEvent(id=ask.id, event=self._event))
            else:
                yield framing.encode(Answer(id=ask.id, body=self._body))
        self._asked = []

    def events(self) -> Iterable[LinkEvent]:
        return ()

    def wait(self, timeout_s: float, readable: Sequence[int] = ()) -> None: ...
    def reopen(self) -> None: ...
    def close(self) -> None: ...


def asked(body: Any) -> RemoteRuns:
    return RemoteRuns(Lying(body), "server:7700")


def told(event: Any) -> tuple[Any, Any]:
    return lambda c: list(c.events("ecg-1")), {"data": json.dumps(event).encode() + b"\n"}


LIES: dict[str, tuple[Any, Any]] = {
    "a run's name is a path": (lambda c: c.about("ecg"), {**DETAILS, "run": "../../victim"}),
    "a run in a list is a path": (lambda c: c.look(), [{**RUN, "run": "../../victim"}]),
    "another run": (lambda c: c.about("mnist-2"), DETAILS),
    "another run was stopped": (lambda c: c.stop("mnist-2"), {"run": "ecg-1"}),
    "another run goes on": (lambda c: c.resume("mnist-2"), {"run": "ecg-1"}),
    "a new run is a path": (lambda c: c.start({}, "the test"), {"run": "../x"}),
    "an agent's name is a formula": told({**ROUND, "participants": {"=1+1": {}}}),
    "an event without its round": told({"event": "round"}),
    "an event is no event": told([1]),
    "a digest": told({**STARTED, "model": "x"}),
    "a checkpoint's size": (
        lambda c: c.save_checkpoint("ecg", Path("x")),
        {"blob": MODEL, "size": 2**60, "round": 1},
    ),
    "a checkpoint's digest": (
        lambda c: c.save_checkpoint("ecg", Path("x")),
        {"blob": "../x", "size": 9, "round": 1},
    ),
    "a waiting key leaves its quotes": (
        lambda c: c.status(),
        {**STATUS, "waiting": [{"public_key": QUOTE}]},
    ),
    "the server's key": (lambda c: c.keys(), {**KEYS, "server_key": QUOTE}),
    "an enrolled key": (
        lambda c: c.keys(),
        {**KEYS, "keys": [{"name": "pi-01", "role": "agent", "public_key": QUOTE}]},
    ),
    "no document": (lambda c: c.status(), "well"),
    "not even a list": (lambda c: c.look(), 7),
    "a token": (lambda c: c.token(60.0, 1), {"token": "flt_x; reboot"}),
    "a journal of five billion bytes": (lambda c: c.journal("ecg", 0), {"data": 5 * 10**9}),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_answer_that_cannot_be_true_is_refused(lie, tmp_path, monkeypatch):
    """With one line that names the coordinator, before anything is done with it."""
    monkeypatch.chdir(tmp_path)
    question, body = LIES[lie]
    with pytest.raises(MalformedMessage, match="the coordinator at server:7700"):
        question(asked(body))
    assert not list(tmp_path.iterdir())


def test_what_a_newer_coordinator_says_beside_is_kept():
    """For --json; an event of a kind that this version does not know is left out."""
    assert asked({**DETAILS, "mood": "good"}).about("ecg")["mood"] == "good"
    sang = {"event": {"event": "sang", "song": 1}, "run": "ecg-1"}
    assert next(RemoteRuns(Lying(event=sang), "x").watch("ecg-1")) is None


@pytest.mark.parametrize(
    "event",
    [
        {"event": {"event": "progress", "agent": ["a"]}, "run": "ecg-1"},
        {"event": {"event": "begun", "run": "../x"}, "run": "ecg-1"},
        {"event": {"event": "agent-here", "agent": "pi-01"}, "run": "../x"},
        {"event": {"event": "agent-here", "agent": "pi-01"}, "run": "ecg-1", "seq": -1},
        {"event": "begun"},
    ],
)
def test_an_event_that_is_watched_is_checked(event):
    told = RemoteRuns(Lying(event=event), "server:7700").watch("ecg-1")
    with pytest.raises(MalformedMessage, match="the coordinator at server:7700"):
        next(told)


@pytest.mark.parametrize("line", [b"{]\n", b'{"event":"round"}\n', b'{"event":{}}\n'])
def test_a_line_of_a_far_journal_is_checked(line):
    with pytest.raises(FlctlError, match=r"journal of run ecg-1|server:7700"):
        list(asked({"data": line}).events("ecg-1"))


def test_an_event_of_another_run_tells_nothing():
    begun = {"event": "begun", "run": "mnist-2", "round": 0, "rounds": 1, "task": "mnist"}
    for run in ("mnist-2", "ecg-1"):
        told = {"event": begun, "run": run}
        assert next(RemoteRuns(Lying(event=told), "server:7700").watch("ecg-1")) is None


def test_the_model_of_a_round_is_the_one_in_the_record(tmp_path):
    """Not whatever the coordinator sends for it."""
    events = msgspec.convert([STARTED, ROUND], list[AnyEvent])
    run = RecordedRun(DETAILS, events, asked({"blob": "b" * 64, "size": 9, "round": 1}))
    with pytest.raises(MalformedMessage, match="another model of round 1"):
        run.model(1, tmp_path)
