"""The audit file of a coordinator on the terminal: a table, or lines as they come."""

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from flctl.coordinator.store.audit import Line, read_line
from flctl.core.chain import Chain, split_lines
from flctl.errors import FlctlError, StateError
from flctl.fleet import heads, pages
from flctl.fleet.pages import Page
from flctl.terminal import output
from flctl.transport.keypair import shown

if TYPE_CHECKING:
    from rich.console import RenderableType


LOOK_S = 1.0


def show(
    page: Page, where: str, oldest: str, follow: bool, json: bool, folder: Path, name: str
) -> None:
    """A table, or with `follow` one line each, until Ctrl-C."""
    seen, chain, at = heads.kept(folder, name), Chain(), 0
    found: list[bytes] = []
    is_there = seen is None
    for line in pages.lines(page, where):
        chain.follow(line)
        at += len(line)
        is_there = is_there or (seen is not None and chain.head == seen.head)
        if _read(line, where).at >= oldest:
            found.append(line)
    if not chain.lines and page(0):
        raise StateError(f"{where}: damaged: no complete line")
    fault = chain.fault
    if follow:
        _print(found, where, json)
    else:
        output.answer(
            [_plain(line) for line in found], json, _table([_read(line, where) for line in found])
        )
    if seen is not None and not is_there:
        fault = fault or f"the head that was kept here ({seen.what}) is not in it"
    if fault is not None:
        output.warn(f"{where}: {fault}; see: flctl audit --verify")
    elif chain.head:
        remember(folder, name, chain.head, chain.lines)
    while follow:
        time.sleep(LOOK_S)
        for line in split_lines(page(at)):
            if line.endswith(b"\n"):  # else it is being written
                at += len(line)
                _print([line], where, json)


def remember(folder: Path, name: str, head: str, lines: int) -> None:
    """Keep the head. A failure is only a warning: the lines were read all the same."""
    try:
        heads.keep(folder, name, heads.Seen(head, f"line {lines}", time.time()))
    except FlctlError as error:
        output.warn(f"the head of the audit file is not saved: {error}")


def _table(lines: Sequence[Line]) -> "RenderableType":
    """An action and its outcome are one row."""
    if not lines:
        return "nothing was changed"
    outcomes = {line.id: line for line in lines if line.outcome in ("done", "failed")}
    begun = {line.id for line in lines if line.outcome == "begun"}
    made = output.table("at (UTC)", "who", "from", "action", "arguments", "outcome", "~")
    for line in lines:
        if line.outcome in ("done", "failed") and line.id in begun:
            continue
        end = outcomes.get(line.id, line)
        # The coordinator ended before it could write the outcome.
        outcome = "unfinished" if end.outcome == "begun" else end.outcome
        made.add_row(
            line.at[:19].replace("T", " "), _who(line), line.origin or "-", line.action,
            _arguments(line.args), outcome, _detail(end),
        )  # fmt: skip
    return made


def _as_text(line: Line) -> str:
    parts = (line.at, _who(line), line.origin, line.action, _arguments(line.args), line.outcome)
    return "  ".join((*filter(None, parts), _detail(line))).rstrip()


def _read(line: bytes, where: str) -> Line:
    """Raises FlctlError."""
    try:
        return read_line(line)
    except StateError as error:
        raise FlctlError(f"{where}: {error}") from error


def _plain(line: bytes) -> Any:
    return msgspec.json.decode(line)


def _who(line: Line) -> str:
    return f"{line.who or '-'} ({line.role})"


def _detail(line: Line) -> str:
    detail = line.detail
    text = _arguments(detail) if isinstance(detail, Mapping) else str(detail or "")
    more = f"; {line.left_out} more refused before" if line.left_out else ""
    return text + more


def _arguments(detail: Mapping[str, Any]) -> str:
    keyed = {k: shown(str(v)) if k in ("key", "new_key") else v for k, v in detail.items()}
    return " ".join(f"{key}={_text(value)}" for key, value in keyed.items())


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + _arguments(value) + "}"
    if isinstance(value, list):
        return ",".join(map(_text, value)) or "-"
    return str(value)


def _print(lines: Iterable[bytes], where: str, json: bool) -> None:
    for data in lines:
        if json:
            output.print_json(_plain(data), indent=False)
        else:
            output.print_line(_as_text(_read(data, where)))
