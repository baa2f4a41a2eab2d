"""Collects the updates of one round: pulls them chunk by chunk, checks them, makes them safe.

An update counts only after its bytes have the digest that was offered, its tensors fit
the model, its file has its name, and the journal says so. It is safe, and its agent told
so, when file and journal are synced. All updates that arrive while the disk is busy share
one sync; that of a round's last ones goes on while they are averaged.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Set
from pathlib import Path
from typing import Protocol

from msgspec import Struct, field

from flctl.coordinator.background import Background
from flctl.coordinator.store.folder import RunFolder
from flctl.coordinator.store.journal import Journal
from flctl.core.history import UpdateStored
from flctl.errors import MalformedMessage, ParametersError
from flctl.files import Syncing, explained
from flctl.settings import LocalTraining
from flctl.transport.blobs import Credit, Download
from flctl.transport.channel import Frame
from flctl.transport.gate import Gate
from flctl.wire.compression import check_update
from flctl.wire.messages import Chunk, Message, UpdateReady
from flctl.wire.parameters import ParameterFile

logger = logging.getLogger(__name__)

WINDOW = 8
"""Chunks asked of one agent at a time: 2 MiB keep a fast link busy."""
BUDGET = 32
"""Chunks asked of all agents at a time: 8 MiB, however many agents there are."""
STALL_S = 15.0
"""After so long without a chunk, what is missing is asked for again."""


class Teller(Protocol):
    @property
    def gate(self) -> Gate: ...

    def tell(self, agent: str, message: Message) -> bool: ...


class Outcome(Struct):
    """What became of updates: stored, refused with the reason, or the disk failed."""

    stored: list[UpdateStored] = field(default_factory=list)
    syncing: Syncing | None = None
    """Stored ones are safe after its `wait` and a sync of the journal; None: they are safe."""
    rejected: list[tuple[str, str]] = field(default_factory=list)
    error: BaseException | None = None


class _Pull(Struct):
    offer: UpdateReady
    download: Download
    fd: int
    path: Path
    active: bool = True


class Collection:
    def __init__(
        self,
        folder: RunFolder,
        round_id: int,
        asked: LocalTraining,
        fleet: Teller,
        disk: Background,
        journal: Journal,
        wall_clock: Callable[[], float],
        clock: Callable[[], float],
        are_last: Callable[[Set[str]], bool],
        report: Callable[[Outcome], None],
    ) -> None:
        """`are_last`: whether the round waits for nobody but these agents."""
        self._round, self._asked = round_id, asked
        self._spool = folder.make_spool(round_id)
        self._rounds = folder.rounds_path
        self._base = folder.model_path(round_id - 1)
        self._fleet, self._disk, self._journal = fleet, disk, journal
        self._wall_clock, self._clock = wall_clock, clock
        self._are_last, self._report = are_last, report
        self._pulls: dict[str, _Pull] = {}
        self._whole: dict[str, _Pull] = {}
        """All bytes are here; waiting for the disk."""
        self._storing: dict[str, _Pull] = {}
        self._credit: Credit[str] = Credit(BUDGET, WINDOW)
        _remove_parts(self._spool)

    @property
    def storing(self) -> bool:
        """Some update is on its way to the disk; the outcome comes soon."""
        return bool(self._storing or self._whole)

    def has_whole(self, agent: str) -> bool:
        return agent in self._whole or agent in self._storing

    def pull(self, agent: str, offer: UpdateReady) -> None:
        """Fetch what the agent offers; goes on where an interrupted transfer of it ended."""
        if self.has_whole(agent):
            return
        pull = self._pulls.get(agent)
        if pull is None or pull.offer.blob != offer.blob:
            self._drop(agent)
            path = self._spool / f".{agent}.part"
            with explained(path, "store an update"):
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            pull = _Pull(offer, Download(offer.blob, offer.size, fd), fd, path)
            self._pulls[agent] = pull
        else:
            pull.offer, pull.active = offer, True
            pull.download.restart()
        self._credit.forget(agent)
        if pull.download.done:
            self._arrived(agent)
        self._pump()

    def on_chunk(self, agent: str, chunk: Chunk, payload: Frame) -> None:
        pull = self._pulls.get(agent)
        if pull is None or pull.offer.blob != chunk.blob or not pull.active:
            return
        self._credit.returned(agent)
        try:
            with explained(pull.path, "store an update"):
                pull.download.on_chunk(chunk.offset, payload, self._clock())
        except MalformedMessage as error:
            self._refuse(agent, str(error))
        else:
            if pull.download.done:
                self._arrived(agent)
        self._pump()

    def suspend(self, agent: str) -> None:
        """The agent is gone; what has arrived stays, in case it comes back."""
        pull = self._pulls.get(agent)
        if pull is not None:
            pull.active = False
        self._credit.forget(agent)
        self._pump()

    def forget(self, agent: str, digest: str) -> bool:
        """The agent does not have the blob any more; True when it was being fetched."""
        pull = self._pulls.get(agent)
        if pull is None or pull.offer.blob != digest:
            return False
        self._drop(agent)
        self._pump()
        return True

    def on_time(self, now: float) -> None:
        for agent, pull in self._pulls.items():
            if pull.active and pull.download.stalled(now, STALL_S):
                text = "round=%d agent=%s transfer stalled; asking again"
                self._fleet.gate.info(logger, agent, text, self._round, agent)
                pull.download.restart(now)
                self._credit.forget(agent)
        self._pump()

    def close(self) -> None:
        """The round is over: whatever is not stored is thrown away."""
        for agent in list(self._pulls):
            self._drop(agent)
        for pull in self._whole.values():
            _throw_away(pull)
        self._whole.clear()

    def _pump(self) -> None:
        """Ask for chunks, fairly, as far as the credit reaches."""
        asked = True
        while asked:
            asked = False
            for agent, pull in list(self._pulls.items()):
                # To tell somebody may find out that he is gone, and even that the round is over.
                if self._pulls.get(agent) is not pull or not pull.active:
                    continue
                if not self._credit.may_send(agent):
                    continue
                request = pull.download.peek()
                if request is not None and self._fleet.tell(agent, request):
                    pull.download.asked(request, self._clock())
                    self._credit.sent(agent)
                    asked = True

    def _arrived(self, agent: str) -> None:
        pull = self._pulls.pop(agent)
        self._credit.forget(agent)
        try:
            pull.download.finish()
        except MalformedMessage as error:
            self._pulls[agent] = pull
            self._refuse(agent, str(error))
            return
        self._whole[agent] = pull
        self._store_next()

    def _store_next(self) -> None:
        if self._whole and not self._storing:
            self._storing, self._whole = self._whole, {}
            batch, last = self._storing, self._are_last(self._storing.keys())
            self._disk.submit(lambda: self._store(batch, last), self._stored)

    def _store(self, batch: dict[str, _Pull], last: bool) -> Outcome:
        """On the disk's thread: check and rename each; then one sync for all of them."""
        outcome = Outcome()
        for agent, pull in sorted(batch.items()):
            wrong = self._wrong_with(agent, pull)
            if wrong is not None:
                outcome.rejected.append((agent, wrong))
                pull.path.unlink(missing_ok=True)
                continue
            with explained(pull.path, "store an update"):
                pull.path.rename(self._spool / f"{agent}.safetensors")
            outcome.stored.append(self._event(agent, pull.offer))
        if outcome.stored:
            # A file under its final name counts only once the journal says so.
            with explained(self._spool, "store updates"):
                syncing = Syncing(
                    [batch[update.agent].fd for update in outcome.stored],
                    self._spool,
                    self._rounds,
                )
            if last:
                outcome.syncing = syncing
            else:
                syncing.wait()
            self._journal.append(outcome.stored, sync=not last)
        return outcome

    def _wrong_with(self, agent: str, pull: _Pull) -> str | None:
        """Why an update cannot count; None when it can."""
        with explained(self._base, "read the model"), self._base.open("rb") as model:
            base = ParameterFile(model.fileno(), str(self._base))
            try:
                check_update(ParameterFile(pull.fd, f"update of {agent}"), base, self._asked)
            except ParametersError as error:
                return str(error)
        return None

    def _stored(self, outcome: Outcome | None, error: BaseException | None) -> None:
        for pull in self._storing.values():
            if error is None:
                os.close(pull.fd)
            else:
                _throw_away(pull)
        self._storing = {}
        self._report(outcome if outcome is not None else Outcome(error=error))
        self._store_next()

    def _event(self, agent: str, offer: UpdateReady) -> UpdateStored:
        return UpdateStored(
            at=round(self._wall_clock(), 3),
            round=self._round,
            agent=agent,
            blob=offer.blob,
            size=offer.size,
            examples=offer.examples,
            batches=offer.batches,
            loss=offer.loss,
            last_loss=offer.last_loss,
            exhausted=offer.exhausted,
            seconds=offer.seconds,
            compression_error=offer.compression_error,
            left_out=offer.left_out,
            data=offer.data,
        )

    def _refuse(self, agent: str, reason: str) -> None:
        self._drop(agent)
        self._report(Outcome(rejected=[(agent, reason)]))

    def _drop(self, agent: str) -> None:
        pull = self._pulls.pop(agent, None)
        self._credit.forget(agent)
        if pull is not None:
            _throw_away(pull)


def _throw_away(pull: _Pull) -> None:
    os.close(pull.fd)
    with contextlib.suppress(OSError):  # it goes with the spool, then
        pull.path.unlink(missing_ok=True)


def _remove_parts(spool: Path) -> None:
    """Of a coordinator that was killed."""
    with contextlib.suppress(OSError):
        for path in spool.glob(".*.part"):
            path.unlink()
