"""The process of `flctl web`: its socket, its connections to the coordinator, its end."""

import logging
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import uvicorn
from starlette.types import ASGIApp

from flctl.errors import CoordinatorAway, StateError
from flctl.fleet.connecting import connect_coordinator
from flctl.fleet.console import RemoteRuns
from flctl.terminal import logs
from flctl.terminal.output import print_line
from flctl.transport.addresses import Address, parse_address, reachable, to_bind
from flctl.web.agent_pages import AgentPages, AlertPages, SecurityPages
from flctl.web.doorway import own_names
from flctl.web.limits import IDLE_S, BoundedConnection
from flctl.web.login import TOKEN, Login, secret_of
from flctl.web.metrics import MetricsPage
from flctl.web.orders import Orders
from flctl.web.pages import DoorPages, FleetPages
from flctl.web.run_pages import RunPages
from flctl.web.site import Site

STALLED_MS = 20_000
"""After so long without an acknowledgement the kernel ends a connection."""
MOST_REQUESTS = 200
"""Connections; beyond it requests get a 503."""
FOLDER = "web"
"""In the state folder: the login's token and the key of its sessions."""


class WebOptions(NamedTuple):
    bind: str
    names: Sequence[str] = ()
    """Further names under which the page is reached."""
    login: bool = False
    """Ask for the token on this machine, too."""
    read_only: bool = False
    metrics_only: bool = False
    metrics_token: Path | None = None
    local: bool = True
    """It listens on loopback; found out when it does."""


def run_web(state: Path, context: str | None, options: WebOptions, verbose: bool = False) -> None:
    """Until it is interrupted. Raises FlctlError."""
    logs.set_up(verbose)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    socket_ = listening(options.bind)
    host, port = socket_.getsockname()[:2]
    options = options._replace(local=host.startswith("127.") or host == "::1")
    folder = state / FOLDER
    site = site_of(state, context, options, folder)
    address = reachable(str(Address(host, port)))
    if options.metrics_only:
        print_line(f"metrics      http://{address}/metrics")
    else:
        print_line(f"page         http://{address}")
    if site.login is not None:
        print_line(f"token        in {folder / TOKEN}")
    server(site, options).run(sockets=[socket_])


def site_of(state: Path, context: str | None, options: WebOptions, folder: Path) -> Site:
    """`folder` keeps the token and the key of sessions. Raises FlctlError."""

    def open_() -> RemoteRuns:
        return connect_coordinator(state, context)

    with suppress(CoordinatorAway):  # it may come later; a wrong context is an error now
        open_().close()
    if options.metrics_token is not None:
        secret_of(options.metrics_token, "--metrics-token")
    asks = (options.login or not options.local) and not options.metrics_only
    login = Login(folder) if asks else None
    return Site(open_, login, options.read_only, follows=not options.metrics_only)


def app_of(site: Site, options: WebOptions) -> ASGIApp:
    routes = DoorPages(site).routes
    routes += MetricsPage(site.inquiries, options.metrics_token, options.local).routes
    if not options.metrics_only:
        for pages in (FleetPages, Orders, RunPages, AgentPages, AlertPages, SecurityPages):
            routes += pages(site).routes
    return site.app(routes, {*own_names(), *options.names})


def server(site: Site, options: WebOptions) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(
            app_of(site, options),
            log_config=None, access_log=False, server_header=False, date_header=False,
            limit_concurrency=MOST_REQUESTS, timeout_keep_alive=int(IDLE_S),
            timeout_graceful_shutdown=2, http=BoundedConnection, ws="none", lifespan="on",
        )
    )  # fmt: skip


def listening(bind: str) -> socket.socket:
    """Raises UsageError, StateError."""
    address = to_bind(parse_address(bind, lowest_port=0))
    family = socket.AF_INET6 if address.is_ipv6 else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STALLED_MS)
    try:
        made.bind((address.host, address.port))
    except OSError as error:
        made.close()
        raise StateError(f"--bind {bind}: {error.strerror}; name another address") from error
    return made
