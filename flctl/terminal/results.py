"""What a model achieves and predicts, as tables."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from flctl.core.metrics import confusion_of, label, named
from flctl.formats import figure
from flctl.terminal import output

if TYPE_CHECKING:
    from flctl.learning.predictions import Predictions
    from flctl.wire.messages import Metrics


def show_metrics(found: "Mapping[str, Metrics]", classes: Sequence[str]) -> None:
    """The figures of each part, and the confusion matrix of the first one."""
    names = named(found.values())
    made = output.table("part", ">examples", *(f">{label(name)}" for name in names))
    for part, metrics in found.items():
        figures = (figure(metrics.values[name], 4) for name in names)
        made.add_row(part, str(metrics.examples), *figures)
    output.show(made)
    main = next(iter(found.values()))
    if confusion := confusion_of(main.counts):
        made = output.table("true \\ predicted", *(f">{name}" for name in classes))
        for name, row in zip(classes, confusion, strict=True):
            made.add_row(name, *(str(count) if count else "·" for count in row))
        output.print_line("")
        output.show(made)


def show_predictions(found: "Predictions", rows: int, notes: Iterable[str]) -> None:
    """A table of the first `rows` (0: all), then how many are of each class."""
    shown = min(rows or len(found), len(found))
    numbers = range(len(found))
    many = len({found.record(at) for at in numbers}) > 1
    timed = any(found.at_s(at) is not None for at in numbers)
    columns = [">#", *["record"] * many, *[">at"] * timed, "class", ">probability", "else"]
    made = output.table(*columns, *["true"] * found.cases.labelled)
    for at in range(shown):
        (name, probability), *others = found.top(at)
        at_s, true = found.at_s(at), found.true(at)
        made.add_row(
            str(at + 1),
            *[found.record(at) or ""] * many,
            *["" if at_s is None else f"{at_s:.2f} s"] * timed,
            found.full(name),
            f"{probability:.3f}",
            Text("  ".join(f"{n} {p:.3f}" for n, p in others), style="dim"),
            *[Text(true or "", style="" if true == name else "red")] * found.cases.labelled,
        )
    output.show(made)
    if shown < len(found):
        output.print_line(f"… and {len(found) - shown:,} more; --rows 0 shows all, as does --json")
    for note in notes:
        output.print_line(note)
    if len(found) > 1:
        made = output.table("class", ">examples", ">share")
        counts = {name: count for name, count in found.counts.items() if count}
        for name, count in sorted(counts.items(), key=lambda item: -item[1]):
            made.add_row(found.full(name), f"{count:,}", f"{100 * count / len(found):.1f} %")
        output.print_line("")
        output.show(made)
        if found.right is not None:
            output.print_line(
                f"\n{found.right:,} of {len(found):,} are of the class that the file says "
                f"({100 * found.right / len(found):.1f} %)."
            )
    if found.cases.note:
        output.print_line(f"Note: {found.cases.note}")
