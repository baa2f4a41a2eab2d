"""What a connected program can look at: the fleet's status, its runs, its alerts, its past."""

from collections.abc import Mapping
from typing import Any

from msgspec import to_builtins

from flctl.errors import UsageError
from flctl.fleet.console import RemoteRuns
from flctl.fleet.logs import read as read_log


class FleetViews:
    """The fleet of the coordinator that `runs` is connected to."""

    def __init__(self, runs: RemoteRuns) -> None:
        self._runs = runs

    def status(self) -> dict[str, Any]:
        """The document that `flctl status` shows."""
        return self._runs.status()

    def runs(self) -> list[dict[str, Any]]:
        """A summary of each run, the newest last."""
        return self._runs.look().summaries

    def label(self, agent: str, changes: Mapping[str, str | None]) -> dict[str, str]:
        """Set labels of an agent, or (None) take them away; its labels afterwards."""
        if not isinstance(changes, Mapping):
            raise UsageError(f"label: changes: {changes!r:.60}: pass a dict of labels")
        return self._runs.label(agent, changes)

    def log(
        self, agent: str, lines: int = 200, since_s: float | None = None
    ) -> list[dict[str, Any]]:
        """The newest lines of an agent's log: at (seconds since 1970), level and text."""
        pages = read_log(self._runs, agent, lines, since_s)
        return [dict(to_builtins(line)) for page in pages for line in page.lines]

    def alerts(self) -> dict[str, Any]:
        """The document that `flctl alerts --json` prints."""
        return self._runs.alerts()

    def history(
        self, agent: str, figure: str, since_s: float = 86400.0
    ) -> list[tuple[float, float | None]]:
        """Points of a figure of an agent (docs/how-to/alerts.md), the oldest first: seconds since
        1970, and the value; None where some are missing. Raises UsageError for an unknown agent."""
        if agent and agent not in {each["name"] for each in self.status()["agents"]}:
            raise UsageError(f"no agent is enrolled as {agent}; see flctl status")
        found = self._runs.history(agent, figure, since_s)
        return [(at, value) for at, value in found["points"]]
