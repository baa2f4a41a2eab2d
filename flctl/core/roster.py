"""Sessions of agents: which are alive, and which only claim to be. Pure, with the time passed in.

An agent's name comes from its key; its session is a random number of its process. A new
session under a known name is usually the same Pi after a power cut, so the old one is
asked first. Only if that still answers do two machines hold one key: both are refused
until just one of them is left.
"""

from typing import TypeAlias

from msgspec import Struct

from flctl.core.labelling import Labelling
from flctl.wire import messages

LOST_AFTER_S = 30.0
LOST_BEATS = 6
"""An agent is lost after this long, and this many heartbeats, without a message from it."""
CHALLENGE_S = 3.0
"""How long an old session has to prove that it lives."""
CONFLICT_RETRY_S = 10.0
CONFLICT_MEMORY_S = 25.0
RIVALS = 8
"""Sessions of a conflict that are remembered, the newest: one key can invent any number."""
JUMP = 2.0
"""An agent that declares more than this many times its earlier examples is reported."""
DECLARED = 64
"""Counts of an agent that are remembered, the newest: it can invent any number of data sets."""


class Admit(Struct, frozen=True):
    name: str
    peer: bytes
    new: bool
    """A new session or connection: earlier messages to it may be lost."""


class Probe(Struct, frozen=True):
    """Ping this peer; tell `on_unreachable` if it is gone."""

    peer: bytes


class Conflict(Struct, frozen=True):
    """Refuse this peer: two machines use the agent's key."""

    name: str
    peer: bytes


class Lost(Struct, frozen=True):
    name: str
    why: str


class Jumped(Struct, frozen=True):
    """The agent declares many more examples than before, and would weigh more."""

    name: str
    text: str


Action: TypeAlias = Admit | Probe | Conflict | Lost | Jumped


class OwnersRefusal(Struct, frozen=True):
    """An owner's refusal of what a run asks of the agent."""

    run: str
    text: str
    until: float
    """Infinite: as long as this process of the agent lives."""


class Challenger(Struct):
    peer: bytes
    hello: messages.Hello
    until: float
    protocol: int


class Member:
    """One agent as the coordinator knows it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.hello: messages.Hello | None = None
        self.peer: bytes | None = None
        self.protocol = 0
        self.heard_at = float("-inf")
        self.state = "lost"
        """As the agent says; or "lost", "stopped", "conflict", "too old", "too new"."""
        self.telemetry: messages.Telemetry | None = None
        self.rtt_ms: float | None = None
        self.error: str | None = None
        self.note: str | None = None
        """The coordinator's remark about it: a protocol, a conflict, a bad update."""
        self.refusal: OwnersRefusal | None = None
        self.declared: dict[tuple[str, str], int] = {}
        """Examples of each (data set, task) that the next Hello is compared with."""
        self.most: dict[tuple[str, str], int] = {}
        """The most examples of each that were declared in this session: data may be fewer by the
        time that an update of more is fetched."""
        self.jump: str | None = None
        """Message that they jumped in this session."""
        self.elsewhere: tuple[str, str] | None = None
        """The session that said that it was with another coordinator, and that in words."""
        self.last_round: int | None = None
        self.progress: tuple[int, int] | None = None
        self.challenger: Challenger | None = None
        self.rivals: dict[str, float] = {}
        """Sessions in conflict and when each was heard, in that order."""

    def refuses(self, run: str, now: float) -> str | None:
        """Reason why its owner does not let it take part in the run now, or None."""
        refusal = self.refusal
        if refusal is None or refusal.run != run or now >= refusal.until:
            return None
        return refusal.text

    def compare(self, hello: messages.Hello) -> str | None:
        """Description of the counts that have jumped, or None.

        Small steps are compared with where they began, so that many of them are a jump too.
        """
        jumped: list[str] = []
        for info in hello.datasets:
            before = self.declared.pop((info.name, info.task), 0)
            is_jump = 0 < before * JUMP < info.examples
            if is_jump:
                jumped.append(f"{before} became {info.examples} of '{info.name}' for {info.task}")
            grows = 0 < before < info.examples and not is_jump
            stays = grows or not info.examples  # what it had before it ran out of them
            self.declared[info.name, info.task] = before if stays else info.examples
            most = self.most.pop((info.name, info.task), 0)
            self.most[info.name, info.task] = max(most, info.examples)
        for counts in (self.declared, self.most):
            while len(counts) > DECLARED:
                del counts[next(iter(counts))]
        few = "; ".join(jumped[:3]) + (" …" if len(jumped) > 3 else "")
        return (
            f"its number of examples has jumped: {few}; its weight grows with it (other "
            "--task-args change the number, too)"
            if jumped
            else None
        )

    @property
    def connected(self) -> bool:
        return self.peer is not None

    @property
    def ready(self) -> bool:
        """Connected, with data, and not refused: it can be invited."""
        return self.connected and self.state in ("ready", "training", "evaluating", "offering")

    def on_heartbeat(self, beat: messages.Heartbeat) -> None:
        self.telemetry, self.rtt_ms, self.error = beat.telemetry, beat.rtt_ms, beat.error
        if beat.state != "training":
            self.progress = None
        # It may be ready a moment before the Hello that says with which data.
        told = self.hello is not None and bool(self.hello.datasets or self.hello.error)
        self.state = beat.state if told else "starting"

    def on_told(self, message: messages.Message) -> None:
        """Show the agent's new work at once, before its next heartbeat reports it."""
        match message:
            case messages.Train() | messages.Personalise():
                self.state = "training"
            case messages.Evaluate():
                self.state = "evaluating"
            case messages.Accepted() | messages.Discarded() | messages.Cancel() if self.ready:
                self.state, self.progress = "ready", None

    def examples(self, task: str, dataset: str, part: messages.MeasuredPart | None = None) -> int:
        """Declared examples of a part, None: for training; 0 if it has none for this task."""
        infos = self.hello.datasets if self.hello else ()
        return max((i.of(part) for i in infos if (i.task, i.name) == (task, dataset)), default=0)


class Roster:
    def __init__(self, heartbeat_s: float = 5.0) -> None:
        self.lost_after_s = max(LOST_AFTER_S, LOST_BEATS * heartbeat_s)
        self.members: dict[str, Member] = {}
        self.cordoned: set[str] = set()
        """Agents that an operator holds back: they end what they do, and are not asked again."""
        self.labels = Labelling()
        self._by_peer: dict[bytes, str] = {}

    def member(self, name: str) -> Member:
        return self.members.setdefault(name, Member(name))

    def of_peer(self, peer: bytes) -> Member | None:
        """The agent whose session this peer is; None for an unknown session."""
        name = self._by_peer.get(peer)
        return self.members.get(name) if name is not None else None

    def on_hello(
        self, name: str, peer: bytes, hello: messages.Hello, protocol: int, now: float
    ) -> list[Action]:
        member = self.member(name)
        if member.rivals:
            return self._in_conflict(member, peer, hello, protocol, now)
        known = member.hello is not None and member.hello.session == hello.session
        if member.peer is None or known:
            return self._admit(member, peer, hello, protocol, now)
        member.challenger = Challenger(peer, hello, now + CHALLENGE_S, protocol)
        return [Probe(member.peer)]

    def on_heard(self, peer: bytes, now: float) -> Member | None:
        """Any message of a session; its member, or None when the session is unknown."""
        member = self.of_peer(peer)
        if member is not None:
            member.heard_at = now
        return member

    def on_pong(self, peer: bytes, now: float) -> list[Action]:
        member = self.on_heard(peer, now)
        if member is None or member.challenger is None or member.hello is None:
            return []
        rival = member.challenger
        member.challenger = None
        member.rivals = {member.hello.session: now, rival.hello.session: now}
        self._drop(member, "conflict")
        member.note = "two machines use this agent's key; give one of them a key of its own"
        return [Conflict(member.name, peer), Conflict(member.name, rival.peer)]

    def on_unreachable(self, peer: bytes, now: float) -> list[Action]:
        """The peer's connection is closed."""
        member = self.of_peer(peer)
        if member is None:
            return []
        self._drop(member, "lost")
        lost: list[Action] = [Lost(member.name, "its connection was closed")]
        return [*lost, *self._take_challenger(member, now)]

    def on_goodbye(self, peer: bytes) -> list[Action]:
        member = self.of_peer(peer)
        if member is None:
            return []
        self._drop(member, "stopped")
        member.telemetry = member.rtt_ms = None
        return [Lost(member.name, "it shut down")]

    def on_wrong_protocol(self, name: str, age: str, note: str, now: float) -> list[Action]:
        """An agent speaks a protocol that is not spoken here; `age` is "too old" or "too new"."""
        member = self.member(name)
        was_connected = member.connected
        self._drop(member, age)
        member.note = note
        member.heard_at = now
        return [Lost(name, age)] if was_connected else []

    def on_time(self, now: float) -> list[Action]:
        actions: list[Action] = []
        for member in self.members.values():
            if member.challenger is not None and now >= member.challenger.until:
                self._drop(member, "lost")
                actions += self._take_challenger(member, now)
            elif member.connected and now - member.heard_at > self.lost_after_s:
                self._drop(member, "lost")
                actions.append(Lost(member.name, f"silent for {self.lost_after_s:.0f} s"))
        return actions

    def remove(self, name: str) -> None:
        """The agent's key was revoked."""
        member = self.members.pop(name, None)
        if member is not None and member.peer is not None:
            self._by_peer.pop(member.peer, None)

    def is_free(self, name: str) -> bool:
        """Whether the agent is ready and not cordoned, so that it can be invited."""
        member = self.members.get(name)
        return member is not None and member.ready and name not in self.cordoned

    def connected(self) -> list[Member]:
        return [m for m in self.members.values() if m.connected]

    def _admit(
        self, member: Member, peer: bytes, hello: messages.Hello, protocol: int, now: float
    ) -> list[Action]:
        new = member.peer != peer or member.hello is None or member.hello.session != hello.session
        if member.peer is not None:
            self._by_peer.pop(member.peer, None)
        if member.hello is None or member.hello.session != hello.session:
            member.refusal = None  # it may have been started with other limits
            member.jump = None
            member.most.clear()
        elif member.hello.datasets != hello.datasets:
            member.refusal = None  # there may be enough by now
        jump = member.compare(hello)
        member.jump = jump or member.jump
        member.peer, member.hello, member.protocol = peer, hello, protocol
        member.heard_at = now
        member.error = hello.error
        member.note = member.jump
        member.challenger = None
        self._by_peer[peer] = member.name
        if new or not hello.datasets or member.state in ("starting", "no data"):
            member.state = "ready" if hello.datasets else "no data" if hello.error else "starting"
        told: list[Action] = [Jumped(member.name, jump)] if jump else []
        return [Admit(member.name, peer, new), *told]

    def _take_challenger(self, member: Member, now: float) -> list[Action]:
        rival, member.challenger = member.challenger, None
        if rival is None:
            return []
        return self._admit(member, rival.peer, rival.hello, rival.protocol, now)

    def _in_conflict(
        self, member: Member, peer: bytes, hello: messages.Hello, protocol: int, now: float
    ) -> list[Action]:
        rivals = member.rivals
        rivals.pop(hello.session, None)
        rivals[hello.session] = now
        while len(rivals) > RIVALS or now - next(iter(rivals.values())) > CONFLICT_MEMORY_S:
            del rivals[next(iter(rivals))]
        if len(rivals) > 1:
            return [Conflict(member.name, peer)]
        member.rivals = {}
        return self._admit(member, peer, hello, protocol, now)

    def _drop(self, member: Member, state: str) -> None:
        if member.peer is not None:
            self._by_peer.pop(member.peer, None)
        member.peer = None
        member.state = state
        member.progress = None
