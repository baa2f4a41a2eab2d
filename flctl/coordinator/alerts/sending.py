"""Sends alerts to a webhook or a command: one attempt each call, bounded in time.

Called from threads that may hang; `abort` ends what is in progress. An attempt that returns was
taken; every other outcome is a SinkError in one line, which never has the secret.
"""

import contextlib
import hashlib
import hmac
import http.client
import os
import platform
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec

from flctl import __version__
from flctl.coordinator.alerts.settings import (
    CommandSettings,
    WebhookSettings,
    read_secret,
    tls,
)
from flctl.core.alerts import AlertNotice
from flctl.errors import FlctlError, one_line
from flctl.values import seconds

SHOWN = 3
"""Notices that the summary quotes."""
HIDDEN = "FLCTL_"
"""Variables that a command does not get: some name secrets."""


class SinkError(FlctlError): ...


class Sink(Protocol):
    def send(self, notices: Sequence[AlertNotice]) -> None:
        """Raises SinkError, SettingsError."""

    def abort(self) -> None:
        """Let `send` in another thread fail soon."""


def summary(notices: Sequence[AlertNotice]) -> str:
    """One line for people."""
    said = [f"{n.event} {n.alert} {n.subject}" + (f": {n.text}" if n.text else "") for n in notices]
    more = f"; and {len(said) - SHOWN} more" if len(said) > SHOWN else ""
    return f"flctl: {'; '.join(said[:SHOWN])}{more}"


def body_of(notices: Sequence[AlertNotice], sent: float) -> bytes:
    """JSON document of these notices; JSON escapes whatever their texts contain."""
    shown: list[dict[str, Any]] = []
    for notice in notices:
        each = msgspec.to_builtins(notice)
        shown.append({**each, "since": _date(notice.since), "at": _date(notice.at)})
    return msgspec.json.encode(
        {
            "schema": 1,
            "text": summary(notices),
            "coordinator": platform.node()[:200],
            "sent": _date(sent),
            "alerts": shown,
        }
    )


def _date(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


class Webhook:
    """A JSON POST. TLS is verified, redirects are not followed, proxies of the environment are not
    used."""

    def __init__(self, settings: WebhookSettings) -> None:
        self._settings, self._target = settings, settings.target
        self._timeout_s = seconds(settings.timeout, "timeout")
        self._socket: socket.socket | None = None
        self._late = threading.Event()

    def send(self, notices: Sequence[AlertNotice]) -> None:
        body = body_of(notices, time.time())
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"flctl/{__version__}",
            "Connection": "close",
            **self._proof(body),
        }
        try:
            with self._connected() as connection:
                path = (self._target.path or "/") + ("?" * bool(self._target.query))
                connection.request("POST", path + self._target.query, body, headers)
                status = connection.getresponse().status
        except (OSError, http.client.HTTPException, ValueError) as error:
            if self._late.is_set() or isinstance(error, TimeoutError):
                raise SinkError(f"no answer within {self._timeout_s:g} s") from error
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise SinkError(one_line(why, 200)) from error
        if 300 <= status < 400:
            raise SinkError(f"HTTP {status}: redirects are not followed; set the new url")
        if not 200 <= status < 300:
            raise SinkError(f"HTTP {status}")

    def abort(self) -> None:
        if (held := self._socket) is not None:
            with contextlib.suppress(OSError):
                held.shutdown(socket.SHUT_RDWR)

    def _give_up(self) -> None:
        self._late.set()
        self.abort()

    def _proof(self, body: bytes) -> dict[str, str]:
        """Read from the file each time, so that the secret can be replaced."""
        secret = read_secret(self._settings)
        if not secret:
            return {}
        if self._settings.auth == "bearer":
            return {"Authorization": f"Bearer {secret.decode()}"}
        digest = hmac.new(secret, body, hashlib.sha256).hexdigest()
        return {"X-Flctl-Signature-256": f"sha256={digest}"}

    @contextlib.contextmanager
    def _connected(self) -> Iterator[http.client.HTTPConnection]:
        """A connection that is shut down when its time is over, however slowly the other side
        answers: a timeout of the socket begins again with every byte."""
        host, port = self._target.hostname, self._target.port
        context = tls(self._settings)
        port = port or (80 if context is None else 443)
        assert host is not None
        self._late.clear()
        connection = http.client.HTTPConnection(host, port, timeout=self._timeout_s)
        plain = socket.create_connection((host, port), self._timeout_s)
        with contextlib.ExitStack() as stack:
            stack.callback(connection.close)
            stack.callback(plain.close)
            # A second descriptor of the connection: TLS takes the first one over.
            self._socket = stack.enter_context(plain.dup())
            watchdog = threading.Timer(self._timeout_s, self._give_up)
            watchdog.daemon = True
            watchdog.start()
            stack.callback(watchdog.cancel)
            connection.sock = _secured(plain, context, host)
            yield connection
        self._socket = None


def _secured(plain: socket.socket, context: ssl.SSLContext | None, host: str) -> socket.socket:
    return plain if context is None else context.wrap_socket(plain, server_hostname=host)


class Command:
    """A program with a list of arguments, never a shell; the JSON is on its standard input."""

    def __init__(self, settings: CommandSettings) -> None:
        self._args, self._timeout_s = settings.run, seconds(settings.timeout, "timeout")
        self._process: subprocess.Popen[bytes] | None = None

    def send(self, notices: Sequence[AlertNotice]) -> None:
        text = summary(notices)
        args = [each.replace("{text}", text) for each in self._args]
        try:
            self._process = subprocess.Popen(
                args,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                env={k: v for k, v in os.environ.items() if not k.startswith(HIDDEN)},
                cwd="/",
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            why = one_line(getattr(error, "strerror", None) or error)
            raise SinkError(f"{self._args[0]}: {why}") from error
        try:
            self._process.communicate(body_of(notices, time.time()), self._timeout_s)
        except subprocess.TimeoutExpired:
            self.abort()
            raise SinkError(f"{self._args[0]}: took longer than {self._timeout_s:g} s") from None
        finally:
            code, self._process = self._process.wait(), None
        if code:
            raise SinkError(f"{self._args[0]}: exit code {code}")

    def abort(self) -> None:
        """Also what it has started."""
        if (held := self._process) is not None and held.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(held.pid, signal.SIGKILL)
