"""The coordinator: receives all messages, checks who may send what, and keeps one run going.

`step` does all that is due and never blocks; `run` repeats it. A daemon and an embedded
run of `flctl train --local` are the same class.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flctl.coordinator.background import Background
from flctl.coordinator.front.admission import Admission
from flctl.coordinator.front.agents import Agents
from flctl.coordinator.front.outbox import Outbox
from flctl.coordinator.front.token_folder import TokenFolder
from flctl.coordinator.run.evaluator import Evaluator
from flctl.coordinator.run.keeper import RunKeeper
from flctl.coordinator.run.personalising import Personalising
from flctl.coordinator.run.run import Run
from flctl.coordinator.store.audit import Audit
from flctl.core.round import Tick
from flctl.core.stream import Published
from flctl.errors import FlctlError, MalformedMessage, ProtocolMismatch, StateError
from flctl.transport.channel import LOCAL, Hub, Incoming
from flctl.transport.gate import STRANGER, Gate
from flctl.transport.health import HealthPort
from flctl.transport.keypair import shown
from flctl.transport.keys import Keyring
from flctl.wire.messages import Ask, Join

if TYPE_CHECKING:
    from flctl.coordinator.alerts.alarms import Alarms
    from flctl.coordinator.front.operators import Control
    from flctl.coordinator.trends.trends import Trends

logger = logging.getLogger(__name__)

OnTold = Callable[[Published], None]

HEARTBEAT_S = 5.0
TICK_S = 0.25
REST_S = 30.0
"""How often the evaluator is asked whether it has been idle for long."""


class Coordinator:
    """`embedded`: see Agents."""

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
        self.state, self.keyring = state, keyring
        self.stopping = False
        self.gate = gate or Gate(clock)
        self.audit = Audit(state, clock, wall_clock, self.gate)
        self.watchers: list[OnTold] = []
        """Called with all that happens."""
        self.agents = Agents(
            state, hub, keyring, self.gate, clock, heartbeat_s, self.publish,
            lambda: self.training, embedded,
        )  # fmt: skip
        self.roster, self.peers = self.agents.roster, self.agents.peers
        self.runs = RunKeeper(state, self.agents, evaluator, disk, thinking, clock, wall_clock)
        self._hub, self._evaluator, self._health = hub, evaluator, health
        self._disk, self._thinking, self._clock = disk, thinking, clock
        self._door = Admission(
            self.peers, keyring, self.agents.serving, self._ask, self.gate, clock, self.audit
        )
        self.operators = Outbox(self.peers.encode, hub.send)
        self._next_tick = clock()
        self._next_rest = clock() + REST_S
        self.control: Control | None = None
        """Answers operators' questions."""
        self.alarms: Alarms | None = None
        """None where the coordinator ends with its run."""
        self.trends: Trends | None = None
        """The same."""
        self.invitation: TokenFolder | None = None
        """Kept open while it runs, if there is one."""

    @property
    def training(self) -> Run | Personalising | None:
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
                what = f"key={shown(incoming.key)} a message could not be handled"
                self.gate.bug(logger, self.source_of(incoming), error, what)
            self._finish()  # while many updates come in, the next batch is stored all the same
        self._finish()
        now = self._clock()
        if self._hub.lost_connections():
            self.agents.on_lost(now)
        if now >= self._next_tick:
            self._next_tick = now + TICK_S
            self._tick(now)
        self.runs.release_ended()
        if self.control is not None:
            self.control.step()
        if self._health is not None:
            self._health.answer(self._report)

    def _finish(self) -> None:
        for background in (self._disk, self._thinking):
            try:
                background.finish()
            except (FlctlError, OSError) as error:
                self.runs.give_up(error)

    def stop(self) -> None:
        """End `run`; a run in progress continues at the next start."""
        self.stopping = True

    def close(self) -> None:
        self.runs.abandon()
        self._evaluator.close()
        self._disk.close()
        self._thinking.close()
        self.agents.labels.close()
        self.agents.serving.close()
        if self.control is not None:
            self.control.close()
        if self.invitation is not None:
            self.invitation.close()
        if self.alarms is not None:
            self.alarms.close()
        if self.trends is not None:
            self.trends.close()
        if self._health is not None:
            self._health.close()
        self._hub.close()

    def _tick(self, now: float) -> None:
        try:
            self.keyring.refresh(now)
        except StateError as error:
            logger.error("%s; the previous keys stay in force", error)
        self.agents.on_time(now)
        if self.invitation is not None:
            self.invitation.keep()
        if self.training is not None:
            self.training.on(Tick())
        self.runs.on_time()
        if self.alarms is not None:
            self.alarms.on_time(now)
        if self.trends is not None:
            self.trends.on_time(now)
        self.operators.pump()
        if now >= self._next_rest:
            self._next_rest = now + REST_S
            self._thinking.submit(self._evaluator.rest, lambda *_: None)

    def _report(self) -> dict[str, Any]:
        """For `flctl health`."""
        run = self.runs.status()
        here, enrolled = len(self.roster.connected()), len(self.agents.enrolled())
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
                self.agents.on_other_protocol(name, error)
            return
        except MalformedMessage as error:
            self.peers.complain(name, str(error))
            return
        match role, message:
            case "agent", Join():
                self._door.on_join(incoming, message, None)  # it has its name
            case "agent", Ask():
                self._ask(incoming, message, "agent")
                self.peers.complain(name, "an agent may not send Ask")
            case "agent", _:
                self.agents.on_message(incoming, name, protocol, message, payload)
            case "guest", _:
                self._door.on_guest(incoming, message)
            case (("read" | "admin"), _):
                self._door.on_operator(incoming, role, name, message)
            case _:
                self._door.on_unlisted(incoming, message)

    def source_of(self, incoming: Incoming) -> str:
        """Name of the peer in the log; never an agent's name."""
        if incoming.key == LOCAL:
            return f"({LOCAL})"
        return self.keyring.name_of(incoming.key) or STRANGER

    def _ask(self, incoming: Incoming, question: Ask, role: str) -> None:
        rotating = self.agents.rotating
        if rotating is not None and role != "agent" and incoming.key != LOCAL:
            rotating.on_operator(incoming.peer)
        if self.control is not None:
            self.control.on_ask(incoming, question, role)

    def publish(self, told: Published) -> None:
        for watcher in [*self.watchers]:
            watcher(told)
