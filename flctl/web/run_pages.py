"""Pages of runs: the table, one run, several side by side; and their files."""

import contextlib
import tempfile
import threading
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from flctl.core.metrics import label
from flctl.formats import figure
from flctl.records.recorded import RecordedRun
from flctl.records.tables import agent_rows, as_csv, round_rows
from flctl.web import run_view, verdicts, words
from flctl.web.feed import FleetSeen
from flctl.web.limits import BoundedFile
from flctl.web.rendering import render
from flctl.web.shelf import Shown
from flctl.web.site import Site, trouble

DOWNLOADS = 4
"""Checkpoints that are fetched and sent at a time."""
COMPARED = 6
"""Runs side by side: as many as there are lines that can be distinguished."""
CHOOSE = f"Choose runs to compare, up to {COMPARED} of them."


class RunPages:
    def __init__(self, site: Site) -> None:
        self._site = site
        self._downloads = threading.BoundedSemaphore(DOWNLOADS)
        self.routes = [
            Route("/runs", self.table),
            Route("/runs/table", self.rows),
            Route("/runs/compare", self.compare),
            Route("/runs/compare/curves", self.compared_curves),
            Route("/runs/{run}", self.run),
            Route("/runs/{run}/now", self.now),
            Route("/runs/{run}/figures", self.figures),
            Route("/runs/{run}/actions", self.actions),
            Route("/runs/{run}/curves", self.curves),
            Route("/runs/{run}/rounds.csv", self.rounds_csv),
            Route("/runs/{run}/agents.csv", self.agents_csv),
            Route("/runs/{run}/checkpoint/{which}", self.checkpoint),
        ]

    # All runs ---------------------------------------------------------------------------

    def table(self, request: Request) -> Response:
        fleet, _run = self._site.seen()
        tasks = sorted(
            {t for a in fleet.status.agents for t in a.tasks} if fleet is not None else ()
        )
        agents = fleet.status.agents if fleet is not None else ()
        there = sum(a.state not in words.AWAY and not a.cordoned for a in agents)
        choose = CHOOSE if "choose" in request.query_params else ""
        return self._site.page(
            "runs.html", "/runs", tasks=tasks, there=there, choose=choose, **self._summaries()
        )

    def rows(self, _: Request) -> Response:
        return HTMLResponse(render("runs_table.html", **self._summaries()))

    def _summaries(self) -> dict[str, Any]:
        found = self._site.inquiries.ask(lambda runs: runs.look()).summaries
        found.sort(key=lambda each: each["started"], reverse=True)
        names = list(
            dict.fromkeys(n for run in found for n in (run["metrics"] or {}).get("values", {}))
        )
        for run in found:
            run["mark"], run["tone"] = run_view.run_mark(run["state"])
            values = (run["metrics"] or {}).get("values", {})
            run["part"] = (run["metrics"] or {}).get("part", "-")
            run["cells"] = [figure(values.get(name), 4) for name in names]
        return {"runs": found, "heads": [label(name) for name in names]}

    def compare(self, request: Request) -> Response:
        if not (shown := self._chosen(request)):
            return RedirectResponse("/runs?choose=", 303)
        with self._site.feed.lock:
            worth = {each.picture.name: verdicts.worth(each.picture) for each in shown}
            first, verdict = verdicts.verdict(worth)
            rows = run_view.side_by_side(shown, verdicts.judged(worth))
        return self._site.page(
            "compare.html", "/runs", shown=shown, rows=rows, verdict=verdict, first=first,
            labels=run_view.labels_of(shown), differing=run_view.differing(shown),
            query=request.url.query,
        )  # fmt: skip

    def compared_curves(self, request: Request) -> Response:
        shown = self._chosen(request)
        with self._site.feed.lock:
            return JSONResponse({"charts": run_view.compared(shown)})

    def _chosen(self, request: Request) -> list[Shown]:
        """None where none are chosen, or too many."""
        names = list(dict.fromkeys(request.query_params.getlist("run")))
        few = names if len(names) <= COMPARED else []
        return [self._site.shelf.run(name) for name in few]

    # One run ----------------------------------------------------------------------------

    def run(self, request: Request) -> Response:
        shown = self._shown(request)
        with self._site.feed.lock:
            values = self._now(shown)
            settings = run_view.settings_of(shown)
        return self._site.page("run.html", "/runs", about=shown.about, settings=settings, **values)

    def now(self, request: Request) -> Response:
        shown = self._shown(request)
        with self._site.feed.lock:
            return HTMLResponse(render("run_now.html", **self._now(shown)))

    def figures(self, request: Request) -> Response:
        shown = self._shown(request)
        with self._site.feed.lock:
            return HTMLResponse(render("run_figures.html", **self._now(shown)))

    def actions(self, request: Request) -> Response:
        """Nothing while they are the same: a button must not go away under a finger."""
        shown, admin = self._shown(request), self._site.may_change()
        with self._site.feed.lock:
            values = self._now(shown)
        if request.query_params.get("is") == f"{values['key']}-{admin}":
            return Response(status_code=204)
        return HTMLResponse(render("run_actions.html", admin=admin, **values))

    def curves(self, request: Request) -> Response:
        shown = self._shown(request)
        with self._site.feed.lock:
            return JSONResponse({"charts": run_view.curves(shown.picture)})

    def _now(self, shown: Shown) -> dict[str, Any]:
        """With the feed's lock."""
        picture, feed = shown.picture, self._site.feed
        fleet = feed.fleet
        state, said = run_view.state_of(shown, fleet)
        agents, more = run_view.progress(picture)
        score = picture.last.metrics if picture.last is not None else None
        mark, tone = run_view.run_mark(state)
        return {
            "known": _enrolled(fleet) if shown.about["kind"] == "fleet" else frozenset(),
            "name": picture.name, "state": state, "said_of_it": said, "mark": mark, "tone": tone,
            "picture": picture, "agents": agents, "more": more, "score": score,
            "standing": (standing := run_view.standing(shown, fleet)), "open": standing != "over",
            "key": f"{state}-{standing}",
            "wait": run_view.wait_of(picture, fleet),
            "left_s": run_view.left(picture, fleet, feed.clock()),
            "rounds": shown.about["rounds"],
            "shown_round": run_view.round_shown(picture),
            "values": run_view.values_of(picture, run_view.round_shown(picture)),
            "shown_part": run_view.part_of(picture, run_view.round_shown(picture)),
            "measured": run_view.measured(picture),
            "confusion": (confusion := run_view.confusion(picture)),
            "classes": run_view.class_names(picture, len(confusion)),
            "last": run_view.last_rounds(picture), "mishaps": run_view.mishaps(picture),
            "names": run_view.metric_names(picture.rounds),
            "last_part": picture.rounds[-1].part if picture.rounds else "",
        }  # fmt: skip

    def _shown(self, request: Request) -> Shown:
        return self._site.shelf.run(request.path_params["run"])

    # Files ------------------------------------------------------------------------------

    def rounds_csv(self, request: Request) -> Response:
        found = self._recorded(request)
        return _file(as_csv(round_rows(found.rounds)), f"{found.name}.csv")

    def agents_csv(self, request: Request) -> Response:
        found = self._recorded(request)
        return _file(as_csv(agent_rows(found.rounds)), f"{found.name}-agents.csv")

    def checkpoint(self, request: Request) -> Response:
        """Through a temporary file that ends with the answer."""
        run, which = request.path_params["run"], request.path_params["which"]
        if not self._downloads.acquire(blocking=False):
            text = f"{DOWNLOADS} checkpoints are being downloaded, as many as may be; try it later"
            return trouble(503, text)
        with contextlib.ExitStack() as ends:
            ends.callback(self._downloads.release)
            folder = Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="flctl-web-")))
            name = self._site.inquiries.once(lambda runs: _fetch(runs, run, which, folder))
            return BoundedFile(folder / "model.safetensors", f"{name}-{which}", ends.pop_all())

    def _recorded(self, request: Request) -> RecordedRun:
        run = request.path_params["run"]
        return self._site.inquiries.once(
            lambda runs: RecordedRun(runs.about(run), list(runs.events(run)), runs)
        )


def _enrolled(fleet: FleetSeen | None) -> frozenset[str]:
    return frozenset(a.name for a in fleet.status.agents) if fleet is not None else frozenset()


def _fetch(runs: Any, run: str, which: str, folder: Path) -> str:
    found = RecordedRun(runs.about(run), runs.events(run), runs)
    found.model(found.round_of(which), folder)
    return found.name


def _file(data: bytes, name: str) -> Response:
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return Response(data, media_type="text/csv; charset=utf-8", headers=headers)
