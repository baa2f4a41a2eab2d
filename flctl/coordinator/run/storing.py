"""Checks updates and makes them durable; `store` runs on the disk's thread.

An update counts once its tensors fit the model, its file has its final name, and it is in the
journal. It is safe, and its agent gets `Accepted`, when file and journal are synced: both at the
same time, once per batch, while the next one is stored and while updates are averaged.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from msgspec import Struct, field, structs

from flctl.coordinator.run.intake import Transfer
from flctl.coordinator.store.folder import RunFolder
from flctl.coordinator.store.journal import Journal
from flctl.core.events import UpdateStored
from flctl.digests import has_digest
from flctl.errors import ParametersError
from flctl.files import Syncing, explained
from flctl.settings import LocalTraining
from flctl.wire.compression import check_update
from flctl.wire.parameters import ParameterFile


class StoreOutcome(Struct):
    stored: list[UpdateStored] = field(default_factory=list)
    unusable: dict[str, str] = field(default_factory=dict)
    syncing: Syncing | None = None
    """Stored updates are safe after its `wait`; None: there are none."""


def store(
    folder: RunFolder,
    journal: Journal,
    round_id: int,
    asked: LocalTraining,
    batch: Mapping[str, Transfer],
    first: bool,
    now: Callable[[], float],
) -> StoreOutcome:
    """Check and name each file; then begin one sync for all of them, and with the `first` of a
    round's for the folders around the spool. Raises StateError."""
    outcome, spool = StoreOutcome(), folder.spool_path(round_id)
    try:
        problems = _tensor_problems(folder.model_path(round_id - 1), asked, batch)
        for agent, transfer in sorted(batch.items()):
            if problem := problems.get(agent):
                outcome.unusable[agent] = problem
                transfer.path.unlink(missing_ok=True)
                continue
            with explained(transfer.path, "store an update"):
                transfer.path.rename(spool / f"{agent}.safetensors")
            outcome.stored.append(_event(now(), agent, transfer))
        if outcome.stored:
            # A file under its final name counts only once the journal says so. If the journal
            # is on the disk first, a restart finds the file damaged, and asks for it again.
            journal.append(outcome.stored, sync=False)
            fds = [batch[update.agent].fd for update in outcome.stored]
            with explained(spool, "store updates"):
                outcome.syncing = Syncing(fds, spool, folder.rounds_path if first else None)
            outcome.syncing.also(journal.sync)
    except BaseException:
        for transfer in batch.values():
            transfer.throw_away()
        raise
    for transfer in batch.values():
        os.close(transfer.fd)
    return outcome


def wait_for(begun: Iterable[Syncing]) -> None:
    for syncing in begun:
        syncing.wait()


def take_stock(
    folder: RunFolder, journal: Journal, round_id: int, accepted: Mapping[str, UpdateStored]
) -> set[str]:
    """After a restart, the agents whose journaled update is missing or damaged in the spool. The
    others are synced: the coordinator may have been killed before that. Raises StateError."""
    spool, fds = folder.make_spool(round_id), list[int]()
    damaged: set[str] = set()
    with contextlib.ExitStack() as stack, explained(spool, "make updates durable"):
        for agent, update in accepted.items():
            path = spool / f"{agent}.safetensors"
            if has_digest(path, update.blob):
                fds.append(stack.enter_context(path.open("rb")).fileno())
            else:
                damaged.add(agent)
        Syncing(fds, spool, folder.rounds_path).wait()
    journal.sync()
    return damaged


def _tensor_problems(
    path: Path, asked: LocalTraining, batch: Mapping[str, Transfer]
) -> dict[str, str]:
    """Reasons why updates of the model in `path` cannot count, by agent."""
    problems = dict[str, str]()
    with explained(path, "read the model"), path.open("rb") as model:
        base = ParameterFile(model.fileno(), str(path))
        for agent, transfer in batch.items():
            try:
                check_update(ParameterFile(transfer.fd, f"update of {agent}"), base, asked)
            except ParametersError as error:
                problems[agent] = str(error)
    return problems


def _event(at: float, agent: str, transfer: Transfer) -> UpdateStored:
    offer = transfer.offer
    return UpdateStored(
        at=at,
        round=offer.key.round,
        agent=agent,
        version=offer.key.version,
        sequence=offer.key.sequence,
        blob=offer.update.blob,
        size=offer.update.size,
        **structs.asdict(offer.claim),
    )
