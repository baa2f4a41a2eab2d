"""Pages of one agent, of alerts, and of who may connect."""

from typing import Any

from markupsafe import escape
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from flctl.coordinator.store.audit import Line, read_line
from flctl.core.chain import split_lines
from flctl.errors import CoordinatorAway, FlctlError
from flctl.fleet.answers import AgentStatus
from flctl.fleet.console import SINKS, RemoteRuns
from flctl.transport.keypair import shown
from flctl.web import fleet_view, run_view
from flctl.web.asking import NotThere
from flctl.web.rendering import render
from flctl.web.site import Site

FIGURES = {
    "temperature_c": ("temperature, °C", 1.0), "throttled": ("throttled, share of the time", 1.0),
    "memory_used_bytes": ("memory used, MiB", 2.0**20),
    "disk_free_bytes": ("free on its card, MiB", 2.0**20),
    "rtt_ms": ("link round-trip, ms", 1.0), "state": ("connected, share of the time", 1.0),
    "written_bytes": ("written in a minute, KiB", 1024.0),
    "sent_bytes": ("sent in a minute, KiB", 1024.0),
}  # fmt: skip
"""Of the coordinator's history, and what they are divided by."""
COUNTED = ("written_bytes", "sent_bytes")
"""A point has what was added in its step."""
SHARES = ("throttled", "state")
SPANS = {"6h": 6 * 3600.0, "24h": 86_400.0, "7d": 7 * 86_400.0, "30d": 30 * 86_400.0}
POINTS = 400
LOG_LINES = 200
AUDIT_LINES, AUDIT_BYTES = 200, 256 * 1024
"""What is shown of the audit file: so many of its last lines, in so many of its last bytes."""


class AgentPages:
    def __init__(self, site: Site) -> None:
        self._site = site
        self.routes = [
            Route("/agents/{agent}", self.agent),
            Route("/agents/{agent}/now", self.now),
            Route("/agents/{agent}/actions", self.actions),
            Route("/agents/{agent}/history", self.history),
            Route("/agents/{agent}/log", self.log),
        ]

    def agent(self, request: Request) -> Response:
        span = request.query_params.get("span", "")
        about = {"span": span if span in SPANS else "24h", "spans": list(SPANS)}
        return self._site.page("agent.html", "/", **about, **self._now(request))

    def now(self, request: Request) -> Response:
        return HTMLResponse(render("agent_now.html", **self._now(request)))

    def actions(self, request: Request) -> Response:
        """Nothing while they are the same: a button must not go away under a finger."""
        admin, values = self._site.may_change(), self._now(request)
        if request.query_params.get("is") == f"{values['key']}-{admin}":
            return Response(status_code=204)
        return HTMLResponse(render("agent_actions.html", admin=admin, **values))

    def _now(self, request: Request) -> dict[str, Any]:
        """Raises NotThere, CoordinatorAway."""
        fleet, run = self._site.seen()
        name = request.path_params["agent"]
        if fleet is None:
            raise CoordinatorAway(self._site.feed.away)
        agent = _find(fleet.status.agents, name)
        row = fleet_view.row(agent, fleet)
        now = fleet.status.coordinator.run
        is_open = run is not None and now is not None and now.run == run.name
        rounds = [] if run is None else run_view.rounds_of(run, name, is_open)
        return {
            "agent": agent, "row": row, "columns": fleet_view.ALL, "run": run, "rounds": rounds,
            "key": "cordoned" if agent.cordoned else "free",
        }  # fmt: skip

    def history(self, request: Request) -> Response:
        """A chart for each figure that the coordinator has kept."""
        name, charts = request.path_params["agent"], []
        since_s = SPANS.get(request.query_params.get("span", ""), SPANS["24h"])
        found = self._site.inquiries.ask(
            lambda runs: {f: runs.history(name, f, since_s, POINTS) for f in FIGURES}
        )
        for figure, answer in found.items():
            (title, unit), points = FIGURES[figure], answer["points"]
            if figure in COUNTED:
                unit *= max(answer["step_s"], 1.0) / 60
            values = [None if value is None else value / unit for _, value in points]
            if any(value is not None for value in values):
                x = [at for at, _ in points]
                drawn = run_view.chart(title, x, {"mean": values}, "time", time=True)
                charts.append(drawn | {"most": 1 if figure in SHARES else None})
        return JSONResponse({"charts": charts})

    def log(self, request: Request) -> Response:
        """The last lines; the page asks again while it is open. An agent may take its time."""
        name = request.path_params["agent"]
        if why := self._no_log(name):  # the coordinator would record a refusal
            return HTMLResponse(f'<p class="dim">{escape(why)}</p>')
        try:
            page = self._site.slow.ask(lambda runs: runs.log(name, LOG_LINES))
        except FlctlError as error:
            return HTMLResponse(render("said.html", tone="bad", text=str(error)))
        return HTMLResponse(render("log.html", page=page))

    def _no_log(self, name: str) -> str:
        """Why there is no log to ask for; "" when there is. Raises NotThere, CoordinatorAway."""
        fleet, _ = self._site.seen()
        if fleet is None:
            raise CoordinatorAway(self._site.feed.away)
        agent = _find(fleet.status.agents, name)
        if agent.log is None:
            return "This agent has not been seen yet, or its version cannot send its log."
        return "" if agent.log else "Its owner does not let operators read its log."


class AlertPages:
    def __init__(self, site: Site) -> None:
        self._site = site
        self.routes = [Route("/alerts", self.alerts), Route("/alerts/now", self.now)]

    def alerts(self, _: Request) -> Response:
        return self._site.page("alerts.html", "/alerts", **self._now())

    def now(self, _: Request) -> Response:
        admin = self._site.may_change()
        return HTMLResponse(render("alerts_now.html", admin=admin, **self._now()))

    def _now(self) -> dict[str, Any]:
        alerts = self._site.inquiries.ask(lambda runs: runs.alerts())
        alerts["firing"].sort(key=lambda each: each["acknowledged"] or each["muted"])
        fleet, _ = self._site.seen()
        known = {agent.name for agent in fleet.status.agents} if fleet is not None else set()
        return {"alerts": alerts, "known": known, "sinks": SINKS}


class SecurityPages:
    def __init__(self, site: Site) -> None:
        self._site = site
        self.routes = [
            Route("/security", self.security),
            Route("/security/now", self.now),
        ]

    def security(self, _: Request) -> Response:
        return self._site.page("security.html", "/security", **self._now())

    def now(self, _: Request) -> Response:
        return HTMLResponse(render("security_now.html", **self._now()))

    def _now(self) -> dict[str, Any]:
        keys = self._site.inquiries.ask(lambda runs: runs.keys())
        try:
            audit, why = _actions(self._site.inquiries.ask(_last_lines)), ""
        except FlctlError as error:
            audit, why = [], str(error)
        return {"keys": keys, "key": shown, "audit": audit, "no_audit": why}


def _actions(lines: list[Line]) -> list[Line]:
    """Each once, with its arguments and how it ended."""
    ends = {line.id: line for line in lines if line.outcome != "begun"}
    begun = {line.id: line for line in lines if line.outcome == "begun"}
    found = []
    for line in lines:
        if line.outcome != "begun":
            first = begun.get(line.id)
            found.append(line if first is None else replace(line, args=first.args))
        elif line.id not in ends:
            found.append(line)
    return found


def _find(agents: tuple[AgentStatus, ...], name: str) -> AgentStatus:
    found = next((agent for agent in agents if agent.name == name), None)
    if found is None:
        raise NotThere(f"no agent is enrolled as {name}")
    return found


def _last_lines(runs: RemoteRuns) -> list[Line]:
    """The newest first. Raises FlctlError."""
    found = []
    for line in reversed(split_lines(runs.audit_end(AUDIT_BYTES))[-AUDIT_LINES:]):
        try:
            found.append(read_line(line))
        except FlctlError:
            continue  # the beginning of it was cut off
    return found
