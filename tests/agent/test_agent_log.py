"""The log that an agent keeps for operators: bounded, resumed by cursors, and never half a line."""

import logging
import random

import pytest

from flctl.agent.log import (
    ANSWER_BYTES,
    BURST_BYTES,
    BYTES_PER_S,
    KEPT_BYTES,
    KEPT_LINES,
    LAST_BYTES,
    LAST_LINES,
    AgentLog,
)
from flctl.wire import framing
from flctl.wire.messages import LOG_LINES, LogLine, LogLines, SendLog


class Clock:
    def __init__(self, now: float = 1.7e9) -> None:
        self.now = now

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def say(log: AgentLog, *texts: str, level: int = logging.INFO) -> None:
    for text in texts:
        log.handle(logging.LogRecord("test", level, "file", 1, text, (), None))


def ask(log: AgentLog, lines: int = 200, now: float = 1e6, **more: object) -> LogLines:
    found = log.answer(SendLog(id=1, lines=lines, **more), now)
    assert framing.to_coordinator()(framing.encode(found))[1] == found  # it fits, and is allowed
    return found


def texts(found: LogLines) -> list[str]:
    return [line.text for line in found.lines]


def test_the_newest_lines_then_what_came_after_them():
    log = AgentLog(wall_clock=Clock())
    say(log, "a", "b", "c", level=logging.WARNING)
    found = ask(log, 2)
    assert texts(found) == ["b", "c"] and found.lines[0].level == "WARNING"
    assert (found.more, found.missed) == (False, 0)
    assert texts(ask(log, after=found.cursor)) == []
    say(log, "d")
    again = ask(log, after=found.cursor)
    assert texts(again) == ["d"]
    assert texts(ask(log, after=again.cursor)) == []
    assert texts(ask(log, after=found.cursor)) == ["d"]  # the answer was lost on the way


def test_an_empty_log_has_a_cursor_too():
    log = AgentLog(wall_clock=Clock())
    found = ask(log)
    assert found.lines == () and found.cursor
    say(log, "a")
    assert texts(ask(log, after=found.cursor)) == ["a"]


def test_lines_that_are_old_are_left_out():
    """By the agent's own clock, whatever the operator's says."""
    log = AgentLog(wall_clock=(clock := Clock(1000.0)))
    say(log, "a", "b", "c")
    clock.now = 1063.0  # and one more when it is asked: 1064
    found = ask(log, since_s=62.0)
    assert texts(found) == ["b", "c"]
    nothing = ask(log, since_s=1.0)
    say(log, "d")
    assert nothing.lines == () and texts(ask(log, after=nothing.cursor)) == ["d"]


def test_memory_is_bounded_and_what_was_lost_is_counted():
    log = AgentLog(wall_clock=Clock())
    say(log, "first")
    cursor = ask(log).cursor
    say(log, *(str(n) for n in range(KEPT_LINES + 10)))
    found = ask(log, after=cursor)
    assert found.missed == 10 and found.lines[0].text == "10" and found.more
    big = AgentLog(wall_clock=Clock())
    say(big, *("é" * 5000 for _ in range(1000)))
    kept, cursor, now = 0, "", 1e6
    while True:
        found = ask(big, LOG_LINES, now, after=cursor)
        kept, cursor, now = kept + len(found.lines), found.cursor, now + 60
        assert all(len(line.text) <= 1000 for line in found.lines)
        if not found.more:
            break
    assert kept * 2048 == KEPT_BYTES


@pytest.mark.parametrize("seed", range(20))
def test_pages_put_together_are_the_log(seed: int):
    """Whatever is asked for at a time, whatever the lines: each once, in order."""
    rng = random.Random(seed)
    log = AgentLog(wall_clock=Clock())
    said = [rng.choice(["x", "ü", "\U0001f600"]) * rng.randrange(990) + str(n) for n in range(60)]
    found, cursor, now = [], "", 1e6
    say(log, *said[:30])
    rest = said[30:]
    while rest or len(found) < 60:
        page = ask(log, rng.choice([1, 7, LOG_LINES]) if cursor else LOG_LINES, now, after=cursor)
        found += texts(page)
        cursor, now = page.cursor, now + 10
        if rest and rng.random() < 0.5:
            say(log, rest.pop(0))
    assert found == said


def test_a_restarted_agent_goes_on_where_the_reader_was():
    """Its last lines were kept; after a power cut they were not, and all of the new ones come."""
    clock = Clock()
    before = AgentLog(wall_clock=clock)
    say(before, "a", "b")
    cursor = ask(before).cursor
    say(before, "c", "stops")
    for kept in (True, False):
        log = AgentLog(before.last() if kept else (), clock)
        say(log, "begins")
        found = ask(log, after=cursor)
        assert texts(found) == [*(["c", "stops"] if kept else []), "begins"]
        say(log, "goes on")
        assert texts(ask(log, after=found.cursor)) == ["goes on"]
        assert texts(ask(log, 3))[-2:] == ["begins", "goes on"]


def test_what_is_kept_over_a_restart_is_small():
    log = AgentLog(wall_clock=Clock())
    say(log, *(str(n) for n in range(LAST_LINES + 100)))
    assert [line.text for line in log.last()] == [str(n) for n in range(100, LAST_LINES + 100)]
    say(log, *("ü" * 900 for _ in range(LAST_LINES)))
    assert LAST_BYTES / 2 < sum(len(line.text.encode()) for line in log.last()) <= LAST_BYTES


def test_all_readers_together_have_so_many_bytes_a_second():
    """Beyond that an answer has no lines and says that there are more."""
    log = AgentLog(wall_clock=Clock())
    say(log, *("x" * 900 for _ in range(KEPT_LINES)))
    sent = 0
    for _ in range(1000):
        sent += sum(len(text) for text in texts(ask(log, LOG_LINES, now=5.0)))
    assert BURST_BYTES - 2 * ANSWER_BYTES < sent <= BURST_BYTES
    found = ask(log, LOG_LINES, now=5.0)
    assert found.lines == () and found.more
    assert 0 < sum(map(len, texts(ask(log, LOG_LINES, now=6.0)))) <= BYTES_PER_S


@pytest.mark.parametrize(
    "text", ["\x1b[31mred\x1b[0m", "two\nlines", "\u202eevil", "\ud800", "\x00\x9b", "a\rb"]
)
def test_a_line_is_one_printable_line(text: str):
    """What a coordinator or a file's name has put into it steers no terminal."""
    log = AgentLog(wall_clock=Clock())
    say(log, text)
    (line,) = ask(log).lines
    assert line.text.isprintable() and line.text


def test_an_exception_is_named_and_a_faulty_line_ends_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(logging, "raiseExceptions", False)
    log = AgentLog(wall_clock=Clock())
    error = ValueError("no\nnumber")
    record = logging.LogRecord("test", 99, "f", 1, "it failed", (), (ValueError, error, None))
    log.handle(record)
    log.handle(logging.LogRecord("test", logging.INFO, "f", 1, "%d", ("x",), None))
    assert ask(log).lines == (LogLine(1.7e9 + 1, "INFO", r"it failed: ValueError('no\nnumber')"),)


@pytest.mark.parametrize(
    "cursor", [f"{'a' * 32}:0:0.000", f"{'a' * 32}:{10**15 - 1}:{10**13 - 1}.999"]
)
def test_a_cursor_of_another_agent_does_no_harm(cursor: str):
    log = AgentLog([LogLine(5.0, "INFO", "before")], Clock())
    say(log, "a", "b")
    assert texts(ask(log, after=cursor))[-2:] == ["a", "b"]
    own = ask(log).cursor.split(":")[0]
    assert texts(ask(log, after=f"{own}:{10**15 - 1}:5.000")) == []


def test_lines_of_the_worker_stand_among_the_others():
    """On one line each, with their level; what is no level of ours is INFO."""
    log = AgentLog(wall_clock=Clock())
    say(log, "begins")
    log.of_worker("WARNING", "3 beats\nare left out")
    log.of_worker("NOISE", "hello")
    lines = ask(log).lines
    assert [line.level for line in lines] == ["INFO", "WARNING", "INFO"]
    assert lines[1].text.startswith("worker: 3 beats") and "\n" not in lines[1].text
