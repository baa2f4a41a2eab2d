"""`flctl audit`: who changed what on a coordinator, when, from where, and with what outcome."""

from typing import TYPE_CHECKING

from flctl.cli.errors import fail
from flctl.cli.options import At, Head, Json, command, flag, option, single
from flctl.errors import StateError, UsageError
from flctl.terminal import chains
from flctl.terminal.finding import connected
from flctl.values import moment

if TYPE_CHECKING:
    from flctl.fleet.pages import Page

app = single()


@command(app, "flctl audit --since 7d", "flctl audit --follow --json", "flctl audit --verify")
def audit(
    at: At,
    follow: bool = flag("Continue with new lines.", "--follow", "-f"),
    since: str | None = option(
        "TIME",
        "Only lines since then: 10m, 2h, 7d, or a date, 2026-11-27 or 2026-11-27T07:30 (UTC).",
        default=None,
    ),
    verify: bool = flag("Only check that no line was changed, removed or added.", "--verify"),
    head: Head = None,
    json: Json = False,
) -> None:
    """Show who changed what on a coordinator.

    Each line says when, from where and with what outcome. A remote coordinator requires an admin
    key. The lines are chained and checked here; the state folder of this command keeps the last
    head, which must be among the lines the next time.
    """
    from flctl.coordinator.store.audit import FILE
    from flctl.fleet import heads, pages
    from flctl.terminal.audit import remember, show

    if head is not None and not verify:
        raise UsageError("--head requires --verify")
    if verify and (follow or since):
        raise UsageError("--verify checks the whole file: leave --follow and --since out")
    given, oldest = chains.given(head), moment(since, "--since") if since else ""
    from flctl.coordinator.store.runs import LocalRuns

    folder = at.folder
    with connected(folder, at.context, beside=folder / FILE) as runs:
        if not isinstance(runs, LocalRuns):
            where = f"the audit file of {runs.where}"
            page: Page = runs.audit
        else:
            path = folder / FILE
            if not path.exists():
                raise StateError(f"{path}: not found: nothing was changed here yet")
            where = str(path)
            page = pages.local(path)
        import hashlib

        name = "audit-" + hashlib.sha256(where.encode()).hexdigest()[:16]
        if not verify:
            show(page, where, oldest, follow, json, folder, name)
            return
        seen = heads.kept(folder, name)
        fault, verdict = chains.verified(page, "audit file", where, given, seen, json)
    if fault:
        fail(fault, json)
    if verdict.head:
        remember(folder, name, verdict.head, verdict.lines)
