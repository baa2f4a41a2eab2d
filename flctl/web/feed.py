"""The one subscription of all viewers: a thread that asks for the fleet's status and follows the
run in progress, or the newest one."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from msgspec import Struct

from flctl.core import stream
from flctl.core.events import RoundCommitted, UpdateStored
from flctl.errors import CoordinatorAway, FlctlError
from flctl.fleet import answers, discovery
from flctl.fleet.console import RemoteRuns
from flctl.web.asking import Open
from flctl.web.picture import RunPicture

logger = logging.getLogger(__name__)

WATCHED_S, UNWATCHED_S = 0.5, 10.0
"""How often the status is asked for with and without viewers; an event brings it forward."""
SOON_S = 0.3
ANSWER_S = 4.0
"""How long an answer may take before the page shows that the coordinator is lost."""
RETRY_S = 1.0
REFRESH_S = 2.0
"""How long the answer to a button waits for the status that shows what it has done."""
FLEET, RUN, RUNS, KEYS, ALERTS = "fleet", "run", "runs", "keys", "alerts"
"""Topics of what has changed."""
Told = Callable[[set[str]], None]


class Since(Struct, frozen=True):
    """When an agent's state began, as far as it was seen here."""

    state: str
    at: float
    exact: bool
    """False: it was in it when it was seen first."""


class FleetSeen(Struct, frozen=True):
    at: float
    """When, in seconds since 1970."""
    status: answers.FleetStatus
    advice: dict[str, str]
    """What to do, by agent."""
    since: dict[str, Since]


class Feed:
    """The fields are to be read while `lock` is held."""

    def __init__(
        self,
        open_: Open,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._open, self.clock, self.wall_clock = open_, clock, wall_clock
        self.lock = threading.Lock()
        self.fleet: FleetSeen | None = None
        self.run: RunPicture | None = None
        self.away = "connecting to the coordinator"
        """Why there is no answer; empty when there is."""
        self._asked = self._answered = 0
        self._taken = threading.Condition(self.lock)
        """A status has come."""
        self.changes = 0
        """How often a round was committed, or a run began or ended: what is kept of runs is old."""
        self.watched: Callable[[], bool] = lambda: False
        """Whether anybody looks."""
        self.told: Told = lambda _: None
        """Called from the feed's thread with the topics that have changed."""
        self._ending = threading.Event()
        self._soon = threading.Event()
        self._thread = threading.Thread(target=self._work, name="flctl.web.feed", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._ending.set()
        self._soon.set()
        self._thread.join(2 * ANSWER_S)

    def poke(self) -> str:
        """Ask for the status soon: a viewer has come, waits or has changed something. `away`."""
        self._soon.set()
        return self.away

    def refresh(self) -> None:
        """Wait for a status that is asked for from now on, for a short time."""
        with self._taken:
            asked = self._asked
            self.poke()
            self._taken.wait_for(lambda: self.away or self._answered > asked, REFRESH_S)

    def _work(self) -> None:
        while not self._ending.is_set():
            try:
                with self._open() as runs:
                    self._follow(runs)
            except FlctlError as error:
                self._lost(error)
            except Exception as bug:  # the page goes on, and says so
                logger.exception("the feed has to begin again")
                self._lost(bug)
            self._ending.wait(RETRY_S)

    def _follow(self, runs: RemoteRuns) -> None:
        due, watching = 0.0, None
        name: str | None = None
        while not self._ending.is_set():
            if self.clock() >= due or self._soon.is_set():
                self._soon.clear()
                self._asked += 1
                status = runs.ask("status", ANSWER_S)
                self._take_status(status, answers.read(answers.FleetStatus, status, runs.where))
                due = self.clock() + (WATCHED_S if self.watched() else UNWATCHED_S)
                wanted = self._run_to_watch(runs, name)
                if wanted and wanted != name:
                    watching = runs.watch(wanted)
                    with self.lock:
                        self.run = RunPicture(wanted, self.clock())
                name = wanted
            if watching is not None:
                self._take_events(watching)
            else:
                self._soon.wait(min(0.5, max(0.0, due - self.clock())))

    def _run_to_watch(self, runs: RemoteRuns, now: str | None) -> str:
        """The run in progress, else the one that is watched, else the newest, else ""."""
        assert self.fleet is not None
        if run := self.fleet.status.coordinator.run:
            return run.run
        if now is not None:
            return now
        found = runs.look().summaries
        return str(max(found, key=lambda each: each["started"])["run"]) if found else ""

    def _take_status(self, body: dict[str, Any], status: answers.FleetStatus) -> None:
        rows = discovery.compare(discovery.enrolled(body), body)
        before, now = self.fleet, self.wall_clock()
        known = before.since if before else {}
        since = {
            a.name: _since(a, known.get(a.name), now, before is not None) for a in status.agents
        }
        seen = FleetSeen(now, status, {row.name: row.advice for row in rows if row.name}, since)
        topics = {FLEET}
        if before is None or _keys_of(before.status) != _keys_of(status):
            topics.add(KEYS)
        if before is None or _alerts_of(before.status) != _alerts_of(status):
            topics.add(ALERTS)
        if before is None or before.status.coordinator.run != status.coordinator.run:
            topics.add(RUN)
        with self.lock:
            if self.away:
                topics |= {RUN, RUNS, KEYS, ALERTS}
            self.fleet, self.away = seen, ""
            self._answered = self._asked
            self._taken.notify_all()
        self.told(topics)

    def _take_events(self, watching: Iterator[stream.Published | None]) -> None:
        """Those that are there, up to half a second of them; waits as long when there are none."""
        until, topics = self.clock() + 0.5, set[str]()
        for told in watching:
            if told is None:
                break
            with self.lock:
                if self.run is not None and told.run == self.run.name:
                    self.run.apply(told, self.clock())
                    topics.add(RUN)
                if isinstance(told.event, (RoundCommitted, stream.RunBegun, *stream.ENDS)):
                    self.changes += 1
                    topics.add(RUNS)
            if not isinstance(told.event, stream.BatchTrained | UpdateStored):
                self._soon.set()
            if self.clock() > until:
                break
        if topics:
            self.told(topics)

    def _lost(self, error: Exception) -> None:
        text = str(error)
        if isinstance(error, CoordinatorAway):
            text = "lost the coordinator" if self.fleet else "the coordinator does not answer"
        with self.lock:
            self.away = text
            self._taken.notify_all()
        self.told(set())


def _since(agent: answers.AgentStatus, known: Since | None, now: float, seen: bool) -> Since:
    if known is not None and known.state == agent.state:
        return known
    if agent.state == "lost" and agent.last_seen_s is not None:
        return Since(agent.state, now - agent.last_seen_s, True)
    if agent.state == "lost" and agent.last_heard is not None:
        return Since(agent.state, agent.last_heard, True)
    return Since(agent.state, now, seen)


def _alerts_of(status: answers.FleetStatus) -> tuple[object, ...]:
    return status.alerts, [agent.alerts for agent in status.agents]


def _keys_of(status: answers.FleetStatus) -> tuple[object, ...]:
    return (
        [agent.name for agent in status.agents],
        status.waiting,
        [token.id for token in status.tokens],
        status.revoked,
    )
