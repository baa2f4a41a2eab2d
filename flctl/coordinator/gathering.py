"""Who takes part in the next round: waits for agents, and knows when to wait no longer."""

import math
from collections.abc import Callable

from flctl.core.roster import Member, Roster
from flctl.errors import NoAgents
from flctl.settings import RunSettings
from flctl.wire.messages import Digest

STARTING_S = 180.0
"""The wait goes on for so long while somebody still looks at its data: a Pi imports slowly."""
CORDONED_S = 3600.0
"""The same while too few are left because some are cordoned: an upgrade is not the run's end."""
QUIET_S = 5.0
"""When no agents are named: nobody new for so long means that whoever comes is there."""


class Gathering:
    """`enrolled` names all agents that have a key; `first` is a run's first gathering since
    its start: then agents that are known but not here yet are given time to come."""

    def __init__(
        self,
        settings: RunSettings,
        task_digest: Digest,
        roster: Roster,
        enrolled: Callable[[], list[str]],
        now: float,
        first: bool,
        run: str = "",
        min_participants: int = 1,
    ) -> None:
        self._settings, self._task_digest = settings, task_digest
        self._roster, self._enrolled = roster, enrolled
        self._began = self._now = now
        self._first = first
        self._run, self._least = run, min_participants
        self._seen: list[str] | None = None
        self.changed_at = now
        """When somebody came or went last."""

    def look(self, now: float) -> list[str] | None:
        """The agents to draw from, or None: wait on. Raises NoAgents when the wait is over."""
        self._now = now
        ready = self.ready()
        if ready != self._seen:
            self._seen, self.changed_at = ready, now
        waited = now - self._began - self._settings.wait_s
        over = waited >= (STARTING_S if self._starting() else 0)
        hopeless = over and waited >= (CORDONED_S if self._held_back() else 0)
        if self._settings.agents:
            return self._named(ready, over, hopeless)
        return self._any(ready, over, hopeless, now)

    def ready(self) -> list[str]:
        """Agents that are here and have data for this run, sorted; of those named, if any."""
        return sorted(m.name for m in self._wanted() if self._fits(m))

    def missing(self) -> list[str]:
        """Agents that could be in the run and are not ready, sorted; of those named, if any."""
        ready = self.ready()
        return [n for n in sorted(self._settings.agents or self._enrolled()) if n not in ready]

    def why_not(self) -> str:
        """Why those who are missing are, in words."""
        held = self._roster.cordoned  # first: only an operator ends that
        missing = sorted(self.missing(), key=lambda name: (name not in held, name))
        reasons = [f"{name}: {self._excuse(name)}" for name in missing]
        return "; ".join(reasons[:6]) + (" …" if len(reasons) > 6 else "")

    def _named(self, ready: list[str], over: bool, hopeless: bool) -> list[str] | None:
        """All that are named take part; the absent ones can come back until the deadline."""
        agents = sorted(self._settings.agents)
        need = max(self._settings.quorum_of(len(agents)), self._settings.fleet_for(self._least))
        willing = [name for name in agents if not self._refuses(name)]
        if len(ready) >= need and (ready == willing or over or not self._first):
            return willing
        if hopeless or self._cannot(agents):
            raise NoAgents(f"{len(ready)} of {need} required agents are ready ({self.why_not()})")
        return None

    def _any(self, ready: list[str], over: bool, hopeless: bool, now: float) -> list[str] | None:
        need = max(self._settings.fleet_for_quorum, self._settings.fleet_for(self._least))
        if len(ready) >= need:
            free = set(self._enrolled()) - self._roster.cordoned
            all_here = set(ready) >= free and not self._starting()
            quiet = now - self.changed_at >= QUIET_S and not self._starting()
            if not self._first or all_here or quiet or over:
                return ready
        elif hopeless:
            about = self.why_not() or "no agent is enrolled: flctl keys token, flctl keys add"
            waited = f"within {self._settings.wait_s:.0f} s"
            raise NoAgents(f"{len(ready)} of {need} required agents were ready {waited} ({about})")
        return None

    def _cannot(self, agents: list[str]) -> bool:
        """All are here, and some have nothing to train on: waiting does not change that."""
        members = [self._roster.members.get(name) for name in agents]
        if self._held_back() or any(m is not None and self._later(m) for m in members):
            return False
        return all(m is not None and m.connected and m.state != "starting" for m in members)

    def _later(self, member: Member) -> bool:
        """Its owner allows it again after a while."""
        refuses, refusal = self._refuses(member.name), member.refusal
        return bool(refuses and refusal is not None and refusal.until < math.inf)

    def _refuses(self, name: str) -> str | None:
        """Why the agent's owner does not let it take part now, if so."""
        member = self._roster.members.get(name)
        return member.refuses(self._run, self._now) if member is not None else None

    def _starting(self) -> bool:
        return any(m.connected and m.state == "starting" for m in self._wanted())

    def _held_back(self) -> bool:
        return any(m.name in self._roster.cordoned for m in self._wanted())

    def _wanted(self) -> list[Member]:
        named = self._settings.agents
        members = self._roster.members.values()
        return [m for m in members if m.name in named] if named else list(members)

    def _fits(self, member: Member) -> bool:
        return (
            self._roster.is_free(member.name)
            and not self._refuses(member.name)
            and member.hello is not None
            and member.hello.role == "train"
            and member.examples(self._settings.task, self._settings.dataset) > 0
            and member.hello.tasks.get(self._settings.task) == self._task_digest
        )

    def _excuse(self, name: str) -> str:
        member = self._roster.members.get(name)
        cordoned = f"cordoned (flctl uncordon {name})" if name in self._roster.cordoned else None
        if held := cordoned or self._refuses(name):
            return held
        if member is None:
            enrolled = name in self._enrolled()
            return "not connected" if enrolled else "not enrolled (flctl keys add)"
        if member.ready and member.hello is not None:
            if member.hello.role != "train":
                return "its role is to evaluate"
            theirs = member.hello.tasks.get(self._settings.task)
            if theirs is not None and theirs != self._task_digest:
                return f"its task {self._settings.task} differs from the coordinator's: upgrade it"
            nothing = f"no data for task {self._settings.task}, data set {self._settings.dataset}"
            return f"{nothing}: {member.error}" if member.error else nothing
        return member.note or member.error or member.state
