"""`flctl audit`: who changed what on a coordinator, when, from where, and how it ended."""

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flctl.cli import chains
from flctl.cli.finding import far
from flctl.cli.options import Context, Json, State, state_folder
from flctl.cli.values import seconds
from flctl.errors import FlctlError, StateError, UsageError
from flctl.terminal.output import warn

if TYPE_CHECKING:
    from flctl.coordinator.store.audit import Line
    from flctl.fleet.pages import Page

LOOK_S = 1.0


def audit(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Only what is no older: 10m, 2h, 7d, or a date, 2026-11-27 or 2026-11-27T07:30 "
            "(UTC).",
        ),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Only check that no line was changed, removed or added."),
    ] = False,
    head: chains.Head = None,
    state: State = None,
    context: Context = None,
    json: Json = False,
) -> None:
    """Show who changed what on a coordinator, when, from where, and how it ended.

    Over a connection this takes an admin key. The lines are chained, and checked here; the last
    head is kept in the state folder of this command, and has to be among the lines the next time.
    """
    from flctl.coordinator.store.audit import FILE
    from flctl.fleet import pages

    if head is not None and not verify:
        raise UsageError("--head goes with --verify")
    if verify and (follow or since):
        raise UsageError("--verify looks at the whole file: leave --follow and --since out")
    given, oldest = chains.given(head), _oldest(since)
    folder = state_folder(state)
    with far(folder, context, beside=folder / FILE) as console:
        if console is not None:
            where = f"the audit file of {console.where}"
            page: Page = console.audit
        else:
            path = folder / FILE
            if not path.exists():
                raise StateError(f"{path}: there is none: nothing was changed here yet")
            where = str(path)
            page = pages.local(path)
        name = "audit-" + hashlib.sha256(where.encode()).hexdigest()[:16]
        if verify:
            _verify(page, where, given, folder, name, json)
        else:
            _show(page, where, oldest, follow, json, folder, name)


def _verify(
    page: "Page", where: str, given: str | None, folder: Path, name: str, json: bool
) -> None:
    from flctl.fleet import heads, pages

    seen = heads.kept(folder, name)
    verdict = pages.verify(page, where, *chains.known(given, seen))
    chains.tell(verdict, "audit file", where, given, seen, json)
    if verdict.head:
        heads.keep(folder, name, heads.Seen(verdict.head, f"line {verdict.lines}", time.time()))


def _show(
    page: "Page",
    where: str,
    oldest: str,
    follow: bool,
    json: bool,
    folder: Path,
    name: str,
) -> None:
    """The table, or with `follow` a line each, for as long as nobody presses Ctrl-C."""
    from flctl.core.chain import Chain
    from flctl.fleet import heads, pages
    from flctl.terminal import output

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
        raise StateError(f"{where}: damaged: it has no whole line")
    fault = chain.verdict().fault
    if json and not follow:
        output.print_json([_plain(line) for line in found])
    elif follow:
        _print(found, where, json)
    else:
        _table([_read(line, where) for line in found])
    if seen is not None and not is_there:
        fault = fault or f"the head that was kept here ({seen.what}) is not in it"
    if fault is not None:
        warn(f"{where}: {fault}; see: flctl audit --verify")
    elif chain.head:
        heads.keep(folder, name, heads.Seen(chain.head, f"line {chain.lines}", time.time()))
    while follow:
        time.sleep(LOOK_S)
        for line in _new_lines(page, at):
            at += len(line)
            _print([line], where, json)


def _new_lines(page: "Page", at: int) -> Iterator[bytes]:
    """Whole ones only: the last one may be in the midst of being written."""
    from flctl.core.chain import split_lines

    yield from (line for line in split_lines(page(at)) if line.endswith(b"\n"))


def _print(lines: Iterable[bytes], where: str, json: bool) -> None:
    from flctl.terminal import output

    for data in lines:
        if json:
            output.print_json(_plain(data), indent=False)
            continue
        line = _read(data, where)
        parts = (line.at, _who(line), line.origin, line.action, _args(line), line.outcome)
        output.print_line("  ".join((*filter(None, parts), _detail(line))).rstrip())


def _table(lines: list["Line"]) -> None:
    """An action and its outcome are one row."""
    from flctl.terminal import output

    outcomes = {line.id: line for line in lines if line.outcome in ("done", "failed")}
    begun = {line.id for line in lines if line.outcome == "begun"}
    made = output.table("at (UTC)", "who", "from", "action", "arguments", "outcome", "~")
    for line in lines:
        if line.outcome in ("done", "failed") and line.id in begun:
            continue
        end = outcomes.get(line.id, line)
        # What was cut short: the coordinator ended before it could say more.
        outcome = "unfinished" if end.outcome == "begun" else end.outcome
        made.add_row(
            line.at[:19].replace("T", " "), _who(line), line.origin or "-", line.action,
            _args(line), outcome, _detail(end),
        )  # fmt: skip
    if lines:
        output.show(made)
    else:
        output.print_line("nothing was changed")


def _who(line: "Line") -> str:
    return f"{line.who or '-'} ({line.role})"


def _args(line: "Line") -> str:
    return _args_of(line.args)


def _detail(line: "Line") -> str:
    detail = line.detail
    text = _args_of(detail) if isinstance(detail, Mapping) else str(detail or "")
    more = f"; {line.left_out} more were refused before" if line.left_out else ""
    return text + more


def _args_of(detail: Mapping[str, Any]) -> str:
    from flctl.transport.keypair import shown

    keyed = {k: shown(str(v)) if k in ("key", "new_key") else v for k, v in detail.items()}
    return " ".join(f"{key}={_text(value)}" for key, value in keyed.items())


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + _args_of(value) + "}"
    if isinstance(value, list):
        return ",".join(map(_text, value)) or "-"
    return str(value)


def _read(line: bytes, where: str) -> "Line":
    from flctl.coordinator.store.audit import read_line

    try:
        return read_line(line)
    except StateError as error:
        raise FlctlError(f"{where}: {error}") from error


def _plain(line: bytes) -> Any:
    import msgspec

    return msgspec.json.decode(line)


def _oldest(since: str | None) -> str:
    """The earliest `at` that is shown: these sort as text."""
    if since is None:
        return ""
    try:
        when = datetime.fromisoformat(since)
    except ValueError:
        try:
            when = datetime.now(UTC) - timedelta(seconds=seconds(since, "--since"))
        except OverflowError:
            raise UsageError(f"--since {since!r}: too long ago") from None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return when.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
