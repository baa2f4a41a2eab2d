"""Pages of one agent, and of who may connect."""

from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from flctl.coordinator.store.audit import read_line
from flctl.core.chain import split_lines
from flctl.errors import FlctlError, UsageError
from flctl.fleet.answers import AgentStatus
from flctl.fleet.console import RemoteRuns
from flctl.transport.keypair import shown
from flctl.web import fleet_view, run_view
from flctl.web.rendering import render
from flctl.web.site import Site

FIGURES = {
    "temperature_c": ("temperature, °C", 1.0), "throttled": ("throttled, share of the time", 1.0),
    "memory_used_bytes": ("memory used, MiB", 2.0**20),
    "disk_free_bytes": ("card free, MiB", 2.0**20),
    "rtt_ms": ("link round-trip, ms", 1.0), "state": ("connected, share of the time", 1.0),
    "written_bytes": ("written, KiB", 1024.0), "sent_bytes": ("sent, KiB", 1024.0),
}  # fmt: skip
"""Of the coordinator's history, and what they are divided by."""
SPANS = {"6h": 6 * 3600.0, "24h": 86_400.0, "7d": 7 * 86_400.0, "30d": 30 * 86_400.0}
POINTS = 400
LOG_LINES = 200
AUDIT_LINES = 200


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
        span = request.query_params.get("span", "24h")
        values = self._now(request)
        return self._site.page(
            "agent.html",
            "/",
            span=span if span in SPANS else "24h",
            spans=list(SPANS),
            may_log=hasattr(RemoteRuns, "log"),
            **values,
        )

    def now(self, request: Request) -> Response:
        return HTMLResponse(render("agent_now.html", **self._now(request)))

    def actions(self, request: Request) -> Response:
        """Nothing while they are the same: a button must not go away under a finger."""
        admin, values = self._site.may_change(), self._now(request)
        if request.query_params.get("is") == f"{values['key']}-{admin}":
            return Response(status_code=204)
        return HTMLResponse(render("agent_actions.html", admin=admin, **values))

    def _now(self, request: Request) -> dict[str, Any]:
        """Raises UsageError."""
        fleet, run = self._site.seen()
        name = request.path_params["agent"]
        agent = _find(fleet.status.agents if fleet is not None else (), name)
        assert fleet is not None
        row = fleet_view.row(agent, fleet)
        rounds = [] if run is None else run_view.rounds_of(run, name)
        return {
            "agent": agent, "row": row, "columns": fleet_view.COLUMNS, "run": run, "rounds": rounds,
            "key": "cordoned" if agent.cordoned else "free",
        }  # fmt: skip

    def history(self, request: Request) -> Response:
        """A chart for each figure that the coordinator has kept."""
        name, charts = request.path_params["agent"], []
        since_s = SPANS.get(request.query_params.get("span", ""), SPANS["24h"])
        found = self._site.inquiries.ask(
            lambda runs: {f: runs.history(name, f, since_s, POINTS)["points"] for f in FIGURES}
        )
        for figure, points in found.items():
            title, unit = FIGURES[figure]
            values = [None if value is None else value / unit for _, value in points]
            if any(value is not None for value in values):
                x = [at for at, _ in points]
                charts.append(run_view.chart(title, x, {"mean": values}, "time", time=True))
        return JSONResponse({"charts": charts})

    def log(self, request: Request) -> Response:
        """The last lines; the page asks again while it is open. An agent may take its time."""
        name = request.path_params["agent"]
        try:
            page = self._site.slow.ask(lambda runs: runs.log(name, LOG_LINES))
        except FlctlError as error:
            return HTMLResponse(render("said.html", tone="bad", text=str(error)))
        return HTMLResponse(render("log.html", page=page))


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
            audit, why = self._site.inquiries.ask(_last_lines), ""
        except FlctlError as error:
            audit, why = [], str(error)
        alerts = self._site.inquiries.ask(lambda runs: runs.alerts())
        found = {"audit": audit, "no_audit": why, "alerts": alerts}
        return {"keys": keys, "key": shown, **found}


def _find(agents: tuple[AgentStatus, ...], name: str) -> AgentStatus:
    found = next((agent for agent in agents if agent.name == name), None)
    if found is None:
        raise UsageError(f"no agent is enrolled as {name}")
    return found


def _last_lines(runs: RemoteRuns) -> list[Any]:
    """The newest first. The file is sent in pages from its beginning. Raises FlctlError."""
    kept, offset = b"", 0
    while data := runs.audit(offset):
        offset += len(data)
        kept = (kept + data)[-256 * 1024 :]
    lines = split_lines(kept)[-AUDIT_LINES:]
    found = []
    for line in reversed(lines):
        try:
            found.append(read_line(line))
        except FlctlError:
            continue  # the beginning of it was cut off
    return found
