"""The framing between a supervisor and its worker, and what a death is called."""

import os
import signal
import socket
import struct
from pathlib import Path

import msgspec
import pytest

from flctl.errors import MalformedMessage, WorkerError
from flctl.wire.messages import Sums
from flctl.worker.death import explain, oom_kills
from flctl.worker.jobs import (
    AnyEvent,
    AnyJob,
    DataSource,
    EvaluateJob,
    Initialise,
    JobFailed,
    Scored,
    Stepped,
)
from flctl.worker.main import Runner
from flctl.worker.pipe import MESSAGE_BYTES, Pipe, Unpacker, nameless_file


def packed(message: msgspec.Struct, with_fd: bool = False) -> bytes:
    body = msgspec.msgpack.encode(message)
    return struct.pack(">I?", len(body), with_fd) + body


def test_messages_in_pieces_of_any_length_come_out_whole() -> None:
    """Byte by byte or all at once, the same messages in the same order."""
    sent = [Stepped(step=n, steps=9, loss=0.5) for n in range(3)]
    stream = b"".join(packed(message) for message in sent)
    for size in (1, 2, 7, len(stream)):
        unpacker: Unpacker[AnyEvent] = Unpacker(AnyEvent)
        pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
        got = [message for piece in pieces for message, _ in unpacker.feed(piece, [])]
        assert got == sent


def test_a_descriptor_belongs_to_its_message() -> None:
    """It may arrive with an earlier piece than the message that names it."""
    unpacker: Unpacker[AnyEvent] = Unpacker(AnyEvent)
    plain, carrying = Stepped(step=1, steps=2, loss=0.1), Stepped(step=2, steps=2, loss=0.1)
    stream = packed(plain) + packed(carrying, with_fd=True)
    assert unpacker.feed(stream[:-1], [77]) == [(plain, None)]
    assert unpacker.feed(stream[-1:], []) == [(carrying, 77)]


def test_descriptors_cross_the_pipe_and_are_not_inherited() -> None:
    """What the other end reads from it is what was written; a child does not get it."""
    ours, theirs = socket.socketpair()
    sender: Pipe[AnyJob] = Pipe(ours, AnyJob)
    receiver: Pipe[AnyEvent] = Pipe(theirs, AnyEvent)
    fd = nameless_file("test")
    os.write(fd, b"model")
    sender.send(Stepped(step=1, steps=1, loss=0.0), fd)
    ((_, got),) = receiver.receive_now()
    assert got is not None and os.pread(got, 10, 0) == b"model"
    assert not os.get_inheritable(got)
    assert receiver.receive_now() == [] and not receiver.ended
    sender.close()
    assert receiver.receive_now() == [] and receiver.ended
    receiver.close()
    os.close(fd)
    os.close(got)


def test_descriptors_of_half_a_message_are_closed() -> None:
    """A worker that dies while it sends leaves no open file behind."""
    fd = nameless_file("test")
    unpacker: Unpacker[AnyEvent] = Unpacker(AnyEvent)
    assert unpacker.feed(b"\x00", [fd]) == []
    unpacker.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_too_long_a_message_is_refused_on_both_ends() -> None:
    """64 KiB at most, so that a send never blocks."""
    ours, theirs = socket.socketpair()
    pipe: Pipe[AnyEvent] = Pipe(ours, AnyEvent)
    with pytest.raises(WorkerError, match="at most"):
        pipe.send(Initialise(given={"task": "x" * MESSAGE_BYTES}, where="test"))
    with pytest.raises(MalformedMessage):
        Unpacker(AnyEvent).feed(struct.pack(">I?", MESSAGE_BYTES + 1, False), [])
    pipe.close()
    theirs.close()


def test_the_oom_killer_is_named_only_with_evidence() -> None:
    """SIGKILL alone is a killed worker; with the kernel's count it is want of memory."""
    assert explain(-signal.SIGKILL, 0) == JobFailed(
        kind="worker died", message="the worker was killed (signal 9 SIGKILL)"
    )
    killed = explain(-signal.SIGKILL, 1)
    assert killed.kind == "out of memory" and "probably out of memory" in killed.message
    assert explain(1, 1).kind == "worker died"
    assert "this processor" in explain(-signal.SIGILL, 0).message


def test_oom_kills_are_counted_in_both_kinds_of_control_groups(tmp_path: Path) -> None:
    """The machine's own count, version 1 and version 2 together; 0 without any."""
    assert oom_kills(tmp_path) == 0
    files = {
        "proc/self/cgroup": "4:memory:/a\n0::/b\n",
        "proc/vmstat": "nr_free_pages 5\noom_kill 1\n",
        "sys/fs/cgroup/memory/a/memory.oom_control": "under_oom 0\noom_kill 10\n",
        "sys/fs/cgroup/b/memory.events": "oom 7\noom_kill 100\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert oom_kills(tmp_path) == 111


def test_a_promised_file_that_does_not_come_is_told():
    """By the fuzzer: a message that says a file goes with it, and none does."""
    body = msgspec.msgpack.encode(Stepped(step=1, steps=2, loss=0.5))
    with pytest.raises(MalformedMessage, match="without the file"):
        Unpacker(AnyEvent).feed(len(body).to_bytes(4, "big") + b"\1" + body, [])


def test_what_is_quoted_of_a_damaged_message_is_printable():
    """By the fuzzer, too."""
    body = msgspec.msgpack.encode({"type": "step\x10\n"})
    with pytest.raises(MalformedMessage) as told:
        Unpacker(AnyEvent).feed(len(body).to_bytes(4, "big") + b"\0" + body, [])
    assert str(told.value).isprintable()


def test_an_outcome_that_is_too_large_is_a_failed_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a table of three hundred thousand numbers: the process goes on."""
    left, right = socket.socketpair()
    ours: Pipe[AnyEvent] = Pipe(left, AnyEvent)
    theirs: Pipe[AnyJob] = Pipe(right, AnyJob)
    table = tuple(tuple(range(10**9, 10**9 + 1000)) for _ in range(300))
    metrics = Sums(examples=1, means={}, counts={"classes": table})
    monkeypatch.setattr(Runner, "_outcome", lambda *_: (Scored(parts={"all": metrics}), None))
    Runner(theirs).run(EvaluateJob(task="x", source=DataSource(), side="agent", threads=1), None)
    ((event, _),) = ours.receive()
    assert isinstance(event, JobFailed) and "bytes" in event.message
    ours.close()
    theirs.close()
