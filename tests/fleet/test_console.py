"""What an operator's program does when the coordinator restarts while it waits for an answer."""

from collections.abc import Iterable, Iterator, Sequence

import pytest

from flctl.core.stream import Published
from flctl.errors import AccessError, CoordinatorAway, UsageError
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

    def __init__(self, *afterwards: LinkEvent, asked: str = "status") -> None:
        self._first = asked
        self.asked: list[Ask] = []
        self._events = [LinkEvent.CONNECTED]
        self._afterwards = list(afterwards)

    def send(self, frames: Sequence[Frame]) -> bool:
        _, message, _ = framing.to_coordinator()(list(frames))
        assert isinstance(message, Ask)
        self.asked.append(message)
        return True

    def receive(self) -> Iterable[list[Frame]]:
        last = self.asked[-1]
        if last.what != self._first or self.asked.count(last) > 1:
            yield framing.encode(Answer(id=self.asked[-1].id, body=EMPTY))

    def events(self) -> Iterable[LinkEvent]:
        found, self._events = self._events, []
        return found

    def wait(self, timeout_s: float, readable: Sequence[int] = ()) -> None:
        if self.asked[-1].what == self._first:
            self._events += self._afterwards
            self._afterwards = []

    def reopen(self) -> None: ...
    def use_server_keys(self, keys: object) -> None: ...

    def trouble(self) -> str | None: ...
    def close(self) -> None: ...


class Silent(Restarting):
    """A link to a coordinator that is suspended unless it `answers`; a wait takes half a second."""

    def __init__(self) -> None:
        super().__init__()
        self.answers, self.now = False, 0.0

    def receive(self) -> Iterable[list[Frame]]:
        if self.answers:
            yield framing.encode(Answer(id=self.asked[-1].id, body={"watching": True}))

    def wait(self, timeout_s: float, readable: Sequence[int] = ()) -> None:
        self.now += timeout_s

    def until(self, told: Iterator[Published | None], at: float) -> None:
        while self.now < at:
            assert next(told) is None


class Waking(Silent):
    """One that is suspended from its first answer on, for 100 s."""

    def receive(self) -> Iterable[list[Frame]]:
        if self.now <= 0.5 or self.now > 100.0:
            yield from (framing.encode(Answer(id=a.id, body={"run": "ecg-1"})) for a in self.asked)


class Answering(Silent):
    """One that answers each question half a second later."""

    def receive(self) -> Iterable[list[Frame]]:
        found, self.unanswered = self.unanswered, len(self.asked)
        for ask in self.asked[found:]:
            body = EMPTY if ask.what == "status" else {"watching": True}
            yield framing.encode(Answer(id=ask.id, body=body))

    unanswered = 0


def test_a_question_that_changes_nothing_is_asked_again():
    """Also while whoever answers hangs up: it has proved before that it is the right one."""
    link = Restarting(LinkEvent.DISCONNECTED, LinkEvent.SERVER_KEY_WRONG, LinkEvent.CONNECTED)
    assert RemoteRuns(link, "server:7700").status() == EMPTY
    assert [ask.what for ask in link.asked] == ["status", "status"]


def test_a_run_is_not_begun_twice():
    """Whether the first time counted, nobody here knows."""
    link = Restarting(LinkEvent.DISCONNECTED, LinkEvent.CONNECTED, asked="start")
    with pytest.raises(
        CoordinatorAway, match=r"closed the connection before it answered.*flctl runs list"
    ):
        RemoteRuns(link, "server:7700").start({"task": "ecg"}, "the test")
    assert [ask.what for ask in link.asked] == ["watching", "start"]


def test_a_coordinator_that_falls_silent_while_a_run_is_followed_is_named_once():
    """For each time: after 20 s without an answer. What is followed goes on when it is back."""
    link = Silent()
    runs = RemoteRuns(link, "server:7700", clock=lambda: link.now)
    lines: list[str] = []
    runs.on_silent = lines.append
    told = runs.watch("ecg-1")
    for at in (9.0, 19.0, 20.0):
        link.until(told, at)
        assert lines == []
    link.until(told, 120.0)
    (line,) = lines
    assert line.startswith("no answer from the coordinator at server:7700 in 20 s: check that")
    link.answers = True
    link.until(told, 200.0)
    assert len(lines) == 1
    link.answers = False
    link.until(told, 300.0)
    assert lines == [line, line]


def test_a_coordinator_that_falls_silent_while_a_run_begins_is_named_once(caplog):
    """After 20 s, where a start may take 180: by default as a line of the log, which Python prints.
    The answer counts when it comes."""
    link = Waking()
    runs = RemoteRuns(link, "server:7700", clock=lambda: link.now)
    assert runs.start({"task": "ecg"}, "the test") == "ecg-1"
    assert link.now > 100.0
    (line,) = caplog.messages
    assert line.startswith("no answer from the coordinator at server:7700 in 20 s: check that")


def test_an_answer_about_the_watch_may_come_while_something_else_is_asked(caplog):
    """As on the page: the coordinator is not silent, and the watch is not asked for again."""
    link = Answering()
    runs = RemoteRuns(link, "server:7700", clock=lambda: link.now)
    told = runs.watch("ecg-1")
    while link.now < 100.0:
        assert next(told) is None
        if link.asked[-1].what == "watching":
            assert runs.status() == EMPTY
    assert [ask.what for ask in link.asked].count("watch") == 1
    assert not caplog.messages


@pytest.mark.parametrize(
    ("run", "says"),
    [
        (object(), "'run': Encoding objects of type object is unsupported"),
        ("\udc80", "'run': 'utf-8' codec can't encode"),
        ("x" * 70_000, "'run': too long to send: 70,038 bytes, at most 65,536"),
    ],
)
def test_what_no_message_holds_is_not_sent(run, says):
    """The coordinator drops a message that is too long: no answer would come."""
    link = Restarting()
    with pytest.raises(UsageError, match=f"^{says}"):
        RemoteRuns(link, "server:7700").about(run)
    assert link.asked == []


def test_whoever_never_had_the_key_is_refused():
    link = Restarting(LinkEvent.SERVER_KEY_WRONG)
    link._events = []
    with pytest.raises(AccessError, match=r"flctl connect is not \(or no longer\) its key"):
        RemoteRuns(link, "server:7700").status()
