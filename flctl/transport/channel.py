"""The seam between the fleet's logic and the network.

`flctl.transport.zeromq` implements it over CURVE sockets, `tests/memory_network.py`
in one process. Nothing here blocks but `wait`.
"""

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import NamedTuple, Protocol

Frame = bytes | memoryview


class Incoming(NamedTuple):
    """A message from one peer."""

    peer: bytes
    """Address for answers; it changes with each reconnection."""
    key: str
    """The peer's public key in Z85 (who it is), or LOCAL for the control socket."""
    frames: list[Frame]
    origin: str = ""
    """The peer's IP address; `localhost:UID:GID:PID` of one on the control socket."""


LOCAL = "local"
"""The `key` of a peer on the control socket: the operator on this machine."""


class Sent(Enum):
    OK = "ok"
    GONE = "gone"
    """The peer is no longer connected."""
    SLOW = "slow"
    """Its queue is full: try again later."""


class Hub(Protocol):
    """The coordinator's side: one socket for all agents (and one for local control)."""

    def receive(self) -> Iterable[Incoming]:
        """Everything that has arrived, without waiting."""

    def send(self, peer: bytes, frames: Sequence[Frame]) -> Sent: ...

    def lost_connections(self) -> bool:
        """Whether any connection was closed since the last call (which one is not known)."""

    def wait(self, timeout_s: float, readable: Sequence[int] = ()) -> None:
        """Until something has arrived, `wake` is called, one of the file descriptors in
        `readable` has data, or the time is over."""

    def wake(self) -> None:
        """End a `wait`; may be called from another thread."""

    def close(self) -> None: ...


class LinkEvent(Enum):
    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    KEY_REFUSED = "key refused"
    """The coordinator does not know this agent's key. ZeroMQ does not retry: `reopen`."""
    SERVER_KEY_WRONG = "server key wrong"
    """The process listening there does not have the given server key."""


class Link(Protocol):
    """The agent's (or operator's) side: one connection to the coordinator."""

    def send(self, frames: Sequence[Frame]) -> bool:
        """False when it is not connected or the queue is full; nothing is sent then."""

    def receive(self) -> Iterable[list[Frame]]:
        """Everything that has arrived, without waiting."""

    def events(self) -> Iterable[LinkEvent]:
        """Events of the connection since the last call."""

    def wait(self, timeout_s: float, readable: Sequence[int] = ()) -> None:
        """Until something has arrived or happened, one of the file descriptors in
        `readable` has data, or the time is over."""

    def reopen(self) -> None:
        """Discard the socket and connect again."""

    def use_server_keys(self, keys: Sequence[str]) -> None:
        """From now on the coordinator is known by one of these; a connection to one with another
        key is ended."""

    def trouble(self) -> str | None:
        """Reason why there is no connection; None while that is being found out: ask again.
        Never waits."""

    def close(self) -> None: ...
