"""Pages that only show: the fleet, its runs, an agent, who may connect."""

from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from flctl.web import fleet_view
from flctl.web.rendering import render
from flctl.web.site import Site, form


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
        return self._site.page(
            "fleet.html",
            "/",
            states=sorted({agent.state for agent in agents}),
            labels=sorted({label for row in rows["rows"] for label in row.labels}),
            **rows,
            **self._head(),
        )

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
        fleet, _ = self._site.seen()
        if fleet is None:
            return {"counts": [], "run": None, "hottest": None, "firing": [], "run_line": ""}
        return {
            "counts": fleet_view.summary(fleet),
            "run": fleet.status.coordinator.run,
            "run_line": fleet_view.run_line(fleet),
            "hottest": fleet_view.hottest(fleet),
            "firing": fleet_view.firing(fleet),
        }


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
        if self._site.login is None:
            return RedirectResponse("/", 303)
        return self._form(request.query_params.get("next", "/"), "", 200)

    def enter(self, request: Request, fields: dict[str, str]) -> Response:
        login, then = self._site.login, fields.get("next", "/")
        if login is None:
            return RedirectResponse("/", 303)
        if not login.may_try(request.client.host if request.client else ""):
            return self._form(then, "too many tries: wait a minute", 429)
        cookie = login.enter(fields.get("token", ""))
        if cookie is None:
            return self._form(then, "that is not the token", 403)
        inside = then.startswith("/") and not then.startswith(("//", "/\\"))
        answer = RedirectResponse(then if inside else "/", 303)
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
        """For a container: whether this process answers; the coordinator's state beside."""
        return PlainTextResponse(f"ok; {self._site.feed.away or 'connected'}\n")

    @staticmethod
    def _form(then: str, error: str, code: int) -> Response:
        return HTMLResponse(render("login.html", next=then, error=error), code)
