"""Agents for a run's next round: which are wanted, which are here, and why others are not."""

from collections.abc import Callable
from dataclasses import dataclass

from flctl.core.roster import Member, Roster
from flctl.core.round import Pool
from flctl.settings import RunSettings
from flctl.wire.messages import Digest, Hello

SHOWN = 6
"""Agents whose absence is explained in one sentence."""


@dataclass(frozen=True)
class Crew:
    """`enrolled` names all agents that may train. Times are those of one clock, in seconds."""

    settings: RunSettings
    task_digest: Digest
    roster: Roster
    enrolled: Callable[[], list[str]]
    run: str = ""
    brought: bool = False
    """The run began with weights that an operator has brought."""

    def pool(self, now: float) -> Pool:
        named = self.settings.agents
        known = set(named or self.chosen())
        here = {m.name for m in self.members() if self.fits(m, now)}
        others = set() if named else {name for name in known - here if self._is_elsewhere(name)}
        others |= {name for name in known - here if self._declines(name, now)}
        without = {name for name in known - here if self.has_run_out(name)}
        wanted = ((known | here) - self.roster.cordoned) - others - without
        back = {name for name in wanted - here if self._may_return(name, now)} if named else set()
        return Pool(
            frozenset(wanted),
            frozenset(here),
            len(known | here),
            frozenset(back),
            frozenset(without - self.roster.cordoned),
            frozenset(self.roster.cordoned),
            frozenset(m.name for m in self.members() if m.connected and m.state == "starting"),
        )

    def chosen(self) -> list[str]:
        """The enrolled agents with the labels that the run asks for."""
        return self.roster.labels.chosen(self.settings.where, self.enrolled())

    def selects(self, name: str) -> bool:
        return bool(self.roster.labels.chosen(self.settings.where, (name,)))

    def members(self) -> list[Member]:
        """Agents that have been here; of those named or chosen by labels, if any."""
        settings, members = self.settings, self.roster.members
        names = settings.agents or self.roster.labels.chosen(settings.where, members)
        return [members[name] for name in names if name in members]

    def fits(self, member: Member, now: float) -> bool:
        """It can be asked to train now."""
        return (
            self.roster.is_free(member.name)
            and not member.refuses(self.run, now)
            and member.hello is not None
            and member.hello.role == "train"
            and member.examples(self.settings.task, self.settings.dataset) > 0
            and member.hello.tasks.get(self.settings.task) == self.task_digest
        )

    def has_run_out(self, name: str) -> bool:
        """It is here and had data for this run, of which there are none any more. Data that are
        there and cannot be read are another matter: the quorum waits for these."""
        member = self.roster.members.get(name)
        about = self.settings.dataset, self.settings.task
        return (
            member is not None
            and member.connected
            and member.hello is not None
            and bool(member.hello.datasets or member.hello.error)  # it has looked
            and member.declared.get(about, 0) > 0
            and not member.examples(*about[::-1])
            and not self._is_damaged(member, member.hello)
        )

    def refuses(self, name: str, now: float) -> str | None:
        """Reason why the agent's owner does not let it take part now, or None."""
        member = self.roster.members.get(name)
        return member.refuses(self.run, now) if member is not None else None

    def why_not(self, names: set[str], now: float) -> str:
        """Reasons why these are not here; first those that only an operator can bring back."""
        held = self.roster.cordoned
        ordered = sorted(names, key=lambda name: (name not in held, name))
        reasons = [f"{name}: {self.excuse(name, now)}" for name in ordered[:SHOWN]]
        return "; ".join(reasons) + (" …" if len(ordered) > SHOWN else "")

    def excuse(self, name: str, now: float) -> str:
        member = self.roster.members.get(name)
        cordoned = f"cordoned (flctl uncordon {name})" if name in self.roster.cordoned else None
        if held := cordoned or self.refuses(name, now):
            return held
        if member is None:
            enrolled = name in self.enrolled()
            return "not connected" if enrolled else "not enrolled (flctl keys add)"
        if member.ready and member.hello is not None:
            return self._unfit(member, member.hello)
        if member.state in ("lost", "stopped"):  # its last error is not why
            return f"{member.state} ({member.note})" if member.note else member.state
        return member.note or member.error or member.state

    def _unfit(self, member: Member, hello: Hello) -> str:
        """Reason why an agent that is here cannot train, or an empty string."""
        if hello.role != "train":
            return "its role is to evaluate"
        task, dataset = self.settings.task, self.settings.dataset
        if hello.tasks.get(task, self.task_digest) != self.task_digest:
            return (
                f"its task {task} differs from the run's: upgrade it; if it is the run that is "
                "older, begin a new one"
            )
        nothing = f"no data for task {task}, data set {dataset}"
        return f"{nothing}: {member.error}" if member.error else nothing

    def _is_elsewhere(self, name: str) -> bool:
        """It is whole, and for other work: it evaluates, or has other data only."""
        member = self.roster.members.get(name)
        if member is None or member.hello is None:
            return False
        examples = member.examples(self.settings.task, self.settings.dataset)
        if member.hello.role != "train":
            return True
        other = bool(member.hello.datasets and not examples)
        return other and not self._is_damaged(member, member.hello)

    def _declines(self, name: str, now: float) -> bool:
        """Its owner does not allow weights that were brought: the quorum is of the others."""
        member = self.roster.members.get(name)
        limits = member.hello.limits if member is not None and member.hello is not None else None
        may = not self.brought or limits is None or limits.accept_weights
        return not may and self.refuses(name, now) is not None

    def _is_damaged(self, member: Member, hello: Hello) -> bool:
        """The files of its data for this run are there, and cannot be read. Who has some to
        evaluate on, and never had any to train on, is whole."""
        about = self.settings.dataset, self.settings.task
        had = member.declared.get(about, 0) > 0
        rest = {(info.name, info.task) for info in hello.datasets}
        return about in hello.damaged and (had or about not in rest)

    def _may_return(self, name: str, now: float) -> bool:
        member = self.roster.members.get(name)
        here = member is not None and member.ready
        return not here and not self.refuses(name, now)
