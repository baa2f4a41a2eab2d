"""Fetches the updates of one round, chunk by chunk, into files of its spool."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from msgspec import Struct

from flctl.coordinator.run.context import RunHost
from flctl.errors import MalformedMessage
from flctl.files import explained
from flctl.transport.blobs import Credit, Download
from flctl.transport.channel import Frame
from flctl.wire.messages import Chunk, UpdateReady

logger = logging.getLogger(__name__)

WINDOW = 8
"""Chunks requested from one agent at a time: 2 MiB keep a fast link busy."""
BUDGET = 32
"""Chunks requested from all agents at a time: 8 MiB, however many agents there are."""
STALL_S = 15.0
"""After this long without a chunk, missing chunks are requested again."""


class Transfer(Struct):
    offer: UpdateReady
    download: Download
    fd: int
    path: Path
    active: bool = True

    def throw_away(self) -> None:
        os.close(self.fd)
        with contextlib.suppress(OSError):  # it goes with the spool, then
            self.path.unlink(missing_ok=True)


class Downloads:
    """`ended(agent, why)`: all bytes are here with the offered digest, or `why` not. `spares` are
    files that are no longer needed."""

    def __init__(
        self,
        spool: Path,
        host: RunHost,
        clock: Callable[[], float],
        ended: Callable[[str, str], None],
        spares: Sequence[Path] = (),
    ) -> None:
        self._spool, self._host, self._clock, self._ended = spool, host, clock, ended
        self._spares = list(spares)
        self._transfers: dict[str, Transfer] = {}
        self._credit: Credit[str] = Credit(BUDGET, WINDOW)
        with contextlib.suppress(OSError):  # left by a coordinator that was killed
            for path in spool.glob(".*.part"):
                path.unlink()

    def pull(self, agent: str, offer: UpdateReady) -> None:
        """Fetch what the agent offers, from where an interrupted transfer of it ended."""
        known = self._transfers.get(agent)
        if known is None or known.offer.update != offer.update:
            self._drop(agent)
            path = self._spool / f".{agent}.part"
            with explained(path, "store an update"):
                fd = self._new_file(path, offer.update.size)
            known = Transfer(offer, Download(offer.update.blob, offer.update.size, fd), fd, path)
            self._transfers[agent] = known
        else:
            known.offer, known.active = offer, True
            known.download.restart()
        self._credit.forget(agent)
        self._look_at(agent, known)
        self._pump()

    def _new_file(self, path: Path, size: int) -> int:
        """Over a spare one of this size: to free its blocks and find new ones takes ext4 longer
        than the bytes do."""
        fresh = os.O_CREAT | os.O_TRUNC
        while self._spares and fresh:
            with contextlib.suppress(OSError):  # removed meanwhile
                spare = self._spares.pop()
                if spare.stat().st_size == size:
                    spare.rename(path)
                    fresh = 0
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | fresh, 0o600)

    def on_chunk(self, agent: str, chunk: Chunk, payload: Frame) -> None:
        transfer = self._transfers.get(agent)
        if transfer is None or transfer.offer.update.blob != chunk.blob or not transfer.active:
            return
        self._credit.returned(agent)
        try:
            with explained(transfer.path, "store an update"):
                transfer.download.on_chunk(chunk.offset, payload, self._clock())
        except MalformedMessage as error:
            self._drop(agent)
            self._ended(agent, str(error))
        else:
            self._look_at(agent, transfer)
        self._pump()

    def suspend(self, agent: str) -> None:
        """The agent is gone; its bytes stay, in case it comes back."""
        if agent in self._transfers:
            self._transfers[agent].active = False
        self._credit.forget(agent)
        self._pump()

    def forget(self, agent: str, digest: str) -> bool:
        """The agent no longer has the blob; returns whether it was being fetched."""
        transfer = self._transfers.get(agent)
        if transfer is None or transfer.offer.update.blob != digest or transfer.download.done:
            return False
        self._drop(agent)
        self._pump()
        return True

    def on_time(self, now: float) -> None:
        for agent, transfer in self._transfers.items():
            if transfer.active and transfer.download.stalled(now, STALL_S):
                text = "round=%d agent=%s transfer stalled; asking again"
                self._host.gate.info(logger, agent, text, transfer.offer.key.round, agent)
                transfer.download.restart(now)
                self._credit.forget(agent)
        self._pump()

    def take(self, agents: Iterable[str]) -> dict[str, Transfer]:
        """Hand over the complete transfers of these agents, with their open files."""
        return {agent: self._transfers.pop(agent) for agent in agents}

    def close(self) -> None:
        """The round is over: drop the transfers that were not taken."""
        for agent in list(self._transfers):
            self._drop(agent)

    def _look_at(self, agent: str, transfer: Transfer) -> None:
        if not transfer.download.done:
            return
        transfer.active = False
        self._credit.forget(agent)
        why = ""
        try:
            transfer.download.finish()
        except MalformedMessage as error:
            self._drop(agent)
            why = str(error)
        self._ended(agent, why)

    def _pump(self) -> None:
        """Ask for chunks, fairly, within the credit."""
        asked = True
        while asked:
            asked = False
            for agent, transfer in self._transfers.items():
                if not transfer.active or not self._credit.may_send(agent):
                    continue
                request = transfer.download.peek()
                if request is not None and self._host.tell(agent, request):
                    transfer.download.asked(request, self._clock())
                    self._credit.sent(agent)
                    asked = True

    def _drop(self, agent: str) -> None:
        transfer = self._transfers.pop(agent, None)
        self._credit.forget(agent)
        if transfer is not None:
            transfer.throw_away()
