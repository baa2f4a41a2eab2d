"""Buttons: each is an order to the coordinator, which decides by the page's key and records it."""

import time
import tomllib
from collections.abc import Callable
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from flctl.core.events import HELD
from flctl.errors import AccessError, SettingsError, UsageError
from flctl.fleet.console import RemoteRuns
from flctl.formats import moment
from flctl.web import words
from flctl.web.feed import ALERTS
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
                "/alerts/ack": self.acknowledge,
                "/alerts/mute": self.mute,
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
        fleet, _run = self._site.seen()
        run = fleet.status.coordinator.run if fleet is not None else None
        after = "" if found.round is None else f" after round {found.round}"
        held = run is not None and run.run == found.run and run.phase == HELD
        return _said(f"Run {found.run} {'is paused' if held else f'pauses{after}'}")

    def resume(self, request: Request, _: dict[str, str]) -> Response:
        name = self._give(lambda runs: runs.resume(request.path_params["run"]))
        return _said(f"Run {name} goes on")

    def start(self, _: Request, fields: dict[str, str]) -> Response:
        given = _settings(fields)
        try:
            name = self._give(lambda runs: runs.start(given, WHERE))
        except UsageError as error:
            raise UsageError(str(error).removeprefix(f"{WHERE}: ")) from error
        return _said(f"Run {name} has begun:", link=f"/runs/{name}", link_text=name)

    def acknowledge(self, _: Request, fields: dict[str, str]) -> Response:
        number = _whole(fields, "id")
        alert = self._give(lambda runs: runs.ack_alert(number))
        return _said(
            f"The alert {words.alert(alert['alert'])} of {alert['subject']} is acknowledged"
        )

    def mute(self, _: Request, fields: dict[str, str]) -> Response:
        name, for_s = fields.get("name", ""), _whole(fields, "for_s")
        self._give(lambda runs: runs.mute_alerts(name, for_s))
        self._site.publish(ALERTS, "changed", f'["{ALERTS}"]')
        until = f"muted until {moment(time.time() + for_s)}" if for_s else "no longer muted"
        return _said(f"Alerts of {words.alert(name)} are {until}")

    def _give(self, order: Callable[[RemoteRuns], T]) -> T:
        """Raises AccessError for a page that may only look, whatever its key may do."""
        if self._site.read_only:
            raise AccessError("this page may only look: it was started with --read-only")
        try:
            return self._site.inquiries.ask(order)
        finally:
            self._site.feed.refresh()  # so that the page shows what the answer says


def _settings(fields: dict[str, str]) -> dict[str, Any]:
    """The coordinator checks them. Raises UsageError."""
    try:
        more = tomllib.loads(fields.get("more", ""))
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"further settings: not TOML: {error}") from error
    return {**more, "task": fields.get("task", ""), "rounds": _whole(fields, "rounds")}


def _whole(fields: dict[str, str], name: str) -> int:
    """Raises UsageError."""
    text = fields.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise UsageError(f"{name}: '{text:.20}' is not a whole number")
    return int(text)


def _said(text: str, **link: Any) -> Response:
    return HTMLResponse(render("said.html", tone="good", text=text, at=time.time(), **link))
