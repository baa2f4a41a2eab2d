"""The log of an agent on the terminal: its lines, or JSON."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from flctl.fleet.logs import follow, read
from flctl.formats import counted
from flctl.terminal import output

if TYPE_CHECKING:
    from flctl.fleet.answers import LogPage
    from flctl.fleet.console import RemoteRuns
    from flctl.wire.messages import LogLine


def show(
    runs: "RemoteRuns", agent: str, lines: int, since_s: float | None, goes_on: bool, json: bool
) -> None:
    if not goes_on:
        pages = list(read(runs, agent, lines, since_s))
        found = [line for page in pages for line in page.lines]
        if json:
            output.print_json([_plain(line) for line in found])
        for line in () if json else found:
            output.print_line(_as_text(line))
        return
    for told in follow(runs, agent, lines, since_s):
        if isinstance(told, str):
            output.warn(told)
        else:
            _print(told, json)


def _print(page: "LogPage", json: bool) -> None:
    if page.missed:
        output.warn(f"{counted(page.missed, 'line')} of {page.agent} came too fast and were lost")
    for line in page.lines:
        if json:
            output.print_json(_plain(line), indent=False)
        else:
            output.print_line(_as_text(line))


def _plain(line: "LogLine") -> dict[str, Any]:
    return dict(msgspec.to_builtins(line))


def _as_text(line: "LogLine") -> str:
    at = datetime.fromtimestamp(line.at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return f"{at} {line.level} {line.text}"
