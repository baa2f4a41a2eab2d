"""The journal after power cuts, full disks and damage."""

import errno
import json
import math
import os
import threading

import msgspec
import pytest

from flctl.coordinator.store import journal as journals
from flctl.coordinator.store.journal import Journal, published, read_events, replay, verdict
from flctl.core import events as happened
from flctl.core.events import RunFinished
from flctl.errors import StateError
from flctl.settings import SCHEMA

MODEL = "a" * 64


def started(schema: int = SCHEMA) -> happened.RunStarted:
    return happened.RunStarted(
        at=1.0,
        schema=schema,
        run="ecg-1",
        kind="fleet",
        model=MODEL,
        size=100,
        task_digest=MODEL,
        version="1.0",
        machine="x86_64",
    )


def opened() -> happened.RoundOpened:
    return happened.RoundOpened(at=2.0, round=1, attempt=1, base=MODEL, invited=("é", "y"), need=1)


def rejected(reason="NaN", agent="x") -> happened.UpdateRejected:
    return happened.UpdateRejected(at=3.0, round=1, agent=agent, reason=reason)


EVENTS = [started(), opened(), rejected(), rejected("shape\nof two lines")]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.jsonl"


def write(path, events=EVENTS) -> bytes:
    journal = Journal(path)
    journal.append(events)
    journal.close()
    return path.read_bytes()


@pytest.mark.parametrize("put_back", [False, True])
def test_a_journal_that_was_deleted_takes_no_more_lines(path, put_back):
    """No start would find them again, also where another file has its name by now."""
    journal = Journal(path)
    journal.append(EVENTS[:1])
    path.unlink()
    if put_back:
        path.touch()
    with pytest.raises(StateError, match=r"journal.jsonl: was deleted during the run; begin a new"):
        journal.append(EVENTS[1:])
    journal.close()


def test_what_is_written_is_read_back(path):
    """One JSON object a line, which a person can read; only the owner may."""
    data = write(path)
    assert read_events(path) == EVENTS
    lines = [json.loads(line) for line in data.splitlines()]
    assert all(len(line.pop("chain")) == 64 for line in lines)
    assert lines == json.loads(json.dumps([msgspec.to_builtins(e) for e in EVENTS]))
    assert json.loads(data.splitlines()[0])["event"] == "started"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_last_line_torn_at_any_byte_is_left_out(path):
    """Power was cut while it was written: everything before it counts, and it goes on there."""
    data = write(path)
    start = data[:-1].rindex(b"\n") + 1
    for end in range(start, len(data)):
        path.write_bytes(data[:end])
        assert read_events(path) == EVENTS[:-1]
        journal = Journal(path)
        assert path.read_bytes() == data[:start]
        journal.append([opened()])
        journal.close()
        assert read_events(path) == [*EVENTS[:-1], opened()]


def test_a_journal_torn_at_any_byte_is_a_journal(path):
    """Grouped writes can tear in any of their lines; what is left is a beginning."""
    data = write(path)
    for end in range(len(data)):
        path.write_bytes(data[:end])
        events = read_events(path)
        assert events == EVENTS[: data[:end].count(b"\n")]


@pytest.mark.parametrize("rest", [b"", b"\n"])
def test_a_last_line_of_zeros_is_left_out(path, rest):
    """The disk kept the length but not the bytes; also with the line's end in place."""
    data = write(path)
    start = data[:-1].rindex(b"\n") + 1
    path.write_bytes(data[:start] + b"\0" * 40 + rest)
    assert read_events(path) == EVENTS[:-1]
    journal = Journal(path)
    journal.append([opened()])
    journal.close()
    assert read_events(path) == [*EVENTS[:-1], opened()]


@pytest.mark.parametrize(
    "line", [b"", b"\0\0\0", b"{}", b'{"event":"surprise"}', b'{"event":"rejected"}', b"\xff\xfe"]
)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_damage_in_the_middle_is_told_with_its_line(path, line, number):
    """Nothing is guessed: what comes after it may depend on it."""
    lines = write(path).splitlines()
    lines[number - 1] = line
    path.write_bytes(b"\n".join(lines) + b"\n")
    for read in (read_events, replay, Journal):
        with pytest.raises(StateError) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}, line {number}: not an event: ")
        assert "\n" not in str(caught.value)


def test_the_journal_of_a_newer_version_is_refused(path):
    """Even when its later events are unknown here."""
    write(path, [started(schema=SCHEMA + 1)])
    with path.open("ab") as file:
        file.write(b'{"event":"of the future","at":1}\n')
    with pytest.raises(StateError, match="written by another version of flctl"):
        read_events(path)


def test_a_later_version_may_add_fields(path):
    """They are passed over: the schema number is for what cannot be."""
    data = write(path).replace(b'"attempt":1', b'"attempt":1,"weather":"fine"')
    path.write_bytes(data)
    assert read_events(path) == EVENTS


def test_events_that_cannot_follow_are_told_with_their_line(path):
    """The lines are whole, and do not belong together."""
    write(path, [started(), opened(), msgspec.structs.replace(opened(), round=4)])
    with pytest.raises(StateError, match=r"journal.jsonl, line 3: .*'opened' of round 4"):
        replay(path)


def test_a_journal_without_a_start_is_no_run(path):
    """Killed before its first line was whole."""
    path.write_bytes(b'{"event":"star')
    with pytest.raises(StateError, match="the run never started"):
        replay(path)


def test_a_journal_that_is_not_there_is_explained(tmp_path):
    """Read or opened for writing."""
    with pytest.raises(StateError, match="cannot read the journal"):
        read_events(tmp_path / "absent")
    with pytest.raises(StateError, match="cannot open the journal"):
        Journal(tmp_path / "absent" / "journal.jsonl")


def test_a_disk_that_fills_up_leaves_no_half_line(path, monkeypatch):
    """Some bytes went through, then ENOSPC: they are taken back, and later events are fine."""
    before = write(path)
    journal = Journal(path)
    real, calls = os.write, []

    def write_some(fd, data):
        calls.append(len(data))
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data[:10])

    monkeypatch.setattr(journals.os, "write", write_some)
    with pytest.raises(StateError, match="cannot write the journal: the disk is full"):
        journal.append([opened(), rejected()])
    assert path.read_bytes() == before
    monkeypatch.setattr(journals.os, "write", real)
    journal.append([rejected("later")])
    journal.close()
    assert read_events(path) == [*EVENTS, rejected("later")]


def test_half_a_line_that_could_not_be_taken_back_goes_before_the_next_one(path, monkeypatch):
    """Two faults at once: the write, and what was to undo it."""
    write(path)
    journal = Journal(path)
    real = os.write

    def fails(*_):
        raise OSError(errno.EIO, "Input/output error")

    def write_some(fd, data):
        real(fd, data[:10])
        fails()

    with monkeypatch.context() as patch:
        patch.setattr(journals.os, "write", write_some)
        patch.setattr(journals.os, "ftruncate", fails)
        for _ in range(2):
            with pytest.raises(StateError, match="Input/output error"):
                journal.append([opened()])
    journal.append([rejected("later")])
    journal.close()
    assert read_events(path) == [*EVENTS, rejected("later")]


def test_what_could_not_be_synced_is_not_in_the_journal(path, monkeypatch):
    """Whoever is told that it failed finds it undone after a restart, too."""
    before = write(path)
    journal = Journal(path)

    def fail(fd):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(journals.os, "fdatasync", fail)
    with pytest.raises(StateError, match="Input/output error"):
        journal.append([opened()])
    assert path.read_bytes() == before
    journal.append([rejected("not synced")], sync=False)
    journal.close()
    assert read_events(path) == [*EVENTS, rejected("not synced")]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_event_that_could_not_be_read_back_is_not_written(path, bad):
    """JSON has no NaN: such a line would make the whole run unreadable."""
    before = write(path)
    journal = Journal(path)
    with pytest.raises(StateError, match="an event that cannot be stored"):
        journal.append([rejected(), happened.RunPaused(at=bad, reason="x")])
    with pytest.raises(StateError, match="an event that cannot be stored"):
        journal.append([rejected("caf\udce9")])
    journal.close()
    assert path.read_bytes() == before


def test_threads_do_not_write_into_each_others_lines(path, monkeypatch):
    """The disk's thread and the main thread append at the same time, to a disk that takes
    a few bytes at a time."""
    write(path)
    real = os.write
    monkeypatch.setattr(journals.os, "write", lambda fd, data: real(fd, data[:99]))
    journal = Journal(path)

    def append(agent: str) -> None:
        for _ in range(100):
            journal.append([rejected("x" * 500, agent), rejected("y", agent)], sync=False)

    threads = [threading.Thread(target=append, args=(f"agent-{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.close()
    events = read_events(path)[len(EVENTS) :]
    assert len(events) == 800
    assert all(a.agent == b.agent for a, b in zip(events[::2], events[1::2], strict=True))


def test_a_closed_journal_is_never_written_to(path):
    """Its file's number may belong to another file by then."""
    before = write(path)
    journal = Journal(path)
    journal.close()
    with (
        path.with_name("other").open("wb"),
        pytest.raises(StateError, match="cannot write the journal"),
    ):
        journal.append([opened()])
    assert path.read_bytes() == before and path.with_name("other").read_bytes() == b""


def test_a_number_that_was_changed_breaks_the_chain_at_its_line(path, caplog):
    """It is a whole event still; going on with the journal says so, and leaves the break there."""
    data = write(path)
    assert verdict(path).fault is None and verdict(path).chained
    path.write_bytes(data.replace(b'"need":1', b'"need":2'))
    assert verdict(path).broken_at == 2
    journal = Journal(path)
    journal.append([rejected("later")])
    journal.close()
    assert "the chain breaks at line 2" in caplog.text and "the run continues" in caplog.text
    found = verdict(path)
    assert (found.broken_at, found.breaks, found.lines) == (2, 1, 5)


def test_a_torn_tail_is_no_break(path, caplog):
    """Power was cut at any byte of the last line: the chain goes on after the one before."""
    data = write(path)
    start = data[:-1].rindex(b"\n") + 1
    for end in range(start, len(data)):
        path.write_bytes(data[:end])
        assert verdict(path).fault is None
        journal = Journal(path)
        journal.append([opened()])
        journal.close()
        assert verdict(path).fault is None and verdict(path).lines == 4
    assert "chain" not in caplog.text


def test_a_journal_of_an_older_version_goes_on_chained(path, caplog):
    """What it has is vouched for from then on; before, it is called what it is."""
    lines = [json.loads(line) for line in write(path).splitlines()]
    for line in lines:
        del line["chain"]
    old = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    path.write_bytes(old)
    assert read_events(path) == EVENTS
    assert (verdict(path).fault, verdict(path).chained) == (None, False)
    journal = Journal(path)
    journal.append([rejected("later")])
    journal.close()
    found = verdict(path)
    assert (found.fault, found.chained, found.unchained) == (None, True, 4)
    assert caplog.text == ""
    path.write_bytes(path.read_bytes().replace(b"NaN", b"Nan"))
    assert verdict(path).broken_at == 5  # the first line that vouches for it


def test_only_what_no_power_cut_takes_back_is_the_head(path):
    """A head that is kept elsewhere must still be in the journal after one."""
    journal = Journal(path)
    journal.append([started()])
    first = journal.head
    assert first == json.loads(path.read_bytes())["chain"]
    journal.append([opened()], sync=False)
    assert journal.head == first
    journal.sync()
    assert journal.head == verdict(path).head != first
    journal.close()


def test_what_could_not_be_written_is_not_in_the_chain(path, monkeypatch):
    """The line that follows it seals what is there."""
    write(path)
    journal = Journal(path)
    with monkeypatch.context() as patch:

        def fail(fd):
            raise OSError(errno.EIO, "Input/output error")

        patch.setattr(journals.os, "fdatasync", fail)
        with pytest.raises(StateError):
            journal.append([opened()])
    journal.append([rejected("later")])
    assert verdict(path).fault is None and journal.head == verdict(path).head
    journal.close()


def test_an_event_keeps_its_number_after_a_restart(path):
    """It is its index in the journal; each is told once, in the journal's order."""
    journal = Journal(path)
    first, second, third = started(), opened(), rejected("NaN")
    journal.append([first])
    journal.append([second, third], sync=False)
    told = [*journal.told(second), *journal.told(second), *journal.told(third)]
    assert [(t.seq, t.event) for t in told] == [(0, first), (1, second), (2, third)]
    journal.close()
    journal = Journal(path)
    end = RunFinished(at=9.0)
    journal.append([end])
    (last,) = journal.told(end)
    assert (last.seq, last.head) == (3, journal.head)
    assert [*published(path)][3:] == [*published(path, after=2)] == [last]
    journal.close()
