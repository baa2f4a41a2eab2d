"""A bad network between agents and coordinator: a TCP proxy that holds, slows and breaks.

Held bytes are not lost: as on a network that comes back, TCP delivers them then. A held
connection hides its end, too: no FIN and no RST gets through.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any, Literal

Way = Literal["up", "down"]
"""Up: towards the coordinator."""
PIECE = 16 * 1024
SEND_BUFFER = 64 * 1024
"""Small, so that what counts as moved has arrived: a reset throws away what the kernel still holds,
megabytes if it may, and no network between two hosts ever saw those."""


class Proxy:
    """Listens on `host`, forwards to `to` (HOST:PORT). Attributes may be set at any time."""

    def __init__(self, to: str, host: str = "127.0.0.1", port: int = 0) -> None:
        self.to = to
        self.bytes_per_s: float | None = None
        """In each direction of each connection."""
        self.delay_s = 0.0
        self.reset_every: int | None = None
        """Bytes after which a connection is reset, both directions together."""
        self.source: str | None = None
        """The address that the coordinator sees."""
        self.taken: list[bytearray] | None = None
        """What went up each connection, once this is a list."""
        self.moved = {"up": 0, "down": 0}
        self.resets = 0
        self._held: set[Way] = set()
        self._connections: set[_Connection] = set()
        self._listener = socket.create_server((host, port), backlog=1024)
        self._listener.setblocking(False)
        address = self._listener.getsockname()
        self.port = int(address[1])
        self.address = f"{address[0]}:{self.port}"
        self._tasks: set[asyncio.Task[None]] = set()
        self._there = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._run(),), daemon=True)
        self._thread.start()
        self._there.wait()

    # Faults ---------------------------------------------------------------------------

    def hold(self, *ways: Way) -> None:
        """Nothing more gets through that way, on any connection."""
        self._call(lambda: self._held.update(ways or ("up", "down")))

    def release(self) -> None:
        self._call(self._held.clear)

    def freeze(self) -> None:
        """The connections that there are hang for ever; new ones are fine."""

        def freeze() -> None:
            for connection in self._connections:
                connection.frozen = True

        self._call(freeze)

    def reset(self) -> None:
        """Break all connections, with RST."""
        self._call(lambda: [connection.reset() for connection in list(self._connections)])

    @property
    def connections(self) -> int:
        return len(self._connections)

    def close(self) -> None:
        self._call(self._stop.set)
        self._thread.join(10)
        self._listener.close()

    # In the loop ----------------------------------------------------------------------

    def _call(self, work: Callable[[], Any]) -> None:
        done = threading.Event()

        def run() -> None:
            try:
                work()
            finally:
                done.set()

        self._loop.call_soon_threadsafe(run)
        assert done.wait(10), "the proxy hangs"

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._spawn(self._listen())
        self._there.set()
        await self._stop.wait()

    def _spawn(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _listen(self) -> None:
        while True:
            near, _ = await self._loop.sock_accept(self._listener)
            self._spawn(self._connect(near))

    async def _connect(self, near: socket.socket) -> None:
        while self._held:
            await asyncio.sleep(0.05)
        far = socket.socket()
        far.setblocking(False)
        try:
            if self.source is not None:
                far.bind((self.source, 0))
            host, port = self.to.rsplit(":", 1)
            await self._loop.sock_connect(far, (host, int(port)))
        except OSError:
            near.close()
            far.close()
            return
        near.setblocking(False)
        for sock in (near, far):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        connection = _Connection(near, far)
        self._connections.add(connection)
        if self.taken is not None:
            connection.taken = bytearray()
            self.taken.append(connection.taken)
        pumps = [
            self._loop.create_task(self._pump(connection, near, far, "up")),
            self._loop.create_task(self._pump(connection, far, near, "down")),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._connections.discard(connection)
            connection.close()

    async def _pump(
        self, connection: "_Connection", source: socket.socket, sink: socket.socket, way: Way
    ) -> None:
        late: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=64)
        reading = self._loop.create_task(self._read(connection, source, way, late))
        try:
            while True:
                at, data = await late.get()
                await asyncio.sleep(max(0.0, at - self._loop.time()))
                while connection.frozen or way in self._held:
                    await asyncio.sleep(0.02)
                if not data:
                    raise ConnectionResetError
                await self._loop.sock_sendall(sink, data)
                self.moved[way] += len(data)
                connection.moved += len(data)
                if self.reset_every is not None and connection.moved >= self.reset_every:
                    connection.moved = 0
                    self.resets += 1
                    connection.reset()
                    raise ConnectionResetError
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await reading

    async def _read(
        self,
        connection: "_Connection",
        source: socket.socket,
        way: Way,
        late: "asyncio.Queue[tuple[float, bytes]]",
    ) -> None:
        data = b"-"
        while data:
            while connection.frozen or way in self._held:
                await asyncio.sleep(0.02)
            try:
                most = PIECE if self.bytes_per_s is None else int(self.bytes_per_s / 20)
                data = await self._loop.sock_recv(source, min(PIECE, max(1, most)))
            except OSError:
                data = b""
            if way == "up" and connection.taken is not None:
                connection.taken += data
            await late.put((self._loop.time() + self.delay_s, data))
            if self.bytes_per_s is not None:
                await asyncio.sleep(len(data) / self.bytes_per_s)


class _Connection:
    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self.near, self.far = near, far
        self.frozen = False
        self.moved = 0
        self.taken: bytearray | None = None

    def reset(self) -> None:
        for sock in (self.near, self.far):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        self.near.close()
        self.far.close()
