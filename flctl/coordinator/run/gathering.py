"""Waits until the agents of the next round are here, or until it has waited long enough."""

import math
from collections.abc import Collection
from typing import Any

from flctl.coordinator.run.crew import Crew
from flctl.core.roster import Member
from flctl.core.round import CORDONED_S, STARTING_S, Draw, Pool, draw
from flctl.core.stream import AgentsAwaited
from flctl.errors import NoAgents
from flctl.formats import counted
from flctl.labels import none_chosen

QUIET_S = 5.0
"""When no agents are named: no newcomer for so long means that all who come are there."""


class Gathering:
    """`first`: a run's first gathering since its start, when agents that are known but not here yet
    are given time to come. `least`: no quorum is less. `accepted`: those whose update of the round
    is here. A `patient` one never gives up."""

    def __init__(
        self,
        crew: Crew,
        now: float,
        first: bool,
        least: int = 1,
        accepted: Collection[str] = (),
        patient: bool = False,
    ) -> None:
        self._crew, self._settings = crew, crew.settings
        self._began = self._now = now
        self._first, self._patient = first, patient
        self._least, self._accepted = least, frozenset(accepted)
        self._seen: list[str] | None = None
        self._changed_at = now
        """Time of the last arrival or departure."""

    def look(self, now: float) -> list[str] | None:
        """The agents to draw from, or None: wait on. Raises NoAgents when the wait is over."""
        self._now = now
        ready = self.ready()
        if ready != self._seen:
            self._seen, self._changed_at = ready, now
        pool = self._crew.pool(now)
        waited = now - self._began - self._settings.wait_s
        starting = self._starting()
        over = waited >= (STARTING_S if starting else 0) and not self._patient
        drawn = draw(self._settings, 1, pool, self._accepted, self._least)
        if drawn.holds:
            all_here = pool.wanted - pool.here <= self._refusing(pool) and not starting
            quiet = now - self._changed_at >= QUIET_S and not starting
            quiet = quiet and (self._patient or not self._settings.agents)
            if not self._first or all_here or quiet or over:
                return sorted(pool.here | pool.returning)
        elif (over and waited >= (CORDONED_S if self._held_back() else 0)) or (
            not self._patient and self._cannot()
        ):
            have, need = len(self._counted()), self._required()
            raise NoAgents(f"{have} of {counted(need, 'required agent')} ready ({self.why_not()})")
        return None

    def status(self, now: float) -> dict[str, Any]:
        """The agents it waits for, why, and for how much longer."""
        left_s = {} if self._patient else {"time_left_s": round(self._time_left(now), 1)}
        return {"waiting_for": self.missing(), "why": self.why_not(), **left_s}

    def news(self, now: float) -> object:  # noqa: ARG002
        """State whose change is worth an event."""
        return self.ready()

    def waiting(self, now: float) -> AgentsAwaited:
        """The event that names the agents it waits for."""
        short = len(self._counted()) < self._required()
        return AgentsAwaited(
            ready=tuple(self.ready()),
            needed=self._required() if short else None,
            missing=self.why_not(),
            left_s=round(self._time_left(now), 1) if short else None,
        )

    def _time_left(self, now: float) -> float:
        """Seconds until the wait is over, if no more agents come."""
        most = STARTING_S if self._starting() else CORDONED_S if self._held_back() else 0.0
        return max(0.0, self._began + self._settings.wait_s + most - now)

    def draw(self, round_id: int) -> Draw:
        """The agents that the round would ask now."""
        pool = self._crew.pool(self._now)
        return draw(self._settings, round_id, pool, self._accepted, self._least)

    def ready(self) -> list[str]:
        """Agents that are here and have data for this run, sorted; of those named, if any."""
        return sorted(self._crew.pool(self._now).here)

    def missing(self) -> list[str]:
        """Agents that the quorum counts and that are not ready, sorted."""
        pool = self._crew.pool(self._now)
        return sorted(pool.wanted - pool.here)

    def why_not(self) -> str:
        """Reasons why agents that could be in the run are not ready, or are too few."""
        known = set(self._settings.agents or self._crew.chosen())
        why = self._crew.why_not(known - set(self.ready()), self._now)
        return why if why or len(self._counted()) >= self._required() else self._none_there()

    def _none_there(self) -> str:
        where, enrolled = self._settings.where, self._crew.enrolled()
        if where and enrolled and not self._crew.chosen():
            return none_chosen(where, map(self._crew.roster.labels.of, enrolled))
        return f"no {'other ' if enrolled else ''}agent is enrolled: flctl keys token"

    def _counted(self) -> frozenset[str]:
        return self._accepted | set(self.ready())

    def _required(self) -> int:
        """How many agents have to be here for a round to begin."""
        pool = self._crew.pool(self._now)
        need = draw(self._settings, 1, pool, (), self._least).need
        enough = self._settings.invited_of(len(pool.wanted)) >= need
        return need if enough else self._settings.fleet_for(need)

    def _refusing(self, pool: Pool) -> set[str]:
        return {name for name in pool.wanted if self._crew.refuses(name, self._now)}

    def _cannot(self) -> bool:
        """All that are named are here, and some have nothing to train on: to wait does not
        change that."""
        names = self._settings.agents
        members = [self._crew.roster.members.get(name) for name in names]
        if not names or self._held_back() or any(m is not None and self._later(m) for m in members):
            return False
        return all(m is not None and m.connected and m.state != "starting" for m in members)

    def _later(self, member: Member) -> bool:
        """Its owner allows it again after a while."""
        refuses, refusal = self._crew.refuses(member.name, self._now), member.refusal
        return bool(refuses and refusal is not None and refusal.until < math.inf)

    def _starting(self) -> bool:
        return any(m.connected and m.state == "starting" for m in self._crew.members())

    def _held_back(self) -> bool:
        return any(m.name in self._crew.roster.cordoned for m in self._crew.members())
