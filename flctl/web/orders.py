"""Buttons: each is an order to the coordinator, which decides by the page's key and records it."""

import tomllib
from collections.abc import Callable
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from flctl.errors import AccessError, SettingsError, UsageError
from flctl.fleet.console import RemoteRuns
from flctl.web import words
from flctl.web.rendering import render
from flctl.web.site import Site, form

T = TypeVar("T")
WHERE = "the page"
"""Named in messages about settings."""


class Orders:
    def __init__(self, site: Site) -> None:
        self._site = site
        self.routes = [
            Route(path, form(order), methods=["POST"])
            for path, order in {
                "/agents/{agent}/cordon": self.cordon,
                "/agents/{agent}/uncordon": self.uncordon,
                "/runs/{run}/stop": self.stop,
                "/runs/{run}/pause": self.pause,
                "/runs/{run}/resume": self.resume,
                "/runs/start": self.start,
            }.items()
        ]

    def cordon(self, request: Request, _: dict[str, str]) -> Response:
        name = request.path_params["agent"]
        self._give(lambda runs: runs.cordon(name))
        return _said(f"Agent {name} is held back from new rounds")

    def uncordon(self, request: Request, _: dict[str, str]) -> Response:
        name = request.path_params["agent"]
        self._give(lambda runs: runs.uncordon(name))
        return _said(f"Agent {name} takes part in new rounds again")

    def stop(self, request: Request, _: dict[str, str]) -> Response:
        name = self._give(lambda runs: runs.stop(request.path_params["run"]))
        return _said(f"Run {name} has stopped; it can be resumed")

    def pause(self, request: Request, _: dict[str, str]) -> Response:
        found = self._give(lambda runs: runs.pause(request.path_params["run"]))
        when = "is paused" if found.round is None else f"pauses after round {found.round}"
        return _said(f"Run {found.run} {when}")

    def resume(self, request: Request, _: dict[str, str]) -> Response:
        name = self._give(lambda runs: runs.resume(request.path_params["run"]))
        return _said(f"Run {name} goes on")

    def start(self, _: Request, fields: dict[str, str]) -> Response:
        given = _settings(fields)
        try:
            name = self._give(lambda runs: runs.start(given, WHERE))
        except UsageError as error:
            text = str(error).removeprefix(f"{WHERE}: ")
            raise UsageError(words.without_types(text)) from error
        return _said(f"Run {name} has begun:", link=f"/runs/{name}", link_text=name)

    def _give(self, order: Callable[[RemoteRuns], T]) -> T:
        """Raises AccessError for a page that may only look, whatever its key may do."""
        if self._site.read_only:
            raise AccessError("this page may only look: it was started with --read-only")
        try:
            return self._site.inquiries.ask(order)
        finally:
            self._site.feed.poke()


def _settings(fields: dict[str, str]) -> dict[str, Any]:
    """The coordinator checks them. Raises UsageError."""
    try:
        more = tomllib.loads(fields.get("more", ""))
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"further settings: not TOML: {error}") from error
    rounds = fields.get("rounds", "")
    if not (rounds.isascii() and rounds.isdigit() and len(rounds) < 10):
        raise UsageError(f"rounds: '{rounds:.20}' is not a whole number")
    return {**more, "task": fields.get("task", ""), "rounds": int(rounds)}


def _said(text: str, **link: Any) -> Response:
    return HTMLResponse(render("said.html", tone="good", text=text, **link))
