"""The page of one coordinator: what all of its parts share, and the ASGI app that they make."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Collection
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from flctl.errors import AccessError, FlctlError, UsageError
from flctl.formats import moment
from flctl.web import fleet_view, viewers, words
from flctl.web.asking import Inquiries, NotThere, Open
from flctl.web.doorway import Doorway
from flctl.web.feed import FLEET, KEYS, Feed, FleetSeen
from flctl.web.limits import IDLE_S
from flctl.web.login import Login
from flctl.web.picture import RunPicture
from flctl.web.rendering import FOLDER, render
from flctl.web.shelf import RunShelf

KEPT = 30
"""Changes of the table of agents that a page may have missed while it was loaded."""


class Site:
    """`login`: None where none is asked for; `read_only`: no buttons, whatever the key may do;
    without `follows` there is no feed: for /metrics alone."""

    def __init__(
        self,
        open_: Open,
        login: Login | None = None,
        read_only: bool = False,
        follows: bool = True,
    ) -> None:
        self.feed = Feed(open_)
        self._follows = follows
        self.login, self.read_only = login, read_only
        self.inquiries = Inquiries(open_, self.feed.poke if follows else lambda: "")
        self.slow = Inquiries(open_, self.feed.poke)
        """For answers of agents, so that nothing else waits for them."""
        self.shelf = RunShelf(self.feed, self.inquiries)
        self.viewers = viewers.Viewers()
        self._rows: dict[str, fleet_view.AgentRow] = {}
        """As the open pages have them …"""
        self._patches: deque[tuple[float, bytes]] = deque(maxlen=KEPT)
        """… and how they came to be so: the status of when, and what it changed."""
        self._was_away = ""
        self._loop: asyncio.AbstractEventLoop | None = None

    # Between the feed's thread and the event loop ---------------------------------------

    def begin(self) -> None:
        """In the event loop."""
        self._loop = asyncio.get_running_loop()
        self.feed.watched = lambda: len(self.viewers) > 0
        self.feed.told = self._on_told
        if self._follows:
            self.feed.start()

    def end(self) -> None:
        if self._follows:
            self.feed.close()
        self.inquiries.close()
        self.slow.close()

    def _on_told(self, topics: set[str]) -> None:
        """From the feed's thread."""
        messages: list[tuple[str, bytes]] = []
        if FLEET in topics:
            messages += self._cells()
        if self.feed.away != self._was_away:
            self._was_away = self.feed.away
            self.inquiries.forget_role()
            messages.append(("", self.beat()))
        messages += [
            (topic, viewers.message("changed", f'["{topic}"]')) for topic in sorted(topics)
        ]
        self._hand_over(messages)

    def publish(self, topic: str, event: str, data: str) -> None:
        """From any thread: to all pages that are open on the topic."""
        self._hand_over([(topic, viewers.message(event, data))])

    def _hand_over(self, messages: list[tuple[str, bytes]]) -> None:
        def publish() -> None:
            for topic, message in messages:
                self.viewers.publish(topic, message)

        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(publish)

    def _cells(self) -> list[tuple[str, bytes]]:
        fleet, _ = self.seen()
        if fleet is None:
            return []
        now = fleet_view.rows(fleet)
        patch = fleet_view.changed(self._rows, now)
        self._rows = {row.name: row for row in now}
        if not patch:
            return []
        message = viewers.message("cells", msgspec.json.encode(patch).decode())
        self._patches.append((fleet.at, message))
        return [(FLEET, message)]

    def _missed(self, seen: float) -> list[bytes]:
        """What a page has to hear that shows the status of that time."""
        self.feed.poke()
        patches = list(self._patches)
        if patches and len(patches) == KEPT and patches[0][0] > seen:
            return [viewers.message("changed", f'["{KEYS}"]')]
        return [message for at, message in patches if at > seen]

    def beat(self) -> bytes:
        away, fleet = self.feed.away, self.feed.fleet
        if away and fleet is not None:
            away += f", last heard at {moment(fleet.at)}; the figures are of that time"
        told = {"away": words.sentence(away), "at": moment(time.time())}
        return viewers.message("beat", msgspec.json.encode(told).decode())

    # For pages --------------------------------------------------------------------------

    def seen(self) -> tuple[FleetSeen | None, RunPicture | None]:
        with self.feed.lock:
            return self.feed.fleet, self.feed.run

    def may_change(self) -> bool:
        if self.read_only or self.feed.away:
            return False
        try:
            return self.inquiries.role() == "admin"
        except FlctlError:
            return False

    def page(self, template: str, here: str, **values: Any) -> Response:
        about = {"here": here, "admin": self.may_change(), "login": self.login is not None}
        return HTMLResponse(render(template, **about, **values))

    def app(self, routes: Collection[BaseRoute], names: Collection[str]) -> Doorway:
        async def lifespan(_: Starlette) -> Any:
            self.begin()
            yield
            await asyncio.to_thread(self.end)

        events = viewers.EventStream(self.viewers, self.beat, self._missed)
        static = StaticFiles(directory=FOLDER / "static")
        app = Starlette(
            routes=[*routes, Route("/events", events), Mount("/static", static)],
            lifespan=contextlib.asynccontextmanager(lifespan),
            exception_handlers={FlctlError: _refused, 404: _not_found},
        )
        return Doorway(app, names, self.login)


Handler = Callable[[Request], Response]
Order = Callable[[Request, dict[str, str]], Response]


def form(order: Order) -> Callable[[Request], Any]:
    """An endpoint that takes the fields of a form; it may wait."""

    async def endpoint(request: Request) -> Response:
        try:
            body = (await asyncio.wait_for(request.body(), IDLE_S)).decode(errors="replace")
        except (ClientDisconnect, TimeoutError):  # or it was too large, and cut off
            return PlainTextResponse("the body is not whole, or too large", 413)
        try:
            fields = dict(parse_qsl(body, keep_blank_values=True, max_num_fields=50))
        except ValueError:
            return PlainTextResponse("the form has more than 50 fields", 413)
        return await run_in_threadpool(order, request, fields)

    return endpoint


def _refused(request: Request, error: Exception) -> Response:
    """An expected error, in words."""
    codes = {AccessError: 403, NotThere: 404, UsageError: 400}
    code = next((code for kind, code in codes.items() if isinstance(error, kind)), 502)
    looks = request.method == "GET"
    if "hx-request" in request.headers:
        if looks:  # what the page shows stays; its head says that the coordinator is away
            return Response(status_code=204)
        return HTMLResponse(render("said.html", tone="bad", text=str(error)), code)
    again = looks and code == 502
    return trouble(code, str(error), again)


def _not_found(request: Request, _: Exception) -> Response:
    if "text/html" not in request.headers.get("accept", ""):
        return PlainTextResponse("there is no such page", 404)
    return trouble(404, "there is no such page")


def trouble(code: int, text: str, again: bool = False) -> Response:
    return HTMLResponse(render("trouble.html", code=code, text=text, again=again), code)
