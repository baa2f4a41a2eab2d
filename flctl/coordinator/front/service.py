"""The coordinator: hears everybody, checks who may say what, and keeps one run going.

`step` does all that is due and never blocks; `run` repeats it. A daemon and an embedded
run of `flctl train --local` are the same class.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, assert_never

from flctl import __version__
from flctl.coordinator.background import Background
from flctl.coordinator.front.admission import Admission
from flctl.coordinator.front.lives import Lives
from flctl.coordinator.front.outbox import Outbox
from flctl.coordinator.front.peers import Peers
from flctl.coordinator.front.probing import Probing
from flctl.coordinator.front.rotating import Rotating
from flctl.coordinator.front.serving import Serving
from flctl.coordinator.front.token_folder import TokenFolder
from flctl.coordinator.run.evaluator import Evaluator
from flctl.coordinator.run.keeper import RunKeeper
from flctl.coordinator.run.round_driver import Heard
from flctl.coordinator.run.run import Run
from flctl.coordinator.store.audit import Audit
from flctl.coordinator.store.cordons import load_cordons, save_cordons
from flctl.coordinator.store.folder import RunsOver
from flctl.core import roster as alive
from flctl.core.roster import Member, Roster
from flctl.core.round import Back, Gone, Tick
from flctl.core.stream import AgentCame, AgentLost, AnyLive, Published
from flctl.errors import (
    FlctlError,
    MalformedMessage,
    ProtocolMismatch,
    StateError,
)
from flctl.transport.channel import LOCAL, Frame, Hub, Incoming, Sent
from flctl.transport.gate import STRANGER, Gate
from flctl.transport.health import HealthPort
from flctl.transport.keypair import shown
from flctl.transport.keys import Keyring
from flctl.wire import framing
from flctl.wire.messages import (
    Ask,
    BlobGone,
    Chunk,
    Digest,
    Discarded,
    Evaluated,
    Failed,
    Fetch,
    Goodbye,
    Heartbeat,
    HeartbeatAck,
    Hello,
    HelloAgain,
    Join,
    Message,
    Ping,
    Pong,
    Progress,
    Refused,
    UpdateReady,
    Welcome,
)

logger = logging.getLogger(__name__)

OnTold = Callable[[Published], None]

HEARTBEAT_S = 5.0
TICK_S = 0.25
REST_S = 30.0
"""How often the evaluator is asked whether it has been idle for long."""


class Answering(Protocol):
    def on_ask(self, incoming: Incoming, ask: Ask, role: str) -> None: ...

    def step(self) -> None: ...

    def close(self) -> None: ...


class Coordinator:
    def __init__(
        self,
        state: Path,
        hub: Hub,
        keyring: Keyring,
        evaluator: Evaluator,
        disk: Background,
        thinking: Background,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        heartbeat_s: float = HEARTBEAT_S,
        health: HealthPort | None = None,
        gate: Gate | None = None,
        embedded: bool = False,
    ) -> None:
        """`embedded`: its agents live and die with it; the cordons in `state` are another
        fleet's, whose agents may have the same names."""
        self.state = state
        self.roster = Roster(heartbeat_s)
        self.roster.cordoned = set() if embedded else load_cordons(state)
        self.keyring = keyring
        self.stopping = False
        self.gate = gate or Gate(clock)
        self.audit = Audit(state, clock, wall_clock, self.gate)
        self._runs_over = RunsOver(state, self.gate)
        self.runs = RunKeeper(state, self, evaluator, disk, thinking, clock, wall_clock)
        self._hub = hub
        self._evaluator = evaluator
        self._disk, self._thinking = disk, thinking
        self._clock = clock
        self._heartbeat_s = heartbeat_s
        self._health = health
        self.peers = Peers(hub, self.roster, self.gate)
        self._serving = Serving(self.peers.send)
        self._door = Admission(
            self.peers, keyring, self._serving, self._ask, self.gate, clock, self.audit
        )
        self.operators = Outbox(self.peers.encode, hub.send)
        self._ping_sequence = 0
        self._probing = Probing(self._probe_all)
        self._next_tick = clock()
        self._next_rest = clock() + REST_S
        self.watchers: list[OnTold] = []
        self.control: Answering | None = None
        """Where operators' questions go."""
        self.rotating: Rotating | None = None
        """Of the server's key; None where it has but this one."""
        self.lives: Lives | None = None
        """None where its agents live and die with it."""
        self.invitation: TokenFolder | None = None
        """Kept open while it runs, if there is one."""

    @property
    def training(self) -> Run | None:
        """The run in progress."""
        return self.runs.training

    # The loop -------------------------------------------------------------------------

    def run(self) -> None:
        while not self.stopping:
            self.pause(TICK_S)

    def wake(self) -> None:
        """There is more to do than `pause` can know of."""
        self._hub.wake()

    def pause(self, timeout_s: float) -> None:
        """Wait until something is to be done, or the time is over, and do it."""
        self._hub.wait(timeout_s, self._health.fds if self._health is not None else ())
        self.step()

    def step(self) -> None:
        """Everything that has come in, has ended, or is due."""
        for incoming in self._hub.receive():
            try:
                self._receive(incoming)
            except OSError as error:
                source, key = self.source_of(incoming), shown(incoming.key)
                self.gate.error(logger, source, "key=%s could not be served: %s", key, error)
            except Exception as error:  # whatever one peer sends must not end it for the others
                what = f"key={shown(incoming.key)} a message could not be dealt with"
                self.gate.bug(logger, self.source_of(incoming), error, what)
        for background in (self._disk, self._thinking):
            try:
                background.finish()
            except (FlctlError, OSError) as error:
                self.runs.give_up(error)
        now = self._clock()
        if self._hub.lost_connections():
            self._probing.on_lost(now)
        if now >= self._next_tick:
            self._next_tick = now + TICK_S
            self._tick(now)
        self.runs.release_ended()
        if self.control is not None:
            self.control.step()
        if self._health is not None:
            self._health.answer(self._report)

    def stop(self) -> None:
        """End `run`; a run in progress goes on at the next start."""
        self.stopping = True

    def close(self) -> None:
        self.runs.abandon()
        self._evaluator.close()
        self._disk.close()
        self._thinking.close()
        self._serving.close()
        if self.control is not None:
            self.control.close()
        if self.invitation is not None:
            self.invitation.close()
        if self._health is not None:
            self._health.close()
        self._hub.close()

    def _tick(self, now: float) -> None:
        self._look_at_keys(now)
        if self.invitation is not None:
            self.invitation.keep()
        if self.rotating is not None:
            self.rotating.on_time(now)
        self._apply(self.roster.on_time(now))
        if self.training is not None:
            self.training.on(Tick())
        self.runs.on_time()
        self._serving.pump()
        self.operators.pump()
        self._probing.on_time(now)
        if now >= self._next_rest:
            self._next_rest = now + REST_S
            self._thinking.submit(self._evaluator.rest, lambda *_: None)

    def _report(self) -> dict[str, Any]:
        """For `flctl health`."""
        run = self.runs.status()
        here, enrolled = len(self.roster.connected()), len(self.enrolled())
        doing = f"run {run['run']} in round {run['round'] + 1}" if run else "no run in progress"
        return {
            "text": f"coordinator: {here} of {enrolled} agents connected, {doing}",
            "connected": here,
            "enrolled": enrolled,
            "run": run["run"] if run else None,
        }

    # Who says what --------------------------------------------------------------------

    def _receive(self, incoming: Incoming) -> None:
        role = "admin" if incoming.key == LOCAL else self.keyring.role_of(incoming.key)
        name = self.source_of(incoming)
        try:
            protocol, message, payload = self.peers.read(incoming)
        except ProtocolMismatch as error:
            if role == "agent":
                self._on_other_protocol(name, error)
            return
        except MalformedMessage as error:
            self.peers.complain(name, str(error))
            return
        match role:
            case "agent":
                self._from_agent(incoming, name, protocol, message, payload)
            case "guest":
                self._door.on_guest(incoming, message)
            case "read" | "admin":
                self._door.on_operator(incoming, role, name, message)
            case None:
                self._door.on_unlisted(incoming, message)

    def source_of(self, incoming: Incoming) -> str:
        """What the log knows the peer as; no name of an agent."""
        if incoming.key == LOCAL:
            return f"({LOCAL})"
        return self.keyring.name_of(incoming.key) or STRANGER

    def _ask(self, incoming: Incoming, question: Ask, role: str) -> None:
        if self.rotating is not None and role != "agent" and incoming.key != LOCAL:
            self.rotating.on_operator(incoming.peer)
        if self.control is not None:
            self.control.on_ask(incoming, question, role)

    def _from_agent(
        self, incoming: Incoming, name: str, protocol: int, message: Message, payload: Frame | None
    ) -> None:
        peer, now = incoming.peer, self._clock()
        if isinstance(message, Hello):
            self._on_hello(incoming, name, protocol, message)
            return
        if isinstance(message, Join):
            self._door.on_join(incoming, message, None)  # it has its name
            return
        if isinstance(message, Ask):
            self._ask(incoming, message, "agent")
            self.peers.complain(name, "an agent may not send Ask")
            return
        member = self.roster.on_heard(peer, now)
        if member is None:
            self.peers.send(peer, HelloAgain())
            return
        match message:
            case Heartbeat():
                self._on_heartbeat(member, peer, message)
            case Pong():
                self._apply(self.roster.on_pong(peer, now))
            case Goodbye():
                self._apply(self.roster.on_goodbye(peer))
            case Fetch():
                self._serving.on_fetch(peer, message)
            case UpdateReady() if self.training is None or message.key.run != self.training.run:
                self._on_stray_offer(name, peer, message)
            case _ if self.training is not None:
                self._about_training(self.training, member, message, payload)

    def _on_hello(self, incoming: Incoming, name: str, protocol: int, hello: Hello) -> None:
        if hello.role == "evaluate" and not self.keyring.evaluates(incoming.key):
            self._refuse_evaluator(incoming, name)
            return
        peer = incoming.peer
        self._apply(self.roster.on_hello(name, peer, hello, protocol, self._clock()))
        if self.lives is not None:
            self.lives.on_hello(name, hello)
        if self.rotating is not None:
            self.rotating.on_hello(peer, hello)

    def _refuse_evaluator(self, incoming: Incoming, name: str) -> None:
        """Who measures the models decides which one counts as the best: a person says who."""
        text = (
            f"{name} is not enrolled to evaluate: enrol it with  flctl keys add {name} "
            f"{shown(incoming.key)} --role evaluate , or start it without --role evaluate"
        )
        self.peers.send(incoming.peer, Refused(reason="role", message=text, retry_s=10.0))
        self.roster.member(name)  # so that its status shows it
        self.peers.complain(name, text)

    def _about_training(
        self, training: Run, member: Member, message: Message, payload: Frame | None
    ) -> None:
        match message:
            case Progress():
                member.progress = (message.step, message.steps)
            case UpdateReady():
                member.state = "offering"
            case Evaluated():
                member.state = "ready"
            case Failed():
                member.error = f"{message.kind}: {message.message}"
            case BlobGone():
                pass
            case Chunk() if payload is not None:
                pass
            case _:
                self.peers.complain(member.name, f"an agent may not send {type(message).__name__}")
                return
        training.on(Heard(member.name, message, payload))

    def _on_stray_offer(self, name: str, peer: bytes, offer: UpdateReady) -> None:
        """An update of a run that is not in progress: kept by the agent if it can still count."""
        try:
            over = self._runs_over.is_over(offer.key.run, name)
        except FlctlError as error:
            self.gate.error(logger, name, "agent=%s its update stays with it: %s", name, error)
            return
        if over:
            self.peers.send(peer, Discarded(key=offer.key, reason="its run is over"))

    def _on_heartbeat(self, member: Member, peer: bytes, beat: Heartbeat) -> None:
        was_ready = member.ready
        member.on_heartbeat(beat)
        self.peers.send(peer, HeartbeatAck(sequence=beat.sequence))
        if member.ready and not was_ready and self.training is not None:
            self.training.on(Back(member.name))

    def _on_other_protocol(self, name: str, error: ProtocolMismatch) -> None:
        spoken = framing.spoken(error.oldest, error.newest)
        first = framing.which_first(error.oldest, error.theirs, name)
        note = f"speaks protocol {error.theirs}, the coordinator {spoken}: {first}"
        self._apply(self.roster.on_wrong_protocol(name, error.age, note, self._clock()))
        self.peers.complain(name, f"{error.age}: {note}")

    # What the roster decides -------------------------------------------------------------

    def _apply(self, actions: list[alive.Action]) -> None:
        for action in actions:
            match action:
                case alive.Welcome(name, peer, new):
                    self._welcome(name, peer, new)
                case alive.Probe(peer):
                    self._probe(peer)
                case alive.Conflict(name, peer):
                    text = f"two machines use the key of {name}: stop one, or give it its own"
                    retry = alive.CONFLICT_RETRY_S
                    self.peers.send(peer, Refused(reason="conflict", message=text, retry_s=retry))
                    self.peers.complain(name, text)
                    self._gone(name)
                case alive.Jumped(name, text):
                    self.gate.warning(logger, name, "agent=%s %s", name, text)
                case alive.Lost(name, why):
                    self.gate.warning(logger, name, "agent=%s lost: %s", name, why)
                    self._publish(AgentLost(agent=name, reason=why))
                    self._gone(name)
                case _:
                    assert_never(action)

    def _welcome(self, name: str, peer: bytes, new: bool) -> None:
        member = self.roster.member(name)
        knows = member.hello is not None and member.hello.life is not None
        life = self.lives.own if self.lives is not None and knows else ""
        self.peers.send(
            peer, Welcome(name=name, version=__version__, heartbeat_s=self._heartbeat_s, life=life)
        )
        if new:
            version = member.hello.version if member.hello else ""
            self.gate.info(logger, name, "agent=%s is here, version=%s", name, version)
            self._publish(AgentCame(agent=name))
        if member.ready and self.training is not None:
            self.training.on(Back(name))

    def _gone(self, name: str) -> None:
        if self.training is not None:
            self.training.on(Gone(name))

    def _probe(self, peer: bytes) -> None:
        self._ping_sequence += 1
        if self.peers.send(peer, Ping(sequence=self._ping_sequence)) is Sent.GONE:
            self._serving.on_gone(peer)
            self.peers.on_gone(peer)
            self._apply(self.roster.on_unreachable(peer, self._clock()))

    def _probe_all(self) -> None:
        """Some connection was closed: find out whose."""
        for member in self.roster.connected():
            if member.peer is not None:
                self._probe(member.peer)

    def _look_at_keys(self, now: float) -> None:
        try:
            self.keyring.refresh(now)
        except StateError as error:
            logger.error("%s; the keys that were read before stay in force", error)
        self.drop_revoked()

    def drop_revoked(self) -> None:
        """Agents that are not in the list of keys any more."""
        enrolled = set(self.enrolled())
        for member in list(self.roster.members.values()):
            if member.name not in enrolled:
                self.gate.warning(logger, member.name, "agent=%s revoked", member.name)
                if member.peer is not None:
                    text = "this key was revoked"
                    self.peers.send(
                        member.peer, Refused(reason="revoked", message=text, retry_s=60.0)
                    )
                    self._serving.on_gone(member.peer)
                self.roster.remove(member.name)
                self._gone(member.name)

    # For a run in progress ----------------------------------------------------------------

    def tell(self, agent: str, message: Message) -> bool:
        member = self.roster.members.get(agent)
        peer = member.peer if member is not None else None
        if peer is None:
            return False
        sent = self.peers.send(peer, message)
        if sent is Sent.OK and member is not None:
            member.on_told(message)
        if sent is Sent.GONE:
            self._serving.on_gone(peer)
            self._apply(self.roster.on_unreachable(peer, self._clock()))
        return sent is Sent.OK

    def enrolled(self) -> list[str]:
        return sorted(entry.name for entry in self.keyring.entries() if entry.role == "agent")

    def trainers(self) -> list[str]:
        entries = self.keyring.entries()
        return sorted(e.name for e in entries if e.role == "agent" and not e.evaluates)

    def cordon(self, name: str, held: bool) -> None:
        """Invite the agent no more, or again. Raises StateError, and then nothing has changed."""
        agents = self.roster.cordoned | {name} if held else self.roster.cordoned - {name}
        if agents == self.roster.cordoned:
            return
        save_cordons(self.state, agents)
        self.roster.cordoned = agents
        what = "cordoned" if held else "no longer cordoned"
        self.gate.info(logger, name, "agent=%s %s", name, what)
        if not held and self.roster.is_free(name) and self.training is not None:
            self.training.on(Back(name))

    def serve(self, digest: Digest, path: Path) -> None:
        self._serving.put(digest, path)

    def serve_asked(self, digest: Digest, path: Path) -> None:
        """For an operator. Raises StateError."""
        self._serving.put(digest, path, asked=True)

    def publish(self, told: Published) -> None:
        for watcher in list(self.watchers):
            watcher(told)

    def _publish(self, event: AnyLive) -> None:
        """Of the fleet: part of the run in progress."""
        self.publish(Published(self.training.run if self.training is not None else "", event))

    def watch(self, watcher: OnTold) -> None:
        self.watchers.append(watcher)

    def unwatch(self, watcher: OnTold) -> None:
        if watcher in self.watchers:
            self.watchers.remove(watcher)
