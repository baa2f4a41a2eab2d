"""When an alert fires, is sent, and is resolved. Pure, with both clocks passed in.

`now` is monotonic and measures spans; `wall` only dates what people read. A device's wrong clock
moves neither, and a jump of the coordinator's own changes dates, not decisions.
"""

from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, get_args

from msgspec import Meta, Struct
from msgspec.structs import asdict

from flctl.errors import UsageError, one_line
from flctl.settings import AgentName
from flctl.wire.messages import Natural, Seconds, Short

Kind = Literal[
    "agent_lost", "throttled", "undervoltage", "card_full", "no_round", "conflict", "open_token"
]
KINDS: tuple[Kind, ...] = get_args(Kind)
Noticed = Literal[Kind, "test"]
Event = Literal["firing", "resolved"]
SinkName = Literal["webhook", "command"]
SCHEMA = 1
NOTICES = 500
"""Notices kept for a sink that does not answer; the oldest are dropped."""
MUTES = 1000
TEXT = 300

Key = tuple[Kind, str]
Wall = Annotated[float, Meta(ge=0, le=1e11)]
"""Seconds since 1970, until the year 5138."""
Line = Annotated[str, Meta(max_length=2 * TEXT)]


class Span(NamedTuple):
    """How long a condition has to last before its alert fires, and to be over before it ends."""

    after_s: float
    over_s: float


class Observed(NamedTuple):
    kind: Kind
    subject: str
    """Agent, run or token."""
    bad: bool | None
    """None: it cannot be known now, as of an agent that is away."""
    text: str = ""
    since: float | None = None
    """Monotonic time since when, where that is known."""


class KeptFiring(Struct, frozen=True, forbid_unknown_fields=True):
    id: Natural
    kind: Kind
    subject: Short
    text: Line
    since: Wall
    told: bool
    acknowledged: bool


class AlertNotice(Struct, frozen=True, forbid_unknown_fields=True):
    """What sinks get: an alert fires, or is resolved."""

    number: Natural
    """One more for each; a receiver that has had it already ignores the second one."""
    event: Event
    id: Natural
    """The same of both notices of an alert."""
    alert: Noticed
    subject: Short
    text: Line
    since: Wall
    """When the alert fired."""
    at: Wall
    """When this notice arose."""


class KeptMute(Struct, frozen=True, forbid_unknown_fields=True):
    name: Short
    until: Wall
    for_s: Seconds


class AlertBook(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All that has to survive a restart."""

    schema: int = SCHEMA
    last_id: Natural = 0
    last_notice: Natural = 0
    firing: tuple[KeptFiring, ...] = ()
    muted: tuple[KeptMute, ...] = ()
    notices: tuple[AlertNotice, ...] = ()
    told: dict[SinkName, Natural] = {}
    """The last notice that each sink has taken."""
    expected: tuple[AgentName, ...] = ()
    """Agents that were here and did not say goodbye."""
    heard: dict[AgentName, Wall] = {}
    """When those of them that are away were heard last, where that is known."""


class Firing(Struct):
    id: int
    kind: Kind
    subject: str
    text: str
    since: float
    """When it fired, wall time."""
    began: float
    """The same, monotonic; of an earlier life it may be long before this one."""
    told: bool = False
    acknowledged: bool = False


class Change(NamedTuple):
    event: Event
    alert: Firing
    text: str


class Alerting:
    """`spans` has the alerts that are wanted, `sinks` where notices go."""

    def __init__(
        self,
        spans: Mapping[Kind, Span],
        sinks: Collection[SinkName],
        book: AlertBook,
        now: float,
        wall: float,
    ) -> None:
        self._spans, self._sinks = spans, tuple(sinks)
        self._bad_since: dict[Key, float] = {}
        self._good_since: dict[Key, float] = {}
        self._last_id, self._last_notice = book.last_id, book.last_notice
        self.firing: dict[Key, Firing] = {}
        for kept in book.firing:
            began = now - max(0.0, wall - kept.since)
            self.firing[kept.kind, kept.subject] = Firing(**asdict(kept), began=began)
        # A clock that was set meanwhile makes a mute neither endless nor longer than asked for.
        self._muted = {m.name: now + min(max(0.0, m.until - wall), m.for_s) for m in book.muted}
        self._notices = deque(book.notices, NOTICES)
        self._told = {sink: book.told.get(sink, 0) for sink in self._sinks}
        self.expected, self.heard = set(book.expected), dict(book.heard)
        self.dropped = 0
        """Notices that no sink took in time."""
        self._prune()

    # What happens -------------------------------------------------------------------------

    def observe(self, observed: Iterable[Observed], now: float, wall: float) -> list[Change]:
        """Look at everything there is: what fires without being observed is over, its agent or run
        being gone. Returns what has changed, muted or not."""
        changes: list[Change] = []
        seen: set[Key] = set()
        for each in observed:
            key, span = (each.kind, each.subject), self._spans.get(each.kind)
            if span is None:
                continue
            seen.add(key)
            if each.bad:
                began = each.since
                if began is None:
                    began = self._bad_since.setdefault(key, now)
                still = key in self.firing and each.since is None
                ripe = still or now - began >= span.after_s
                if ripe:
                    self._good_since.pop(key, None)
                    changes += [self._fire(each, now, wall)] if key not in self.firing else []
                elif each.since is not None:  # it was good a short time ago
                    changes += self._is_good(key, span, each.text, now, wall)
            elif each.bad is None:
                self._good_since.pop(key, None)
            else:
                self._bad_since.pop(key, None)
                changes += self._is_good(key, span, each.text, now, wall)
        changes += [self._resolve(key, "", wall) for key in [*self.firing.keys() - seen]]
        for key in self._bad_since.keys() - seen:
            del self._bad_since[key]
        self._muted = {name: until for name, until in self._muted.items() if now < until}
        for alert in self.firing.values():
            if not (alert.told or alert.acknowledged or self.is_muted(alert)):
                alert.told = self._tell("firing", alert, alert.text, wall)
        return changes

    def acknowledge(self, id_: int) -> Firing:
        """Raises UsageError."""
        for alert in self.firing.values():
            if alert.id == id_:
                alert.acknowledged = True
                return alert
        raise UsageError(f"no alert {id_} is firing; see flctl alerts")

    def test(self, wall: float) -> None:
        """Send a notice of no alert. Raises UsageError."""
        if not self._sinks:
            raise UsageError(
                "the coordinator sends alerts nowhere: set [alerts.webhook] or [alerts.command] in "
                "its coordinator.toml, and start it again"
            )
        self._notify("firing", 0, "test", "test", "sent by flctl alerts test", wall, wall)

    def mute(self, name: str, for_s: float, now: float) -> None:
        """Send nothing of this kind or agent; 0 ends that. Raises UsageError."""
        if not for_s:
            if self._muted.pop(name, None) is None:
                raise UsageError(f"{name} is not muted; see flctl alerts")
        elif len(self._muted) >= MUTES and name not in self._muted:
            raise UsageError(f"{MUTES} names are muted already")
        else:
            self._muted[name] = now + for_s

    # Sinks --------------------------------------------------------------------------------

    def waiting(self, sink: SinkName) -> list[AlertNotice]:
        """What this sink has not taken yet, the oldest first."""
        return [notice for notice in self._notices if notice.number > self._told[sink]]

    def taken(self, sink: SinkName, number: int) -> None:
        """The sink has taken everything up to this notice."""
        self._told[sink] = max(self._told[sink], number)
        self._prune()

    # To look at ---------------------------------------------------------------------------

    @property
    def last_notice(self) -> int:
        return self._last_notice

    def is_muted(self, alert: Firing) -> bool:
        return alert.kind in self._muted or alert.subject in self._muted

    def muted(self, now: float) -> dict[str, float]:
        """Seconds left, by name."""
        return {name: round(until - now, 1) for name, until in sorted(self._muted.items())}

    def counts(self) -> Counter[str]:
        """Those firing that a person should look at, by kind."""
        return Counter(
            a.kind for a in self.firing.values() if not (a.acknowledged or self.is_muted(a))
        )

    def book(self, now: float, wall: float) -> AlertBook:
        return AlertBook(
            last_id=self._last_id,
            last_notice=self._last_notice,
            firing=tuple(
                KeptFiring(a.id, a.kind, a.subject, a.text, a.since, a.told, a.acknowledged)
                for a in self.firing.values()
            ),
            muted=tuple(
                KeptMute(name, wall + until - now, until - now)
                for name, until in self._muted.items()
            ),
            notices=tuple(self._notices),
            told=dict(self._told),
            expected=tuple(sorted(self.expected)),
            heard=dict(self.heard),
        )

    # Steps --------------------------------------------------------------------------------

    def _fire(self, seen: Observed, now: float, wall: float) -> Change:
        self._last_id += 1
        text = one_line(seen.text, TEXT)
        alert = Firing(self._last_id, seen.kind, seen.subject, text, wall, now)
        self.firing[seen.kind, seen.subject] = alert
        return Change("firing", alert, text)

    def _is_good(self, key: Key, span: Span, text: str, now: float, wall: float) -> list[Change]:
        if key not in self.firing or now - self._good_since.setdefault(key, now) < span.over_s:
            return []
        return [self._resolve(key, text, wall)]

    def _resolve(self, key: Key, text: str, wall: float) -> Change:
        alert = self.firing.pop(key)
        self._good_since.pop(key, None)
        text = one_line(text, TEXT)
        if alert.told:
            self._tell("resolved", alert, text, wall)
        return Change("resolved", alert, text)

    def _tell(self, event: Event, alert: Firing, text: str, wall: float) -> bool:
        """Whether there is a sink to tell it to."""
        if self._sinks:
            self._notify(event, alert.id, alert.kind, alert.subject, text, alert.since, wall)
        return bool(self._sinks)

    def _notify(self, *what: Any) -> None:
        """`what` are the fields of a notice after its number."""
        self._last_notice += 1
        self.dropped += len(self._notices) == NOTICES
        self._notices.append(AlertNotice(self._last_notice, *what))

    def _prune(self) -> None:
        least = min(self._told.values(), default=self._last_notice)
        while self._notices and self._notices[0].number <= least:
            self._notices.popleft()
