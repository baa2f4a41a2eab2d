"""Finds out why a connection fails: ZeroMQ retries without reporting an error."""

import contextlib
import errno
import socket
import threading
import time
from collections.abc import Callable

from flctl.transport.addresses import Address

ANSWER_S = 2.0
"""How long a host may take to answer, and its name to be found; longer counts as no answer."""


class Diagnosis:
    """One attempt at a time, on a thread of its own: a resolver can block for long."""

    def __init__(self, address: Address, clock: Callable[[], float] = time.monotonic) -> None:
        self._address, self._clock = address, clock
        self._thread: threading.Thread | None = None
        self._began = 0.0
        self._found: str | None = None

    def trouble(self) -> str | None:
        """What happens when the address is dialled, and what to check; None: not known yet, ask
        again. The next call after an answer starts over."""
        if self._thread is None:
            self._found, self._began = None, self._clock()
            self._thread = threading.Thread(target=self._try, name="flctl-dial", daemon=True)
            self._thread.start()
        if self._found is not None:
            self._thread = None
            return self._found
        if self._clock() - self._began > ANSWER_S + 0.5:
            return (  # the thread is still at it, and is asked again the next time
                f"the name {self._address.host} cannot be resolved: no DNS server answers; check "
                "this device's network and DNS, or use the IP address"
            )
        return None

    def _try(self) -> None:
        self._found = dialled(self._address)


def dialled(address: Address, timeout_s: float = ANSWER_S) -> str:
    """What happens when `address` is dialled, and what to check. Blocks."""
    host, port = address.host, address.port
    family = socket.AF_INET6 if address.is_ipv6 else socket.AF_INET  # as the link itself
    try:
        found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError):
        local = "; names that end in .local need mDNS (avahi)" if host.endswith(".local") else ""
        return (
            f"the name {host} is unknown: check its spelling and this device's DNS, or use the "
            f"IP address{local}"
        )
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(timeout_s)
        try:
            probe.connect(found[0][4])
        except OSError as error:
            return _why(error, host, port)
        with contextlib.suppress(OSError):
            probe.shutdown(socket.SHUT_RDWR)
    return (
        f"another program answers there: check that "
        f"port {port} is the coordinator's; if it is just starting, wait"
    )


def _why(error: OSError, host: str, port: int) -> str:
    if isinstance(error, ConnectionRefusedError):
        return (
            f"connection refused: {host} is up, and no program listens on port {port}; check that "
            "flctl coordinator runs there, and on that port"
        )
    if isinstance(error, TimeoutError):
        return (
            f"no answer: {host} is off, has another address, or a firewall drops port {port}/tcp; "
            "check the address and the firewalls on the way"
        )
    if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN):
        return (
            f"no route to {host}: check this device's network (ip route), and the address; is "
            f"{host} switched on?"
        )
    return f"{error.strerror or error}: check the address, and this device's network"
