"""Open pages: each has a queue with a bound, and one that reads too slowly is let go."""

import asyncio
import logging
from collections.abc import Callable
from urllib.parse import parse_qs

from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

logger = logging.getLogger(__name__)

MOST = 64
"""Pages that are open at a time."""
QUEUE = 50
"""Messages that wait for a page. With more it is let go: it asks again by itself."""
BEAT_S = 2.0
"""How often a page hears that it is still connected."""


SLOW_S = 15.0
"""How long a page may leave a message unread."""


class TooMany(Exception):
    """As many pages are open as may be."""


class Viewer:
    def __init__(self, topics: frozenset[str]) -> None:
        self.topics = topics
        self._queue: asyncio.Queue[bytes] = asyncio.Queue(QUEUE)
        self.dropped = False

    def put(self, message: bytes) -> None:
        try:
            self._queue.put_nowait(message)
        except asyncio.QueueFull:
            self.dropped = True

    async def next(self, within_s: float = BEAT_S) -> bytes | None:
        """The next message; None when there is none for so long."""
        try:
            return await asyncio.wait_for(self._queue.get(), within_s)
        except TimeoutError:
            return None


class Viewers:
    """All methods are called from the event loop."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._all: set[Viewer] = set()

    def __len__(self) -> int:
        return len(self._all)

    def wants(self, topic: str) -> bool:
        return any(topic in viewer.topics for viewer in self._all)

    def join(self, topics: frozenset[str]) -> Viewer:
        if len(self._all) >= self._most:
            raise TooMany
        viewer = Viewer(topics)
        self._all.add(viewer)
        return viewer

    def leave(self, viewer: Viewer) -> None:
        self._all.discard(viewer)

    def publish(self, topic: str, message: bytes) -> None:
        """To the pages that want it; an empty topic is for all."""
        for viewer in self._all:
            if not topic or topic in viewer.topics:
                viewer.put(message)


def message(event: str, data: str) -> bytes:
    """Of an event stream; `data` is JSON, and so one line."""
    return f"event: {event}\ndata: {data}\n\n".encode()


class EventStream:
    """An ASGI app: the events of one viewer, for as long as it reads them."""

    def __init__(
        self, viewers: Viewers, beat: Callable[[], bytes], missed: Callable[[float], list[bytes]]
    ) -> None:
        """`missed`: what has changed since the time that the page is of."""
        self._viewers, self._beat, self._missed = viewers, beat, missed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = parse_qs(scope["query_string"].decode("latin-1"))
        topics = asked.get("topics", [""])[0][:200].split(",")
        try:
            viewer = self._viewers.join(frozenset(topics))
        except TooMany:
            text = f"{len(self._viewers)} pages are open, as many as may be; close one of them"
            await PlainTextResponse(text, 503)(scope, receive, send)
            return
        for each in self._missed(_number(asked.get("seen", [""])[0])):
            viewer.put(each)
        gone = asyncio.ensure_future(_until_gone(receive))
        try:
            await self._send(viewer, gone, send)
        except TimeoutError:
            logger.info("a page that reads too slowly is let go")
        finally:
            gone.cancel()
            self._viewers.leave(viewer)

    async def _send(self, viewer: Viewer, gone: "asyncio.Future[None]", send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        body: bytes | None = self._beat()
        while not (viewer.dropped or gone.done()):
            part = {"type": "http.response.body", "body": body or self._beat(), "more_body": True}
            await asyncio.wait_for(send(part), SLOW_S)
            body = await viewer.next()


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
