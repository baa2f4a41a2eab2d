"""Models go to whoever reads them; who does not read holds up nobody and costs little."""

import hashlib
from pathlib import Path

from flctl.coordinator.front.serving import Serving
from flctl.transport.channel import Sent
from flctl.wire.messages import CHUNK_BYTES, Chunk, Fetch, Message

BYTES = 40 * CHUNK_BYTES


def test_peers_that_read_nothing_do_not_hold_up_the_others(tmp_path: Path):
    """Ten queues are full; in one step the eleventh peer has all that it asked for."""
    path = tmp_path / "model"
    path.write_bytes(bytes(BYTES))
    digest = hashlib.sha256(bytes(BYTES)).hexdigest()
    mute = {f"mute-{n}".encode() for n in range(10)}
    got: list[int] = []

    def send(peer: bytes, message: Message, payload: bytes | None) -> Sent:
        if peer in mute:
            return Sent.SLOW
        assert isinstance(message, Chunk) and payload is not None
        got.append(message.offset)
        return Sent.OK

    serving = Serving(send)
    serving.put(digest, path)
    for peer in (*sorted(mute), b"honest"):
        for number in range(8):
            fetch = Fetch(blob=digest, offset=number * CHUNK_BYTES, length=CHUNK_BYTES)
            serving.on_fetch(peer, fetch)
    assert got == [number * CHUNK_BYTES for number in range(8)]
    serving.close()


def test_a_file_that_is_put_again_is_read_again(tmp_path: Path):
    """The first one was damaged while it was served; the second has the same digest."""
    good, bad = bytes(CHUNK_BYTES), bytes([1]) * CHUNK_BYTES
    digest = hashlib.sha256(good).hexdigest()
    path = tmp_path / "model"
    got: list[bytes | None] = []

    def send(_: bytes, __: Message, payload: bytes | None) -> Sent:
        got.append(payload)
        return Sent.OK

    serving = Serving(send)
    for content in (bad, good):
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        serving.put(digest, path)
        serving.on_fetch(b"peer", Fetch(blob=digest, offset=0, length=CHUNK_BYTES))
    assert got == [bad, good]
    serving.close()
