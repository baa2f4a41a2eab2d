"""The socket that a container's health check asks."""

import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from flctl.transport.health import HealthPort, ask, in_words


@pytest.fixture
def port(tmp_path: Path) -> Iterator[HealthPort]:
    port = HealthPort(tmp_path, "agent")
    yield port
    port.close()


def asked(folder: Path, port: HealthPort) -> dict[str, object]:
    """What `folder` says while the loop of `port` turns once."""
    found: dict[str, object] = {}
    asker = threading.Thread(target=lambda: found.update(ask(folder)))
    asker.start()
    while asker.is_alive():
        port.answer(lambda: {"text": "agent pi-01: ready"})
        asker.join(0.01)
    return found


def test_a_socket_that_cannot_be_removed_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """As on a disk that may only be read by now."""
    port = HealthPort(tmp_path, "coordinator")
    (tmp_path / "coordinator.sock").unlink()
    (tmp_path / "coordinator.sock").mkdir()
    port.close()


def test_whoever_asks_is_told_by_the_loop(tmp_path: Path, port: HealthPort) -> None:
    found = asked(tmp_path, port)
    assert found == {"agent": {"text": "agent pi-01: ready"}}
    assert in_words(tmp_path, found) == (True, "agent pi-01: ready")


def test_a_loop_that_stands_still_is_not_well(
    tmp_path: Path, port: HealthPort, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flctl.transport.health.ANSWER_S", 0.1)
    assert in_words(tmp_path, ask(tmp_path)) == (False, "agent does not answer")


def test_a_killed_process_leaves_a_socket_that_does_not_answer(tmp_path: Path) -> None:
    """And its successor takes the place over."""
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / "agent.sock"))
    left.close()
    assert in_words(tmp_path, ask(tmp_path)) == (False, "agent does not answer")
    port = HealthPort(tmp_path, "agent")
    assert asked(tmp_path, port)["agent"] is not None
    port.close()
    assert not list(tmp_path.iterdir())
    assert in_words(tmp_path, ask(tmp_path))[1].startswith("neither an agent nor a coordinator")


def test_the_socket_is_private_and_may_lie_deep(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    port = HealthPort(deep, "coordinator")
    assert stat.S_IMODE((deep / "coordinator.sock").stat().st_mode) == 0o600
    assert "coordinator" in asked(deep, port)
    port.close()


def test_an_asker_that_does_not_listen_does_not_stop_the_loop(
    tmp_path: Path, port: HealthPort
) -> None:
    deaf = [socket.socket(socket.AF_UNIX) for _ in range(8)]
    for sock in deaf:
        sock.connect(str(tmp_path / "agent.sock"))
        sock.close()
    assert asked(tmp_path, port)["agent"] is not None


def test_the_command_loads_nothing_heavy(tmp_path: Path) -> None:
    """As a container calls it: neither torch nor the rest of the command line."""
    code = (
        "import sys; from flctl.__main__ import main\n"
        "try: main()\n"
        "finally: print(sorted({'torch','typer','zmq','msgspec'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "health"],
        env={**os.environ, "FLCTL_STATE": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout.endswith("runs on " + str(tmp_path) + "\n[]\n")
