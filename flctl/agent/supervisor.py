"""The agent's light half: owns the connection, the heartbeats and the worker process.

Neither torch nor numpy is loaded here. `step` does all that is due and never waits;
`run` repeats it.
"""

import logging
import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from flctl import __version__
from flctl.agent.config import AgentConfig
from flctl.agent.frozen import FrozenParts
from flctl.agent.heartbeat import HeartbeatTimer
from flctl.agent.limits import Pace
from flctl.agent.log import AgentLog
from flctl.agent.models import Models
from flctl.agent.session import Session
from flctl.agent.state import AgentState
from flctl.agent.telemetry import Computer
from flctl.agent.updates import Updates
from flctl.agent.work import Work
from flctl.errors import MalformedMessage, ProtocolMismatch, StateError, UsageError
from flctl.transport.blobs import BlobStore
from flctl.transport.channel import Frame, Link, LinkEvent
from flctl.transport.health import HealthPort
from flctl.transport.keypair import public_key
from flctl.wire import framing, messages
from flctl.worker.process import Worker

if TYPE_CHECKING:
    from flctl.agent.main import Stop

logger = logging.getLogger(__name__)

AT_WORK = frozenset({"ready", "training", "evaluating", "offering"})
TICK_S = 1.0
"""The longest wait: a worker's death is noticed within it even when its pipe stays open."""
BACKLOG_S = 0.02
"""The wait while the connection's queue is full."""
OUTBOX = 64
GOODBYE_S = 0.1
"""Time for the goodbye to leave the machine."""

State = Literal["starting", "ready", "training", "evaluating", "offering", "no data"]


class Supervisor:
    """`tasks` maps each task that the owner enables to the digest of its code."""

    def __init__(
        self,
        *,
        config: AgentConfig,
        link: Link,
        worker: Worker,
        store: BlobStore,
        machine: Computer,
        state: AgentState,
        public_key: str,
        tasks: dict[str, messages.Digest],
        clock: Callable[[], float],
        health: HealthPort | None = None,
        log: AgentLog | None = None,
    ) -> None:
        self._config, self._link, self._worker = config, link, worker
        self._machine, self._clock, self._state = machine, clock, state
        self._tasks = tasks
        self._health = health
        self._nonce = os.urandom(16).hex()
        self._log = log
        self._began = clock()
        self._sent_bytes = 0
        self._outbox: deque[messages.Message] = deque(maxlen=OUTBOX)
        self._last_state: State = "starting"
        self._decode = framing.to_agent()
        self.session = Session(config, link, state, public_key, self._hello)
        self._timer = HeartbeatTimer(config.heartbeat_s, self._heartbeat)
        self._models = Models(store, FrozenParts(state.frozen), self._tell)
        self._updates = Updates(self._tell, config.offer_s)
        most = config.limits.max_rounds_per_hour
        self._pace = Pace(most, state.saved_pace(), clock())
        self.work = Work(
            config=config,
            tasks=tasks,
            worker=worker,
            store=store,
            models=self._models,
            updates=self._updates,
            pace=self._pace,
            post=self._outbox.append,
            tell=self._tell,
            described=self.session.say_hello,
        )

    # The loop -------------------------------------------------------------------------

    def run(self, stop: "Stop") -> None:
        """Until `stop` asks for the end. Raises AccessError where only a person can help."""
        while not stop.asked():
            self._link.wait(self.step(self._clock()), [*stop.fds, *self._other_fds()])

    def step(self, now: float) -> float:
        """Everything that has come in or is due; the seconds until it is needed again."""
        for event in self._link.events():
            self._on_link(event, now)
        for frames in self._link.receive():
            self._receive(frames, now)
        self.work.on_events(now)
        self.work.tick(now)
        self.session.tick(now)
        if self._health is not None:
            self._health.answer(self._report)
        if self.session.welcomed:
            self._speak(now)
        else:
            self._timer.stop()
        if self._updates.backlog and self.session.welcomed:
            return BACKLOG_S
        return max(0.0, min(TICK_S, self.session.next_at - now, self._timer.next_at - now))

    def close(self) -> None:
        """Say goodbye and end the worker."""
        if self._tell(messages.Goodbye()):
            self._link.wait(GOODBYE_S)
        self.work.close()
        if self._pace.begun:
            try:
                self._state.save_pace(self._pace.begun)
            except StateError as error:
                logger.warning("%s: the next start counts rounds from 0", error)
        if self._log is not None:
            try:
                self._state.save_log(self._log.last())
            except StateError as error:
                logger.warning("%s: the last lines of the log are not kept", error)
        if self._health is not None:
            self._health.close()
        self._link.close()

    @property
    def state(self) -> State:
        found = self.work.data.found
        if found is None:
            return "starting"
        if self.work.doing is not None:
            return self.work.doing
        if len(self._updates):
            return "offering"
        return "ready" if found.datasets else "no data"

    def _speak(self, now: float) -> None:
        """Send what is due while the session is open."""
        if not self.session.owes_hello(now):  # first what data there are, then what came of them
            while self._outbox and self._tell(self._outbox[0]):
                self._outbox.popleft()
            self._updates.pump(now)
        self._models.pump(now)
        if self.state != self._last_state:
            # The coordinator sees by itself that a round's work begins and ends.
            if not {self.state, self._last_state} <= AT_WORK:
                self._timer.hurry(now)
            self._last_state = self.state
        self._timer.beat(now, self._tell)
        if self._timer.is_silent(now):
            logger.warning("agent=%s no echo of its heartbeats: reconnecting", self.session.name)
            self._on_link(LinkEvent.DISCONNECTED, now)
            self._link.reopen()

    # What comes in --------------------------------------------------------------------

    def _on_link(self, event: LinkEvent, now: float) -> None:
        self.session.on_link(event, now)
        if not self.session.welcomed:
            self._updates.on_disconnected()

    def _receive(self, frames: Sequence[Frame], now: float) -> None:
        try:
            try:
                _, message, payload = self._decode(frames)
            except ProtocolMismatch:
                self.session.on_other_protocol(frames, now)
            else:
                self._dispatch(message, payload, now)
        except MalformedMessage as error:
            logger.warning("a message of the coordinator is ignored: %s", error)

    def _dispatch(self, message: messages.Message, payload: Frame | None, now: float) -> None:
        """Handle messages about the session here and pass those about work on."""
        match message:
            case messages.Welcome():
                self._on_welcome(message, now)
            case messages.Refused():
                self.session.on_refused(message, now)
            case messages.Joined():
                self.session.on_joined(message, now)
                if message.shard is not None:
                    self.work.data.deal(message.shard)
            case messages.ServerKeys():
                self._on_server_keys(message)
            case messages.HelloAgain():
                self.session.on_hello_again(now)
            case messages.HeartbeatAck():
                self._timer.on_echo(message.sequence, now)
            case messages.Ping():
                self._send(messages.Pong(sequence=message.sequence))
            case messages.SendLog():
                self._send_log(message, now)
            case _:
                self._dispatch_work(message, payload, now)

    def _dispatch_work(self, message: messages.Message, payload: Frame | None, now: float) -> None:
        match message:
            case messages.Train() | messages.Evaluate() | messages.Personalise():
                self.work.on_order(message, now)
            case messages.NextModel():
                self.work.on_next_model(message)
            case messages.Accepted():
                self.work.on_accepted(message)
            case messages.Discarded():
                self.work.on_discarded(message)
            case messages.Cancel():
                self.work.on_cancel(message.run)
            case messages.Fetch():
                self._updates.on_fetch(message)
            case messages.Chunk() if payload is not None:
                self.work.on_chunk(message, payload, now)
            case messages.BlobGone():
                self.work.on_blob_gone(message.blob)
            case _:
                raise MalformedMessage(f"unexpected {type(message).__name__}")

    def _on_welcome(self, message: messages.Welcome, now: float) -> None:
        again = self.session.welcomed
        self.session.on_welcome(message)
        self.work.agent = message.name
        try:
            if message.life:
                self._state.save_life(self._config.server_key, message.life)
        except StateError as error:  # only another coordinator is not noticed, then
            logger.warning("%s", error)
        self._timer.start(now, message.heartbeat_s)
        self._updates.offer_again(now)
        if not again:
            self._models.on_welcome(now)

    def _send_log(self, asked: messages.SendLog, now: float) -> None:
        if self._log is None:
            self._tell(messages.LogLines(id=asked.id, refused=True))
        else:
            self._tell(self._log.answer(asked, now))

    def _on_server_keys(self, message: messages.ServerKeys) -> None:
        """On the disk first: whatever happens next, one of them is right."""
        try:
            keys = tuple(public_key(key, "a server key") for key in message.keys)
            self._state.save_server_keys(self._config.server_key, keys)
        except (StateError, UsageError) as error:
            logger.error("the coordinator's new key is not used: %s", error)
            return
        logger.info("coordinator=%s is known by %s", self._config.coordinator, ", ".join(keys))
        self._link.use_server_keys(keys)
        self.session.say_hello()

    # What goes out --------------------------------------------------------------------

    def _hello(self) -> messages.Hello:
        found = self.work.data.found
        return messages.Hello(
            session=self._nonce,
            version=__version__,
            role=self._config.role,
            device=self._machine.device(
                found.torch if found is not None and found.torch else None,
                found is not None and found.cuda,
            ),
            tasks=self._tasks,
            datasets=found.datasets if found is not None else (),
            error=found.error if found is not None else None,
            damaged=found.damaged if found is not None else (),
            server_keys=self._state.server_keys(self._config.server_key),
            limits=self._config.limits,
            image=self._config.image,
            settings=self._config.choices.digest,
            labels=self._config.labels,
            log=self._log is not None,
            life=self._state.life(self._config.server_key),
        )

    def _heartbeat(self, sequence: int, rtt_ms: float | None) -> messages.Heartbeat:
        return messages.Heartbeat(
            sequence=sequence,
            state=self.state,
            telemetry=msgspec.structs.replace(
                self._machine.read(self._clock() - self._began, self._worker.pid),
                sent_bytes=self._sent_bytes,
            ),
            rtt_ms=rtt_ms,
            error=self.work.error,
        )

    def _tell(self, message: messages.Message, payload: Frame | None = None) -> bool:
        """Send to a coordinator that has welcomed us; False: not now."""
        return self.session.welcomed and self._send(message, payload)

    def _send(self, message: messages.Message, payload: Frame | None = None) -> bool:
        frames = framing.encode(message, payload)
        sent = self._link.send(frames)
        self._sent_bytes += sum(len(frame) for frame in frames) if sent else 0
        return sent

    def _other_fds(self) -> list[int]:
        fd = self._worker.fileno()
        asked = self._health.fds if self._health is not None else []
        return asked if fd is None else [*asked, fd]

    def _report(self) -> dict[str, Any]:
        """For `flctl health`."""
        name, where = self.session.name or "(no name yet)", self._config.coordinator
        linked = "linked to" if self.session.welcomed else "not linked to"
        return {
            "text": f"agent {name}: {self.state}, {linked} {where}",
            "name": self.session.name,
            "state": self.state,
            "coordinator": where,
            "linked": self.session.welcomed,
        }
