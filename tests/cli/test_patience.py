"""What a person at a terminal sees while nothing else happens."""

import contextlib
import os
import pty
import signal
import socket
import sys
import time
from multiprocessing.connection import wait
from pathlib import Path

from real_fleet import WITHIN_S

from flctl.fleet.context import Context, save_context
from flctl.transport.keypair import KeyPair


def test_a_person_sees_that_an_answer_is_awaited(tmp_path: Path):
    """A coordinator that says nothing: after a second the terminal says so, and Ctrl-C ends it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = f"127.0.0.1:{silent.getsockname()[1]}"
        own = KeyPair.make()
        context = Context(
            coordinator=where,
            server_key=KeyPair.make().public,
            public_key=own.public,
            secret_key=own.secret,
        )
        save_context(tmp_path, context)
        pid, terminal = pty.fork()
        if pid == 0:
            words = [sys.executable, "-m", "flctl", "status", "--state", str(tmp_path)]
            os.execve(sys.executable, words, {**os.environ, "TERM": "xterm", "COLUMNS": "100"})
        said, end = b"", time.monotonic() + WITHIN_S
        while f"waiting for the coordinator at {where}".encode() not in said:
            assert time.monotonic() < end, said
            if wait([terminal], 1.0):
                said += os.read(terminal, 4096)
        os.kill(pid, signal.SIGINT)
        with contextlib.suppress(OSError):  # the terminal's end, once nobody has it open
            while more := os.read(terminal, 4096):
                said += more
        _, status = os.waitpid(pid, 0)
        os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 130
    assert b"Traceback" not in said
