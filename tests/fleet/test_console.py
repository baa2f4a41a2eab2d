"""What an operator's program does when the coordinator restarts while it waits for an answer."""

from collections.abc import Iterable, Sequence

import pytest

from flctl.errors import AccessError, CoordinatorAway
from flctl.fleet.console import RemoteRuns
from flctl.transport.channel import Frame, LinkEvent
from flctl.wire import framing
from flctl.wire.messages import Answer, Ask

EMPTY = {
    "coordinator": {
        "version": "1", "uptime_s": 1.0, "endpoint": "a:1", "server_key": "k" * 40, "run": None,
    },
    "agents": [],
    "waiting": [],
}  # fmt: skip


class Restarting:
    """A link to a coordinator that goes away when it is asked first, and then comes back."""

    def __init__(self, *afterwards: LinkEvent) -> None:
        self.asked: list[Ask] = []
        self._events = [LinkEvent.CONNECTED]
        self._afterwards = list(afterwards)

    def send(self, frames: Sequence[Frame]) -> bool:
        _, message, _ = framing.to_coordinator()(list(frames))
        assert isinstance(message, Ask)
        self.asked.append(message)
        return True

    def receive(self) -> Iterable[list[Frame]]:
        if len(self.asked) > 1:
            yield framing.encode(Answer(id=self.asked[-1].id, body=EMPTY))

    def events(self) -> Iterable[LinkEvent]:
        found, self._events = self._events, []
        return found

    def wait(self, timeout_s: float, readable: Sequence[int] = ()) -> None:
        self._events += self._afterwards
        self._afterwards = []

    def reopen(self) -> None: ...
    def use_server_keys(self, keys: object) -> None: ...

    def trouble(self) -> str | None: ...
    def close(self) -> None: ...


def test_a_question_that_changes_nothing_is_asked_again():
    """Also while whoever answers hangs up: it has proved before that it is the right one."""
    link = Restarting(LinkEvent.DISCONNECTED, LinkEvent.SERVER_KEY_WRONG, LinkEvent.CONNECTED)
    assert RemoteRuns(link, "server:7700").status() == EMPTY
    assert [ask.what for ask in link.asked] == ["status", "status"]


def test_a_run_is_not_begun_twice():
    """Whether the first time counted, nobody here knows."""
    link = Restarting(LinkEvent.DISCONNECTED, LinkEvent.CONNECTED)
    with pytest.raises(
        CoordinatorAway, match=r"closed the connection before it answered.*flctl runs list"
    ):
        RemoteRuns(link, "server:7700").start({"task": "ecg"}, "the test")
    assert len(link.asked) == 1


def test_whoever_never_had_the_key_is_refused():
    link = Restarting(LinkEvent.SERVER_KEY_WRONG)
    link._events = []
    with pytest.raises(AccessError, match="--server-key does not match"):
        RemoteRuns(link, "server:7700").status()
