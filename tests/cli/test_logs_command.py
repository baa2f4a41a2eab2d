"""`flctl logs` as a command: what it prints, and what it says when that is wrong."""

import json
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from flctl.errors import AccessError, CoordinatorAway, FlctlError, MalformedMessage
from flctl.fleet import logs as fleet_logs
from flctl.fleet.answers import LogPage
from flctl.fleet.console import RemoteRuns
from flctl.fleet.logs import follow, read
from flctl.fleet.looking import FleetViews
from flctl.terminal import finding
from flctl.wire.messages import LATEST, LogLine

AT = 1_764_290_473.25
CURSOR = f"{'a' * 32}:1:1764290473.250"


class Played(RemoteRuns):
    """A connection whose answers, or errors, are given."""

    def __init__(self, *answers):
        super().__init__(SimpleNamespace(close=lambda: None), "there")
        self.answers, self.asked = [*answers], []

    def ask(self, what, within_s=0.0, **args):
        self.asked.append((what, args))
        found = self.answers.pop(0)
        if isinstance(found, BaseException):
            raise found
        return found


def body(*texts, more=False, missed=0, level="INFO"):
    lines = [{"at": AT, "level": level, "text": text} for text in texts]
    return {"agent": "pi-01", "lines": lines, "cursor": CURSOR, "more": more, "missed": missed}


@pytest.fixture
def played(monkeypatch):
    def play(*answers):
        console = Played(*answers)

        @contextmanager
        def there(*_):
            yield console

        monkeypatch.setattr(finding, "coordinator", there)
        return console

    return play


@pytest.mark.parametrize(
    "hostile", ["\x1b[2J\x1b[31mgone", "a\nINFO forged", "\u202ecba", "\x9b5m"]
)
def test_text_of_a_stranger_is_one_harmless_line(flctl, played, hostile):
    """The agent may be another program, and the coordinator taken over."""
    played(body(hostile, "after", level="ERROR"))
    done = flctl("logs", "pi-01")
    first, second = done.out.splitlines()
    assert first.isprintable() and first.startswith("2025-11-28T00:41:13Z ERROR ")
    assert second == "2025-11-28T00:41:13Z ERROR after"
    played(body(hostile))
    done = flctl("logs", "pi-01", "--json")
    assert done.out.rstrip("\n").isprintable()
    (line,) = json.loads(done.out)
    assert line["at"] == AT and line["text"].isprintable()


def test_what_is_no_answer_is_refused(played, flctl):
    """A level that is none, too long a line, no cursor of an agent: nothing of it is shown."""
    bad = ({"lines": [{"at": AT, "level": "x\x1b", "text": ""}]}, {"cursor": "a b"},
           {"lines": [{"at": AT, "level": "INFO", "text": "x" * 1001}]}, {"agent": "\x1b"},
           {"lines": [{"at": 2e12, "level": "INFO", "text": "x"}]})  # fmt: skip
    for change in bad:
        played({**body("x"), **change})
        done = flctl("logs", "pi-01")
        assert done.code == 1 and "sent an invalid answer" in done.complaint
        assert done.out == ""


def test_the_latest_time_that_an_agent_may_say_has_a_date(flctl, played):
    played({**body(), "lines": [{"at": LATEST, "level": "INFO", "text": "far"}]})
    assert flctl("logs", "pi-01").out == "9892-03-08T12:26:40Z INFO far\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--since", "yesterday"), "--since 'yesterday': not a time"),
        (("--lines", "0"), "should be greater than or equal to 1"),
        (("--lines", "9999"), "should be less than or equal to 2000"),
    ],
)
def test_what_is_wrong_is_one_line(flctl, words, says):
    done = flctl("logs", "pi-01", *words)
    assert done.code == 2 and says in done.complaint


def test_a_long_log_comes_in_pages_and_no_more_lines_than_were_asked_for(monkeypatch):
    monkeypatch.setattr(fleet_logs.time, "sleep", lambda _: None)
    console = Played(body("a", "b", more=True), body(more=True), body("c", more=True))
    pages = list(read(console, "pi-01", 3, 60.0))
    assert [line.text for page in pages for line in page.lines] == ["a", "b", "c"]
    assert [args for _, args in console.asked] == [
        {"agent": "pi-01", "lines": 3, "since_s": 60.0},
        {"agent": "pi-01", "lines": 1, "after": CURSOR},
        {"agent": "pi-01", "lines": 1, "after": CURSOR},
    ]


def test_a_follow_waits_for_who_is_away_and_ends_where_waiting_does_not_help():
    away = FlctlError("pi-01 is not connected (lost)")
    console = Played(
        body("a"), away, CoordinatorAway("no answer"), body("b", missed=3),
        AccessError("the owner of pi-01 does not share its log"),
    )  # fmt: skip
    waits, told = [], []
    with pytest.raises(AccessError, match="the owner of pi-01"):
        for each in follow(console, "pi-01", 10, None, waits.append):
            told.append(each if isinstance(each, str) else [line.text for line in each.lines])
    assert told == [["a"], "pi-01 is not connected (lost); waiting for it", "pi-01 is back", ["b"]]
    assert waits == [2.0] * 4
    with pytest.raises(FlctlError, match="not connected"):
        next(follow(Played(away), "pi-01", 10, None, waits.append))
    with pytest.raises(MalformedMessage):
        list(follow(Played(body("a"), {}), "pi-01", 10, None, waits.append))


def test_lost_lines_are_counted_on_stderr(flctl, played):
    played(body("a"), body("b", missed=3), KeyboardInterrupt())
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr(fleet_logs, "LOOK_S", 0.0)
        done = flctl("logs", "pi-01", "--follow", "--json")
    assert done.code == 130
    assert [json.loads(line)["text"] for line in done.out.splitlines()] == ["a", "b"]
    assert done.complaint == "3 lines of pi-01 came too fast and were lost"


def test_a_page_is_typed():
    (line,) = FleetViews(Played(body("a"))).log("pi-01")
    assert line == {"at": AT, "level": "INFO", "text": "a"}
    page = Played(body("a")).log("pi-01")
    assert page == LogPage(agent="pi-01", lines=(LogLine(AT, "INFO", "a"),), cursor=CURSOR)
