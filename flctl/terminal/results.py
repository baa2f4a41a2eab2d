"""Metrics and predictions of a model, as tables."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from flctl.core.metrics import LABELS, confusion_of
from flctl.terminal import output
from flctl.terminal.agents import show_parts

if TYPE_CHECKING:
    from flctl.learning.predictions import Predictions
    from flctl.wire.messages import Metrics, Says


def show_metrics(found: "Mapping[str, Metrics]", classes: Sequence[str], says: "Says") -> None:
    """The figures of each part, and what the first one has by class or label."""
    show_parts("part", found, says)
    main = next(iter(found.values()))
    if LABELS in main.counts:
        made = output.table("label", ">examples", ">predicted", ">precision", ">recall", ">F1")
        for name, (hits, true, said) in zip(classes, main.counts[LABELS], strict=True):
            shares = (_share(hits, said), _share(hits, true), _share(2 * hits, said + true))
            made.add_row(name, str(true), str(said), *shares)
        output.print_line("")
        output.show(made)
    if confusion := confusion_of(main.counts):
        made = output.table("true \\ predicted", *(f">{name}" for name in classes), ">recall")
        columns = [sum(column) for column in zip(*confusion, strict=True)]
        for number, (name, row) in enumerate(zip(classes, confusion, strict=True)):
            cells = (str(count) if count else "·" for count in row)
            made.add_row(name, *cells, _share(row[number], sum(row)))
        right = (_share(confusion[number][number], n) for number, n in enumerate(columns))
        made.add_row(Text("precision", style="bold"), *right, "")
        output.print_line("")
        output.show(made)


def _share(hits: int, of: int) -> str:
    return f"{hits / of:.3f}" if of else "-"


def show_predictions(found: "Predictions", rows: int, notes: Iterable[str]) -> None:
    """A table of the first `rows` (0: all), then how many are of each class or the like."""
    shown = min(rows or len(found), len(found))
    numbers = range(len(found))
    many = len({found.record(at) for at in numbers}) > 1
    timed = any(found.at_s(at) is not None for at in numbers)
    lined = found.cases.line is not None
    columns = [">#", *["record"] * many, *[">line"] * lined, *[">at"] * timed, *found.heads]
    made = output.table(*columns, *["true"] * found.cases.labelled)
    for at in range(shown):
        at_s, cells = found.at_s(at), dict(zip(found.heads, found.row(at), strict=True))
        made.add_row(
            str(at + 1),
            *[found.record(at) or ""] * many,
            *[str(found.line(at))] * lined,
            *["" if at_s is None else f"{at_s:.2f} s"] * timed,
            *(Text(cell, style="dim" if head == "else" else "") for head, cell in cells.items()),
            *[Text(found.true(at) or "", style="red" if found.wrong(at) else "")]
            * found.cases.labelled,
        )
    output.show(made)
    if shown < len(found):
        output.print_line(f"… and {len(found) - shown:,} more; --rows 0 shows all, as does --json")
    for note in notes:
        output.print_line(note)
    if len(found) > 1:
        counts = {name: count for name, count in found.counts.items() if count}
        if counts:
            made = output.table("class", ">examples", ">share")
            for name, count in sorted(counts.items(), key=lambda item: -item[1]):
                made.add_row(found.full(name), f"{count:,}", f"{100 * count / len(found):.1f} %")
            output.print_line("")
            output.show(made)
        if found.verdict:
            output.print_line(f"\n{found.verdict}")
    if found.cases.note:
        output.print_line(f"Note: {found.cases.note}")
