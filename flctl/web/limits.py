"""What one client may take: connections, the time to send a request, the time to read a file."""

import asyncio
import logging
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from starlette.responses import FileResponse
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

logger = logging.getLogger(__name__)

OF_ONE = 100
"""Connections from one address. With more, its longest idle one is closed."""
IDLE_S = 15.0
"""How long a connection may be without a whole request."""
SLOW_S = 15.0
"""How long a client may take to read 64 KiB of a file."""


class BoundedConnection(H11Protocol):
    """Of uvicorn, which waits for ever for a first request, and refuses everybody's while one
    client holds as many connections as there may be."""

    late: asyncio.TimerHandle | None = None

    @property
    def host(self) -> str:
        return self.client[0] if self.client else ""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()
        same = [
            c for c in self.connections if isinstance(c, BoundedConnection) and c.host == self.host
        ]
        if len(same) > OF_ONE:
            idle = (c for c in same if c.late is not None)
            min(idle, key=lambda c: c.late.when() if c.late else 0.0, default=self).drop()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._rest()

    def drop(self) -> None:
        self._rest()
        self.connections.discard(self)
        self.transport.abort()

    def _watch(self) -> None:
        """Bytes that are no whole request do not prolong the time."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._rest()
        elif self.late is None and not self.transport.is_closing():
            self.late = self.loop.call_later(IDLE_S, self.drop)

    def _rest(self) -> None:
        if self.late is not None:
            self.late.cancel()
            self.late = None


class BoundedFile(FileResponse):
    """`ends` is closed when the file is sent, or its reader is gone or too slow."""

    def __init__(self, path: Path, name: str, ends: ExitStack) -> None:
        super().__init__(path, filename=f"{name}.safetensors")
        self._ends = ends

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def timely(message: Message) -> None:
            await asyncio.wait_for(send(message), SLOW_S)

        try:
            await super().__call__(scope, receive, timely)
        except* TimeoutError:
            logger.info("a checkpoint that is read too slowly is not sent to its end")
        finally:
            self._ends.close()
