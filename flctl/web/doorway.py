"""What every request passes: the Host and Origin headers, the size of its body, the session; and
the headers that every answer gets."""

import ipaddress
import socket
from collections.abc import Collection
from http.cookies import CookieError, SimpleCookie
from urllib.parse import quote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flctl.web.login import Login

MOST_BYTES = 64 * 1024
"""Of a request's body."""
OPEN_TO_ALL = ("/login", "/health", "/metrics", "/static/")
"""Paths that need no session; /metrics has a token of its own."""
HEADERS = {
    "content-security-policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
        "object-src 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # No other site gets one. With no-referrer, browsers would send "Origin: null" with forms.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


def own_names() -> set[str]:
    """Names of this machine."""
    name = socket.gethostname().lower()
    return {"localhost", name, f"{name.partition('.')[0]}.local"}


class Doorway:
    """`login`: None where no session is needed. `names` are those under which the page is
    reached."""

    def __init__(self, app: ASGIApp, names: Collection[str], login: Login | None) -> None:
        self._app, self._login = app, login
        self._names = {name.lower() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    given[name] = value
                if "cache-control" not in given:
                    given["cache-control"] = "no-store"
            await send(message)

        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await refusal(scope, receive, answer)
        else:
            await self._app(scope, _bounded(receive), answer)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        host = headers.get("host", "")
        if not self._is_ours(host):
            text = "this page is not served under that name; flctl web --name adds it"
            return PlainTextResponse(text, 421)
        if scope["method"] not in ("GET", "HEAD", "POST"):
            return PlainTextResponse("only GET and POST", 405)
        if _length(headers) > MOST_BYTES:
            return PlainTextResponse("the body is too large", 413)
        if scope["method"] == "POST" and not _same_origin(headers, host):
            return PlainTextResponse("this form was not sent by a page of this server", 403)
        return self._stranger(scope, headers)

    def _stranger(self, scope: Scope, headers: Headers) -> Response | None:
        """The answer to one who is not logged in and has to be."""
        login, path = self._login, str(scope["path"])
        if login is None or path.startswith(OPEN_TO_ALL):
            return None
        if login.is_in(_cookie(headers, login.cookie)):
            return None
        is_page = "text/html" in headers.get("accept", "") and "hx-request" not in headers
        if scope["method"] == "GET" and is_page:
            return RedirectResponse(f"/login?next={quote(path)}", 303)
        return PlainTextResponse("log in first", 401)

    def _is_ours(self, host: str) -> bool:
        """A name of a stranger that leads here is DNS rebinding; a number cannot be that."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name.rstrip(".") in self._names
        return True


def _same_origin(headers: Headers, host: str) -> bool:
    """Browsers send Origin with every POST. A proxy may have another scheme than this process."""
    try:
        origin = urlsplit(headers.get("origin", ""))
    except ValueError:
        return False
    return origin.scheme in ("http", "https") and origin.netloc.lower() == host.lower()


def _length(headers: Headers) -> int:
    text = headers.get("content-length", "0")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else MOST_BYTES + 1


def _cookie(headers: Headers, name: str) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return ""
    return found.value if found is not None else ""


def _bounded(receive: Receive) -> Receive:
    """A body without a length is cut off at the bound, too."""
    left = MOST_BYTES

    async def bounded() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        return message if left >= 0 else {"type": "http.disconnect"}

    return bounded
