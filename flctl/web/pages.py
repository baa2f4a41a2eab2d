"""Pages that only show: the fleet, its runs, an agent, who may connect."""

from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from flctl.web import fleet_view, run_view
from flctl.web.rendering import render
from flctl.web.site import Site, form

REFUSED = {
    "wrong": ("that is not the token", 403), "often": ("too many tries: wait a minute", 429),
}  # fmt: skip


class FleetPages:
    def __init__(self, site: Site) -> None:
        self._site = site
        self.routes = [
            Route("/", self.fleet),
            Route("/fleet/head", self.head),
            Route("/fleet/table", self.table),
        ]

    def fleet(self, _: Request) -> Response:
        fleet, _run = self._site.seen()
        agents = fleet.status.agents if fleet is not None else ()
        rows = self._rows()
        states = sorted({agent.state for agent in agents})
        labels = sorted({label for row in rows["rows"] for label in row.labels})
        more = {"states": states, "labels": labels, **rows, **self._head()}
        return self._site.page("fleet.html", "/", **more)

    def head(self, _: Request) -> Response:
        return HTMLResponse(render("fleet_head.html", **self._head()))

    def table(self, _: Request) -> Response:
        return HTMLResponse(render("fleet_table.html", **self._rows()))

    def _rows(self) -> dict[str, Any]:
        fleet, _ = self._site.seen()
        rows = [] if fleet is None else fleet_view.rows(fleet)
        at = 0.0 if fleet is None else fleet.at
        return {"rows": rows, "columns": fleet_view.COLUMNS, "at": at}

    def _head(self) -> dict[str, Any]:
        feed = self._site.feed
        with feed.lock:
            fleet, picture = feed.fleet, feed.run
            if fleet is None:
                return {"counts": [], "run": None, "hottest": None, "firing": []}
            run, wait, left_s = fleet.status.coordinator.run, None, None
            if run is not None and picture is not None and picture.name == run.run:
                wait = run_view.wait_of(picture, fleet)
                left_s = run_view.left(picture, fleet, feed.clock())
        return {
            "counts": fleet_view.summary(fleet),
            "run": run, "at_work": run_view.at_work(run) if run else "", "wait": wait,
            "left_s": left_s, "known": frozenset(agent.name for agent in fleet.status.agents),
            "hottest": fleet_view.hottest(fleet),
            "firing": fleet_view.firing(fleet),
        }  # fmt: skip


class DoorPages:
    """Logging in and out, and whether the page is there."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.routes = [
            Route("/login", self.ask),
            Route("/login", form(self.enter), methods=["POST"]),
            Route("/logout", form(self.leave), methods=["POST"]),
            Route("/health", self.health),
        ]

    def ask(self, request: Request) -> Response:
        login, then = self._site.login, _inside(request.query_params.get("next", "/"))
        if login is None or login.is_in(request.cookies.get(login.cookie, "")):
            return RedirectResponse(then, 303)
        error, code = REFUSED.get(request.query_params.get("refused", ""), ("", 200))
        return HTMLResponse(render("login.html", next=then, error=error), code)

    def enter(self, request: Request, fields: dict[str, str]) -> Response:
        login, then = self._site.login, _inside(fields.get("next", "/"))
        if login is None:
            return RedirectResponse("/", 303)
        # Each answer is a redirect: with a form's own answer the browser's back button fails.
        again = f"/login?next={quote(then)}&refused="
        if not login.may_try(request.client.host if request.client else ""):
            return RedirectResponse(f"{again}often", 303)
        cookie = login.enter(fields.get("token", ""))
        if cookie is None:
            return RedirectResponse(f"{again}wrong", 303)
        answer = RedirectResponse(then, 303)
        answer.set_cookie(
            login.cookie, cookie, max_age=login.lasts_s, httponly=True, samesite="strict",
            secure=request.url.scheme == "https",
        )  # fmt: skip
        return answer

    def leave(self, _: Request, fields: dict[str, str]) -> Response:  # noqa: ARG002
        answer = RedirectResponse("/login", 303)
        if self._site.login is not None:
            answer.delete_cookie(self._site.login.cookie, httponly=True, samesite="strict")
        return answer

    def health(self, _: Request) -> Response:
        """For a container: whether this process answers; and the coordinator's state."""
        return PlainTextResponse(f"ok; {self._site.feed.away or 'connected'}\n")


def _inside(path: str) -> str:
    """No address of another site."""
    inside = path.startswith("/") and not path.startswith(("//", "/\\", "/login"))
    return path if inside else "/"
