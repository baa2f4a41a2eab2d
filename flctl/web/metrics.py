"""/metrics for Prometheus: read from the coordinator's status at each scrape.

Labels are bounded: an agent's name, its version and architecture, and words of fixed lists. Of an
agent that is not connected there are no live figures.
"""

import hmac
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from flctl.core.events import HELD
from flctl.errors import FlctlError
from flctl.fleet import answers
from flctl.fleet.answers import AgentStatus, CoordinatorStatus, FleetStatus
from flctl.web import words
from flctl.web.asking import Inquiries
from flctl.web.feed import ANSWER_S
from flctl.web.login import secret_of

STATES = (
    "starting", "ready", "training", "evaluating", "offering", "no data", "lost", "stopped",
    "conflict", "too old", "too new",
)  # fmt: skip
REASONS = ("under-voltage", "frequency capped", "throttled", "soft temperature limit")
KINDS = (
    "agent_lost", "throttled", "undervoltage", "card_full", "no_round", "conflict", "open_token",
)  # fmt: skip
TYPE = "text/plain; version=0.0.4; charset=utf-8"
LIVE: dict[str, tuple[str, str, Callable[[AgentStatus], float | None]]] = {
    "temperature_celsius": ("gauge", "Temperature.", lambda a: a.temperature_c),
    "memory_used_bytes": ("gauge", "Memory in use.", lambda a: a.memory_used_bytes),
    "memory_total_bytes": ("gauge", "Memory of the device.", lambda a: a.memory_total_bytes),
    "disk_free_bytes": ("gauge", "Free space of the state folder.", lambda a: a.disk_free_bytes),
    "disk_total_bytes": ("gauge", "Size of that disk or card.", lambda a: a.disk_total_bytes),
    "load1": ("gauge", "Load over a minute.", lambda a: a.load_1m),
    "cpu_ratio": ("gauge", "Use of the processor, 0 to 1.", lambda a: _scaled(a.cpu_percent, 100)),
    "link_round_trip_seconds": (
        "gauge", "Round-trip to the coordinator.", lambda a: _scaled(a.rtt_ms, 1000),
    ),
    "written_bytes": ("counter", "Written to its disk or card.", lambda a: a.written_bytes),
    "sent_bytes": ("counter", "Sent to the coordinator.", lambda a: a.sent_bytes),
    "uptime_seconds": ("gauge", "Since the agent has started.", lambda a: a.uptime_s),
}  # fmt: skip
"""Figures that a connected agent reports, by the name's end; None has no sample."""


class FleetCollector(Collector):
    """`status` asks the coordinator and raises FlctlError."""

    def __init__(
        self, status: Callable[[], FleetStatus], wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._status, self._wall_clock = status, wall_clock

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("flctl_up", "Whether the coordinator answers.")
        try:
            found = self._status()
        except FlctlError:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        now = self._wall_clock()
        yield from _coordinator(found.coordinator, now)
        yield _one("flctl_open_tokens", "Open join tokens.", len(found.tokens))
        yield _one("flctl_waiting_keys", "Unknown keys that knocked.", len(found.waiting))
        firing = GaugeMetricFamily("flctl_alerts_firing", "Alerts that fire.", labels=["alert"])
        counts = found.alerts.firing if found.alerts is not None else {}
        for kind in KINDS:
            firing.add_metric([kind], counts.get(kind, 0))
        yield firing
        yield from _agents(found.agents, now)


def _one(name: str, help_: str, value: float) -> Metric:
    return GaugeMetricFamily(name, help_, value=value)


def _scaled(value: float | None, by: float) -> float | None:
    return None if value is None else value / by


def _coordinator(found: CoordinatorStatus, now: float) -> Iterator[Metric]:
    info = GaugeMetricFamily("flctl_coordinator_info", "Its version.", labels=["version"])
    info.add_metric([found.version], 1)
    yield info
    started = now - found.uptime_s
    yield _one("flctl_coordinator_start_time_seconds", "When it was started.", started)
    run = found.run
    yield _one("flctl_run_in_progress", "Whether a run is in progress.", float(run is not None))
    if run is None:
        return
    yield _one("flctl_run_round", "Committed rounds of the run in progress.", run.round)
    yield _one("flctl_run_rounds", "Rounds that it is to have.", run.rounds)
    yield _one("flctl_run_waiting_agents", "Agents that it waits for.", len(run.waiting_for))
    held = float(run.phase == HELD)
    yield _one("flctl_run_paused", "Whether an operator has paused it.", held)
    if run.since_round_s is not None:
        at = now - run.since_round_s
        yield _one("flctl_run_last_round_timestamp_seconds", "Last commit, or its begin.", at)


def _agents(agents: tuple[AgentStatus, ...], now: float) -> Iterator[Metric]:
    def gauge(name: str, help_: str, *labels: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(f"flctl_agent_{name}", help_, labels=["agent", *labels])

    up = gauge("up", "Whether it is connected.")
    seen = gauge("seen", "Whether it was heard since the coordinator's start.")
    state = gauge("state", "1 for the state that it is in.", "state")
    cordoned = gauge("cordoned", "Whether it is held back from new rounds.")
    heard = gauge("last_seen_timestamp_seconds", "When it was heard last.")
    info = gauge("info", "Its version and architecture.", "version", "arch")
    throttled = gauge("throttled", "Whether its firmware holds it back.", "reason")
    last_round = gauge("last_round", "Last round that it took part in.")
    for agent in agents:
        name = [agent.name]
        up.add_metric(name, float(_is_live(agent)))
        seen.add_metric(name, float(agent.last_seen_s is not None))
        state.add_metric([*name, _word(agent.state, STATES)], 1)
        cordoned.add_metric(name, float(agent.cordoned))
        if agent.last_seen_s is not None:
            heard.add_metric(name, now - agent.last_seen_s)
        if agent.version is not None:
            info.add_metric([*name, _plain(agent.version), _plain(agent.arch or "")], 1)
        if agent.last_round is not None:
            last_round.add_metric(name, agent.last_round)
        if _is_live(agent) and agent.throttled is not None:
            there = {_word(reason, REASONS) for reason in agent.throttled}
            for reason in (*map(_blank, REASONS), *(["other"] if "other" in there else [])):
                throttled.add_metric([*name, reason], float(reason in there))
    yield from (up, seen, state, cordoned, heard, info, throttled, last_round)
    for end, (kind, help_, value_of) in LIVE.items():
        family = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
        made = family(f"flctl_agent_{end}", help_, labels=["agent"])
        for agent in agents:
            value = value_of(agent) if _is_live(agent) else None
            if value is not None:
                made.add_metric([agent.name], value)
        yield made


def _is_live(agent: AgentStatus) -> bool:
    return agent.state not in words.AWAY


def _blank(text: str) -> str:
    return text.replace(" ", "_").replace("-", "_")


def _plain(text: str) -> str:
    """What an agent says of itself, if it looks like a version or an architecture."""
    return text if re.fullmatch(r"[\w.+-]{0,40}", text, re.ASCII) else "other"


def _word(text: str, known: tuple[str, ...]) -> str:
    return _blank(text) if text in known else "other"


class MetricsPage:
    """`token`: a file with what Prometheus has to send; None: on loopback, no token is asked for,
    elsewhere nothing is served."""

    def __init__(self, inquiries: Inquiries, token: Path | None, local: bool) -> None:
        self._token, self._local = token, local
        self._registry = CollectorRegistry()
        self._registry.register(FleetCollector(lambda: status_of(inquiries)))
        self.routes = [Route("/metrics", self.metrics)]

    def metrics(self, request: Request) -> Response:
        if self._token is None and not self._local:
            text = "start flctl web with --metrics-token FILE to serve this beyond loopback"
            return PlainTextResponse(text, 403)
        if self._token is not None:
            given = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
            expected = secret_of(self._token, "--metrics-token")
            if not hmac.compare_digest(given.encode(), expected.encode()):
                needed = {"www-authenticate": "Bearer"}
                return PlainTextResponse("a bearer token is needed", 401, headers=needed)
        return Response(generate_latest(self._registry), media_type=TYPE)


def status_of(inquiries: Inquiries) -> FleetStatus:
    """Raises FlctlError."""
    return inquiries.ask(
        lambda runs: answers.read(FleetStatus, runs.ask("status", ANSWER_S), runs.where)
    )
