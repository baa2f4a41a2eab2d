"""What the tests of the round share."""

from flctl.core.round import Action, Offered, Pool, Tell
from flctl.wire.messages import Claim, Coded, Discarded, UpdateReady, WorkKey

BASE, OTHER = "b" * 64, "c" * 64
KEY = WorkKey(run="ecg-20260101-000000-aaaa", version=6, base=BASE, sequence=1)


def offer(agent: str, round_id: int = 7, base: str = BASE) -> Offered:
    key = WorkKey(run=KEY.run, version=round_id - 1, base=base, sequence=1)
    claim = Claim(examples=5, batches=1, loss=0.5, last_loss=0.4, seconds=1.0)
    ready = UpdateReady(key=key, update=Coded(blob="e" * 64, size=9), claim=claim)
    return Offered(agent, ready)


def pool(here: str, wanted: str = "", known: int | None = None, returning: str = "") -> Pool:
    wanted = wanted or here
    known = len(wanted) if known is None else known
    return Pool(frozenset(wanted), frozenset(here), known, frozenset(returning))


def told(actions: list[Action], kind: str) -> list[str]:
    """Agents that hear a message of this kind."""
    tells = [action for action in actions if isinstance(action, Tell)]
    return [tell.agent for tell in tells if type(tell.message).__name__ == kind]


def discarded(actions: list[Action]) -> list[str]:
    """The reasons, where nothing else is done."""
    reasons = []
    for action in actions:
        assert isinstance(action, Tell) and isinstance(action.message, Discarded)
        reasons.append(action.message.reason)
    return reasons
