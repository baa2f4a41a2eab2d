"""Messages from agents: they go to the roster of live agents and to the run in progress."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import assert_never

from flctl import __version__
from flctl.coordinator.front.labels import LabelKeeping
from flctl.coordinator.front.lives import Lives
from flctl.coordinator.front.peers import Peers
from flctl.coordinator.front.probing import Probing
from flctl.coordinator.front.rotating import Rotating
from flctl.coordinator.front.serving import Serving
from flctl.coordinator.run.context import Heard
from flctl.coordinator.run.personalising import Personalising
from flctl.coordinator.run.run import Run
from flctl.coordinator.store.cordons import load_cordons, save_cordons
from flctl.coordinator.store.over import RunsOver
from flctl.core import roster
from flctl.core.roster import Member, Roster
from flctl.core.round import Back, Gone
from flctl.core.stream import AgentCame, AgentLost, AnyLive, Published
from flctl.errors import FlctlError, ProtocolMismatch
from flctl.transport.channel import Frame, Hub, Incoming, Sent
from flctl.transport.gate import Gate
from flctl.transport.keypair import shown
from flctl.transport.keys import Keyring
from flctl.wire import framing, messages

logger = logging.getLogger(__name__)


class Agents:
    """The agents of a fleet; `run` returns the run in progress. It is what that run needs of the
    coordinator (`flctl.coordinator.run.context.RunHost`).

    With `embedded` they live and die with this process; the cordons and labels in `state` are
    another fleet's, whose agents may have the same names.
    """

    def __init__(
        self,
        state: Path,
        hub: Hub,
        keyring: Keyring,
        gate: Gate,
        clock: Callable[[], float],
        heartbeat_s: float,
        publish: Callable[[Published], None],
        run: Callable[[], Run | Personalising | None],
        embedded: bool,
    ) -> None:
        self.roster = Roster(heartbeat_s)
        self.roster.cordoned = set() if embedded else load_cordons(state)
        self.peers, self.gate, self.publish = Peers(hub, self.roster, gate), gate, publish
        self.labels = LabelKeeping(None if embedded else state, self.roster, gate)
        self.serving = Serving(self.peers.send)
        self.serve = self.serving.put
        self.lives: Lives | None = None
        """None where its agents live and die with it."""
        self.rotating: Rotating | None = None
        """Rotation of the server's key; None where there is only one key."""
        self.on_log: Callable[[str, messages.LogLines], bool] = lambda *_: True
        """Takes what an agent sends of its log; False: it was not asked for."""
        self._state, self._keyring, self._heartbeat_s = state, keyring, heartbeat_s
        self._clock, self._run = clock, run
        self._runs_over = RunsOver(state, gate)
        self._pings = 0
        self._probing = Probing(self._probe_all)

    def on_time(self, now: float) -> None:
        """To be called every quarter of a second."""
        self.drop_revoked()
        self.labels.on_time(now, self.enrolled())
        if self.rotating is not None:
            self.rotating.on_time(now)
        self._apply(self.roster.on_time(now))
        self.serving.pump()
        self._probing.on_time(now)

    def on_lost(self, now: float) -> None:
        """A connection was closed; which one is not known yet."""
        self._probing.on_lost(now)

    # What they say ----------------------------------------------------------------------

    def on_message(
        self,
        incoming: Incoming,
        name: str,
        protocol: int,
        message: messages.Message,
        payload: Frame | None,
    ) -> None:
        """`name` is that of the agent's key."""
        peer, now = incoming.peer, self._clock()
        if isinstance(message, messages.Hello):
            self._on_hello(incoming, name, protocol, message)
            return
        member = self.roster.on_heard(peer, now)
        if member is None:
            self.peers.send(peer, messages.HelloAgain())
            return
        run = self._run()
        match message:
            case messages.Heartbeat():
                self._on_heartbeat(member, peer, message)
            case messages.Pong():
                self._apply(self.roster.on_pong(peer, now))
            case messages.Goodbye():
                self._apply(self.roster.on_goodbye(peer))
            case messages.Fetch():
                self.serving.on_fetch(peer, message)
            case messages.LogLines():
                if not self.on_log(name, message):
                    self.peers.complain(name, "sent its log without being asked")
            case messages.UpdateReady() if run is None or message.key.run != run.run:
                self._on_stray_offer(name, peer, message)
            case _ if run is not None:
                self._about_work(run, member, message, payload)

    def on_other_protocol(self, name: str, error: ProtocolMismatch) -> None:
        spoken = framing.spoken(error.oldest, error.newest)
        first = framing.which_first(error.oldest, error.theirs, name)
        note = f"speaks protocol {error.theirs}, the coordinator {spoken}: {first}"
        self._apply(self.roster.on_wrong_protocol(name, error.age, note, self._clock()))
        self.peers.complain(name, f"{error.age}: {note}")

    def _on_hello(
        self, incoming: Incoming, name: str, protocol: int, hello: messages.Hello
    ) -> None:
        peer = incoming.peer
        if hello.role == "evaluate" and not self._keyring.evaluates(incoming.key):
            # Who measures the models decides which one counts as the best: a person says who.
            text = (
                f"{name} is not enrolled to evaluate: enrol it with  flctl keys add {name} "
                f"{shown(incoming.key)} --role evaluate , or start it without --role evaluate"
            )
            self.peers.send(peer, messages.Refused(reason="role", message=text, retry_s=10.0))
            self.roster.member(name)  # so that its status shows it
            self.peers.complain(name, text)
            return
        self._apply(self.roster.on_hello(name, peer, hello, protocol, self._clock()))
        if self.lives is not None:
            self.lives.on_hello(name, hello)
        if self.rotating is not None:
            self.rotating.on_hello(peer, hello)

    def _on_heartbeat(self, member: Member, peer: bytes, beat: messages.Heartbeat) -> None:
        was_ready = member.ready
        member.on_heartbeat(beat)
        self.peers.send(peer, messages.HeartbeatAck(sequence=beat.sequence))
        if member.ready and not was_ready:
            self._to_run(Back(member.name))

    def _about_work(
        self,
        run: Run | Personalising,
        member: Member,
        message: messages.Message,
        payload: Frame | None,
    ) -> None:
        match message:
            case messages.Progress():
                member.progress = (message.step, message.steps)
            case messages.UpdateReady():
                member.state = "offering"
            case messages.Evaluated() | messages.Personalised():
                member.state = "ready"
            case messages.Failed():
                member.error = f"{message.kind}: {message.message}"
            case messages.BlobGone():
                pass
            case messages.Chunk() if payload is not None:
                pass
            case _:
                self.peers.complain(member.name, f"an agent may not send {type(message).__name__}")
                return
        run.on(Heard(member.name, message, payload))

    def _on_stray_offer(self, name: str, peer: bytes, offer: messages.UpdateReady) -> None:
        """An update of a run that is not in progress: kept by the agent if it can still count."""
        try:
            over = self._runs_over.is_over(offer.key.run, name)
        except FlctlError as error:
            self.gate.error(logger, name, "agent=%s its update stays with it: %s", name, error)
            return
        if over:
            self.peers.send(peer, messages.Discarded(key=offer.key, reason="its run is over"))

    # What the roster decides -------------------------------------------------------------

    def _apply(self, actions: list[roster.Action]) -> None:
        for action in actions:
            match action:
                case roster.Admit(name, peer, new):
                    self._welcome(name, peer, new)
                case roster.Probe(peer):
                    self._probe(peer)
                case roster.Conflict(name, peer):
                    text = f"two machines use the key of {name}: stop one, or give it its own"
                    retry = roster.CONFLICT_RETRY_S
                    self.peers.send(
                        peer, messages.Refused(reason="conflict", message=text, retry_s=retry)
                    )
                    self.peers.complain(name, text)
                    self._to_run(Gone(name))
                case roster.Jumped(name, text):
                    self.gate.warning(logger, name, "agent=%s %s", name, text)
                case roster.Lost(name, why):
                    self.gate.warning(logger, name, "agent=%s lost: %s", name, why)
                    self._publish(AgentLost(agent=name, reason=why))
                    self._to_run(Gone(name))
                case _:
                    assert_never(action)

    def _welcome(self, name: str, peer: bytes, new: bool) -> None:
        member = self.roster.member(name)
        self.labels.on_hello(name, member.hello.labels if member.hello is not None else {})
        knows = member.hello is not None and member.hello.life is not None
        life = self.lives.own if self.lives is not None and knows else ""
        self.peers.send(
            peer,
            messages.Welcome(
                name=name, version=__version__, heartbeat_s=self._heartbeat_s, life=life
            ),
        )
        if new:
            version = member.hello.version if member.hello else ""
            self.gate.info(logger, name, "agent=%s is here, version=%s", name, version)
            self._publish(AgentCame(agent=name))
        if member.ready:
            self._to_run(Back(name))

    def _probe(self, peer: bytes) -> None:
        self._pings += 1
        if self.peers.send(peer, messages.Ping(sequence=self._pings)) is Sent.GONE:
            self._on_unreachable(peer)

    def _probe_all(self) -> None:
        """Some connection was closed: find out whose."""
        for member in self.roster.connected():
            if member.peer is not None:
                self._probe(member.peer)

    def _on_unreachable(self, peer: bytes) -> None:
        self.serving.on_gone(peer)
        self.peers.on_gone(peer)
        self._apply(self.roster.on_unreachable(peer, self._clock()))

    def _to_run(self, event: Back | Gone) -> None:
        if (run := self._run()) is not None:
            run.on(event)

    def _publish(self, event: AnyLive) -> None:
        """Publish a fleet event as part of the run in progress."""
        run = self._run()
        self.publish(Published(run.run if run is not None else "", event))

    # For operators and a run in progress ---------------------------------------------------

    def enrolled(self) -> list[str]:
        return sorted(entry.name for entry in self._keyring.entries() if entry.role == "agent")

    def trainers(self) -> list[str]:
        entries = self._keyring.entries()
        return sorted(e.name for e in entries if e.role == "agent" and not e.evaluates)

    def tell(self, agent: str, message: messages.Message) -> bool:
        member = self.roster.members.get(agent)
        if member is None or (peer := member.peer) is None:
            return False
        sent = self.peers.send(peer, message)
        if sent is Sent.OK:
            member.on_told(message)
        elif sent is Sent.GONE:
            self._on_unreachable(peer)
        return sent is Sent.OK

    def cordon(self, name: str, held: bool) -> None:
        """Invite the agent no more, or again. Raises StateError, and then nothing has changed."""
        agents = self.roster.cordoned | {name} if held else self.roster.cordoned - {name}
        if agents == self.roster.cordoned:
            return
        save_cordons(self._state, agents)
        self.roster.cordoned = agents
        what = "cordoned" if held else "no longer cordoned"
        self.gate.info(logger, name, "agent=%s %s", name, what)
        if not held and self.roster.is_free(name):
            self._to_run(Back(name))

    def drop_revoked(self) -> None:
        """Agents that are no longer in the list of keys."""
        for name in sorted(self.roster.members.keys() - self.enrolled()):
            peer = self.roster.members[name].peer
            self.gate.warning(logger, name, "agent=%s revoked", name)
            if peer is not None:
                text = "this key was revoked"
                self.peers.send(
                    peer, messages.Refused(reason="revoked", message=text, retry_s=60.0)
                )
                self.serving.on_gone(peer)
            self.roster.remove(name)
            self._to_run(Gone(name))
