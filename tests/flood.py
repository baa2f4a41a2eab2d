"""Peers with a valid key that send messages of very many frames, whole or never finished."""

import contextlib
import socket
import threading

import zmq
from real_fleet import wait_for

from flctl.transport.guard import wire_bytes
from flctl.transport.keypair import KeyPair
from flctl.wire import framing
from flctl.wire.messages import Message

PIECE = 1 << 20


class Relay:
    """Forwards one connection up to a byte. libzmq's own client sends a message only when its last
    frame is there; this one holds back the last frame."""

    def __init__(self, port: int) -> None:
        self.sent = 0
        self.most: int | None = None
        self.closed = threading.Event()
        """By the coordinator."""
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._socks: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._run, daemon=True)]
        self._threads[0].start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            inner, _ = self._listener.accept()
            self._listener.close()
            outer = socket.create_connection(("127.0.0.1", self._to))
            self._socks += [inner, outer]
            back = threading.Thread(target=self._back, args=(outer, inner), daemon=True)
            self._threads.append(back)
            back.start()
            while not self.closed.is_set():
                left = PIECE if self.most is None else min(PIECE, self.most - self.sent)
                if not left:
                    self.closed.wait(0.02)
                    continue
                data = inner.recv(left)
                if not data:
                    return
                outer.sendall(data)
                self.sent += len(data)

    def _back(self, outer: socket.socket, inner: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := outer.recv(PIECE):
                inner.sendall(data)
        self.closed.set()
        for sock in (inner, outer):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for sock in (self._listener, *self._socks):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        self.closed.set()
        for thread in self._threads:
            thread.join(10)


class Flooder:
    """One connection with the key `pair`."""

    def __init__(self, port: int, server_key: str, pair: KeyPair) -> None:
        self.relay = Relay(port)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.sock = self._context.socket(zmq.DEALER)
        self.sock.linger = 0
        self.sock.sndhwm = 0
        self.sock.immediate = 1
        self.sock.reconnect_ivl = -1
        self.sock.curve_serverkey = server_key.encode()
        self.sock.curve_publickey = pair.public.encode()
        self.sock.curve_secretkey = pair.secret.encode()
        self.sock.connect(f"tcp://127.0.0.1:{self.relay.port}")

    def is_let_in(self, within_s: float = 10.0) -> bool:
        return bool(self.sock.poll(int(1000 * within_s), zmq.POLLOUT))

    def say(self, message: Message) -> None:
        self.sock.send_multipart(framing.encode(message))

    def prepare(self, frames: int, size: int) -> None:
        """All frames but the last; nothing of them is sent yet."""
        data, send, more = bytes(size), self.sock.send, zmq.SNDMORE
        copy = size < 1 << 16
        for _ in range(frames - 1):
            send(data, more, copy=copy)

    def fire(self, frames: int, size: int, finished: bool) -> None:
        """Send it, with its last frame or without."""
        if not finished:
            self.relay.most = self.relay.sent + (frames - 1) * wire_bytes(size)
        self._bytes = self.relay.sent + frames * wire_bytes(size)
        self.sock.send(bytes(size))

    def until_over(self, within_s: float = 60.0) -> None:
        """All is sent that is to be, or the coordinator has closed the connection."""
        over = self.relay.most or self._bytes
        wait_for(
            lambda: self.relay.closed.is_set() or self.relay.sent >= over, "the flood", within_s
        )

    def close(self) -> None:
        self.sock.close()
        self.relay.close()
        self._context.term()
