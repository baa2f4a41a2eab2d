"""Why a connection does not come about, in the words that an agent's log has."""

import errno
import socket

import pytest

from flctl.transport import diagnosis
from flctl.transport.addresses import Address
from flctl.transport.diagnosis import Diagnosis, dialled


def test_a_port_on_which_no_program_listens():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # so that no other program takes it
        port = silent.getsockname()[1]
        text = dialled(Address("127.0.0.1", port))
    assert f"connection refused: 127.0.0.1 is up, and no program listens on port {port}" in text


def test_a_program_that_is_no_coordinator():
    """It accepts the connection, and that is all."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        text = dialled(Address("127.0.0.1", server.getsockname()[1]))
    assert text.startswith("another program answers there")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EHOSTUNREACH, "No route to host"), "no route to pc.local"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "no route to pc.local"),
        (TimeoutError("timed out"), "no answer: pc.local is off"),
        (PermissionError(errno.EPERM, "Operation not permitted"), "Operation not permitted"),
    ],
)
def test_what_happens_on_the_way(monkeypatch, error, said):
    """Each with what to check."""

    class Probe(socket.socket):
        def connect(self, _):
            raise error

    monkeypatch.setattr(diagnosis.socket, "socket", Probe)
    monkeypatch.setattr(diagnosis.socket, "getaddrinfo", lambda *_: [(0, 0, 0, "", ("", 1))])
    text = dialled(Address("pc.local", 7700))
    assert text.startswith(said) and "check" in text and "\n" not in text


@pytest.mark.parametrize("error", [socket.gaierror(-2, "unknown"), UnicodeError("no name")])
def test_a_name_that_is_unknown(monkeypatch, error):
    def getaddrinfo(*_):
        raise error

    monkeypatch.setattr(diagnosis.socket, "getaddrinfo", getaddrinfo)
    text = dialled(Address("pc.local", 7700))
    assert text.startswith("the name pc.local is unknown") and "mDNS" in text
    assert "mDNS" not in dialled(Address("pc", 7700))


def test_a_resolver_that_blocks_is_not_waited_for(monkeypatch):
    """The agent goes on meanwhile, and says so in the end."""
    told = diagnosis.threading.Event()
    monkeypatch.setattr(diagnosis, "dialled", lambda _: told.wait(60) and "refused")
    now = 0.0
    tried = Diagnosis(Address("pc", 7700), lambda: now)
    assert tried.trouble() is None
    now = diagnosis.ANSWER_S
    assert tried.trouble() is None
    now += 1.0
    assert "no DNS server answers" in (tried.trouble() or "")
    thread = tried._thread
    assert thread is not None
    told.set()
    thread.join(60)
    assert tried.trouble() == "refused"
