"""What the coordinator's alerts are about, as it stands now: its agents, its run, its tokens."""

from collections.abc import Iterator, Sequence
from typing import Any

from flctl.coordinator.alerts.settings import AlertSettings
from flctl.core.alerts import Observed
from flctl.core.events import HELD
from flctl.core.roster import Member, Roster
from flctl.formats import counted, moment, size
from flctl.transport.tokens import Token
from flctl.wire.messages import Telemetry

UNDERVOLTAGE = "under-voltage"
"""What an agent says that a Pi's supply gives too little; all else that it says is throttling."""
PERSONALISING = "personalising"


class Observer:
    """`expected` are the agents that were here and did not say goodbye, `heard` says when those
    of them that are away were heard last; both are kept up to date here."""

    def __init__(
        self, settings: AlertSettings, roster: Roster, expected: set[str], heard: dict[str, float]
    ) -> None:
        self._free_bytes = settings.card_free_mb * 1e6
        self._free_share = settings.card_free_percent / 100
        self._roster, self._expected, self._heard = roster, expected, heard
        self._round: tuple[str, int] | None = None
        self._round_at: float | None = None
        """When the run's round changed; None if that was before this coordinator began."""
        self._seen_at = 0.0

    def observe(
        self,
        enrolled: Sequence[str],
        run: dict[str, Any] | None,
        tokens: Sequence[Token],
        now: float,
        wall: float,
    ) -> Iterator[Observed]:
        """`run` as the run keeper's status."""
        self._expected.intersection_update(enrolled)
        for name in self._heard.keys() - self._expected:
            del self._heard[name]
        for name in enrolled:
            yield from self._agent(name, self._roster.members.get(name), now, wall)
        self._note_round(run, now)
        if run is not None and run["phase"] not in (PERSONALISING, HELD):
            text = f"{run['round']} of {counted(run['rounds'], 'round')}, {run['phase']}"
            if why := run.get("why"):
                text += f": {why}"
            yield Observed("no_round", run["run"], True, text, self._round_at)
        for token in tokens:
            uses, by = counted(token.uses_left, "more agent"), token.by or "this machine"
            text = f"a join token for {uses}, created by {by}"
            yield Observed("open_token", token.id, True, text)

    def since_round_s(self, now: float) -> float:
        """Since the run's last commit; or since it began, or went on here."""
        return max(0.0, now - (self._seen_at if self._round_at is None else self._round_at))

    def _note_round(self, run: dict[str, Any] | None, now: float) -> None:
        found = None if run is None else (run["run"], run["round"])
        if found == self._round:
            return
        known = found is not None and self._round is not None and found[0] == self._round[0]
        self._round, self._round_at, self._seen_at = found, now if known else None, now

    def _agent(
        self, name: str, member: Member | None, now: float, wall: float
    ) -> Iterator[Observed]:
        if member is not None and member.connected:
            self._expected.add(name)
            self._heard.pop(name, None)
        elif member is not None and member.state == "stopped":
            self._expected.discard(name)
        elif member is not None and member.heard_at > 0 and name in self._expected:
            self._heard.setdefault(name, round(max(0.0, wall - now + member.heard_at), 1))
        if name in self._roster.cordoned:
            return  # someone works on it: all of its alerts are over
        yield self._lost(name, member)
        if member is None:
            here, telemetry = None, None
        else:
            here = member.connected
            telemetry = member.telemetry if here else None
        clash = bool(member and (member.rivals or member.state == "conflict"))
        text = "two machines use its key" if clash else ""
        yield Observed("conflict", name, clash or (False if here else None), text)
        if member is not None and member.state == "stopped":
            return
        yield from self._machine(name, telemetry)

    def _lost(self, name: str, member: Member | None) -> Observed:
        heard_at = member.heard_at if member is not None else -1.0
        away = name in self._expected and (
            member is None or (not member.connected and member.state == "lost")
        )
        if not away:
            stopped = member is not None and member.state == "stopped"
            return Observed(
                "agent_lost", name, False, "it was stopped" if stopped else "it is back"
            )
        text = (
            f"last heard at {moment(at)}"
            if (at := self._heard.get(name))
            else "not heard since the coordinator's start"
        )
        return Observed("agent_lost", name, True, text, heard_at if heard_at > 0 else None)

    def _machine(self, name: str, told: Telemetry | None) -> Iterator[Observed]:
        words = told.throttled if told is not None else None
        low = None if words is None else UNDERVOLTAGE in words
        yield Observed("undervoltage", name, low, UNDERVOLTAGE if low else "")
        others = [] if words is None else [word for word in words[:4] if word != UNDERVOLTAGE]
        yield Observed(
            "throttled", name, None if words is None else bool(others), ", ".join(others)
        )
        free = told.disk_free_bytes if told is not None else None
        total = told.disk_total_bytes if told is not None else None
        if free is None:
            yield Observed("card_full", name, None)
            return
        full = free < self._free_bytes or (total is not None and free < total * self._free_share)
        of = f" of {size(total)}" if total is not None else ""
        yield Observed("card_full", name, full, f"{size(free)}{of} free")
