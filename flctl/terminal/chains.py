"""Chained lines, of `runs verify` and `audit --verify`: the verdict in words."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flctl.errors import UsageError

if TYPE_CHECKING:
    from flctl.core.chain import Chain
    from flctl.fleet.heads import Seen
    from flctl.fleet.pages import Page


def given(head: str | None) -> str | None:
    """Raises UsageError for what cannot be a head."""
    from flctl.core.chain import is_head

    if head is not None and not is_head(head):
        raise UsageError(f"--head '{head}': a head has 64 digits of 0-9 a-f")
    return head


def wrong(chain: Mapping[str, Any]) -> str | None:
    """Reason why the hash chain is broken; None if it is whole."""
    if chain["fault"]:
        return str(chain["fault"])
    return None if chain["chained"] else "not chained: an older flctl wrote it"


def verified(
    page: "Page", what: str, where: str, given: str | None, seen: "Seen | None", json: bool
) -> "tuple[str | None, Chain]":
    """Print the verdict. What is wrong, None when all lines are as they were written; the chain.

    `given` is the head of the command line, `seen` the one that was kept here; finding an older
    one does not excuse a missing newer one.
    """
    from flctl.fleet import pages

    known = dict.fromkeys(filter(None, (given, seen.head if seen else None)))
    verdict = pages.verify(page, where, *known)
    return report(verdict, what, where, given, seen, json), verdict


def report(
    verdict: "Chain", what: str, where: str, given: str | None, seen: "Seen | None", json: bool
) -> str | None:
    from msgspec import to_builtins

    from flctl.formats import counted
    from flctl.terminal import output

    origins = {given: "given"} if given else {}
    if seen:
        origins.setdefault(seen.head, f"kept here ({seen.what})")
    head = next(iter(origins), None)
    fault = verdict.fault
    if fault is None and verdict.missing:
        lost = verdict.missing[0]
        fault = (
            f"the head that was {origins[lost]}, {lost}, is missing: the file was rewritten, or "
            "lines were removed at its end"
        )
    if fault is None and not verdict.lines:
        fault = "no complete line: its contents are gone"
    if fault is None and head is None and not verdict.chained:
        fault = "not chained: an older flctl wrote it, and no known head can confirm it"
    if json:
        more = {"chained": verdict.chained, "checked_head": head, "fault": fault}
        output.print_json({"what": what, **to_builtins(verdict), **more})
    elif fault is None:
        output.print_line(f"{what}: {counted(verdict.lines, 'line')} as written")
        if head is not None:
            output.print_line(f"line {verdict.kept_at} has the head that was {origins[head]}")
        output.print_line(f"head {verdict.head}")
        if verdict.unchained:
            output.hint(
                f"lines 1 to {verdict.unchained} are from an older flctl, without a chain of their "
                "own; the lines after them confirm them"
            )
    return None if fault is None else f"{where}: {fault}"
