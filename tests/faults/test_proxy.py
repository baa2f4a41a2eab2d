"""The proxy does what the tests of the network rely on."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from proxy import Proxy

pytestmark = pytest.mark.smoke


class Echo:
    """Gives back what it gets; notes when a connection ends."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.peers: list[str] = []
        self.ended = threading.Event()
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            try:
                sock, (host, _) = self.listener.accept()
            except OSError:
                return
            self.peers.append(host)
            threading.Thread(target=self.echo, args=(sock,), daemon=True).start()

    def echo(self, sock: socket.socket) -> None:
        with sock:
            try:
                while data := sock.recv(65536):
                    sock.sendall(data)
            except OSError:
                pass
        self.ended.set()


@pytest.fixture
def echo() -> Iterator[Echo]:
    echo = Echo()
    yield echo
    echo.listener.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    proxy = Proxy(echo.address)
    yield proxy
    proxy.close()


def dial(proxy: Proxy) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", proxy.port), timeout=20)
    sock.sendall(b"hello")
    assert sock.recv(5) == b"hello"
    return sock


def test_held_bytes_come_later_and_ends_are_hidden(proxy: Proxy, echo: Echo):
    """A black hole: neither data nor the end of a connection get through; then both do."""
    one, other = dial(proxy), dial(proxy)
    proxy.hold()
    one.sendall(b"x" * 1000)
    other.close()
    one.settimeout(0.5)
    with pytest.raises(TimeoutError):
        one.recv(1)
    assert not echo.ended.is_set()
    proxy.release()
    one.settimeout(20)
    assert one.recv(1) == b"x"
    assert echo.ended.wait(20)
    one.close()


def test_one_direction_alone_can_be_held(proxy: Proxy, echo: Echo):
    """What goes up arrives, its answer does not."""
    sock = dial(proxy)
    proxy.hold("down")
    sock.sendall(b"y")
    until = time.monotonic() + 20
    while proxy.moved["up"] < 6 and time.monotonic() < until:
        time.sleep(0.01)
    assert proxy.moved == {"up": 6, "down": 5}
    proxy.release()
    assert sock.recv(1) == b"y"
    sock.close()


def test_frozen_connections_hang_and_new_ones_work(proxy: Proxy):
    """As when a router forgets them."""
    old = dial(proxy)
    proxy.freeze()
    dial(proxy).close()
    old.sendall(b"z")
    old.settimeout(0.5)
    with pytest.raises(TimeoutError):
        old.recv(1)
    old.close()


def test_it_delays_slows_resets_and_changes_the_address(proxy: Proxy, echo: Echo):
    """Each as it says."""
    proxy.delay_s = 0.2
    began = time.monotonic()
    dial(proxy).close()
    assert time.monotonic() - began >= 0.4
    proxy.delay_s, proxy.bytes_per_s = 0.0, 100_000
    sock = dial(proxy)
    began = time.monotonic()
    sock.sendall(bytes(60_000))
    got = 0
    while got < 60_000:
        got += len(sock.recv(65536))
    assert time.monotonic() - began >= 0.4
    sock.close()
    proxy.bytes_per_s, proxy.reset_every, proxy.source = None, 20, "127.0.0.9"
    sock = dial(proxy)
    with pytest.raises(ConnectionResetError):
        for _ in range(100):
            sock.sendall(b"123456789")
            sock.recv(9)
            time.sleep(0.01)
    assert proxy.resets and echo.peers[-1] == "127.0.0.9"
    sock.close()
