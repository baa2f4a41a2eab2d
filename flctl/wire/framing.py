"""Frames on the wire: `[magic + protocol number][message][payload?]`.

The protocol number stands before the message, so that one of another version is
recognised without being decoded. Number 0 is for ever the notice "your protocol is not
spoken here"; its body is a plain map that every version reads.
"""

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from flctl.errors import NOT_DECODED, MalformedMessage, ProtocolMismatch, decoded
from flctl.wire.messages import CHUNK_BYTES, Message, ToAgent, ToCoordinator, ToOperator

MAGIC = b"flc"
PROTOCOL = 2
"""Raised when a message changes so that an older peer would refuse it."""
OLDEST = max(2, PROTOCOL - 1)
"""The coordinator speaks this one too, so that it can be upgraded first; not number 1, which no
published version spoke."""
NOTICE = 0
HEADER_BYTES = 64 * 1024
"""The most that an encoded message may take."""

Frame = bytes | memoryview
M = TypeVar("M")


class Notice(msgspec.Struct, frozen=True):
    """Body of a protocol-0 frame. Later versions may add fields, never change these."""

    oldest: int
    newest: int
    version: str


_encoder = msgspec.msgpack.Encoder()
_notice = msgspec.msgpack.Decoder(Notice)


class Decoder:
    """Decodes the messages of one direction; speaks protocols `oldest` to `newest`."""

    def __init__(self, union: object, oldest: int = OLDEST, newest: int = PROTOCOL) -> None:
        self._decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(union)
        self.oldest = oldest
        self.newest = newest

    def __call__(self, frames: Sequence[Frame]) -> tuple[int, Message, Frame | None]:
        """The protocol number, the message, and the payload if there is one.

        Raises ProtocolMismatch, or MalformedMessage with the reason.
        """
        protocol = self.protocol_of(frames)
        if not self.oldest <= protocol <= self.newest:
            raise ProtocolMismatch(protocol, self.oldest, self.newest)
        if len(frames) not in (2, 3):
            raise MalformedMessage(f"{len(frames)} frames instead of 2 or 3")
        header, payload = frames[1], frames[2] if len(frames) == 3 else None
        if len(header) > HEADER_BYTES:
            raise MalformedMessage(f"a message of {len(header)} bytes, {HEADER_BYTES} at most")
        if payload is not None and len(payload) > CHUNK_BYTES:
            raise MalformedMessage(f"a payload of {len(payload)} bytes, {CHUNK_BYTES} at most")
        with decoded(MalformedMessage, "not a message of this protocol"):
            return protocol, self._decoder.decode(header), payload

    @staticmethod
    def protocol_of(frames: Sequence[Frame]) -> int:
        prefix = bytes(frames[0][:5]) if frames else b""
        if len(prefix) != 4 or prefix[:3] != MAGIC or len(frames[0]) != 4:
            raise MalformedMessage("not the protocol of flctl")
        return prefix[3]


def which_first(oldest: int, theirs: int, name: str = "NAME") -> str:
    """What to upgrade, as a command, where an agent speaks `theirs` and its coordinator others."""
    if theirs < oldest:
        return f"upgrade the agent: flctl upgrade -i INVENTORY --limit {name}"
    return "upgrade the coordinator first: flctl upgrade -i INVENTORY"


def spoken(oldest: int, newest: int) -> str:
    return f"{oldest} to {newest}" if oldest < newest else f"{newest}"


def to_coordinator() -> Decoder:
    return Decoder(ToCoordinator)


def to_agent() -> Decoder:
    return Decoder(ToAgent, oldest=PROTOCOL)


def to_operator() -> Decoder:
    return Decoder(ToOperator, oldest=PROTOCOL)


def encode(message: Message, payload: Frame | None = None, protocol: int = PROTOCOL) -> list[Frame]:
    frames: list[Frame] = [MAGIC + bytes([protocol]), _encoder.encode(message)]
    if payload is not None:
        frames.append(payload)
    return frames


def notice(version: str, oldest: int = OLDEST, newest: int = PROTOCOL) -> list[Frame]:
    """What a peer of a protocol outside `oldest` … `newest` is answered."""
    body = _encoder.encode(Notice(oldest=oldest, newest=newest, version=version))
    return [MAGIC + bytes([NOTICE]), body]


def read_notice(frames: Sequence[Frame]) -> Notice:
    """Raises MalformedMessage."""
    try:
        return _notice.decode(frames[1])
    except (IndexError, *NOT_DECODED) as error:
        raise MalformedMessage("not a notice of the supported protocols") from error
