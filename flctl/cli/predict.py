"""`flctl predict`: what a checkpoint says of each example of a file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flctl.cli.options import Annotator, Json, Lead, RAt, Verbose, path, reading_as
from flctl.files import expect_path

if TYPE_CHECKING:
    from flctl.learning.predictions import Said


def predict(
    checkpoint: Annotated[
        Path, typer.Argument(parser=path, metavar="CHECKPOINT", help="A .safetensors file.")
    ],
    file: Annotated[
        Path,
        typer.Argument(
            parser=path,
            metavar="FILE",
            help="Of 'ecg': .csv, .npz, a WFDB record (.hea), or a folder; classes may be unknown. "
            "Of other tasks: what they read.",
        ),
    ],
    task: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Of which task.  [default: the one that the checkpoint names]"
        ),
    ] = None,
    rows: Annotated[
        int, typer.Option(metavar="N", min=0, help="Of the table at most; 0: all.")
    ] = 20,
    plot: Annotated[
        Path | None,
        typer.Option(parser=path, metavar="PNG", help="Draw examples with their classes there."),
    ] = None,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda")] = "auto",
    lead: Lead = None,
    annotator: Annotator = None,
    r_at: RAt = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Say which class each example is of: the most probable ones, and how many there are.

    Where the file has no classes, it needs none; where it has, they are compared.
    """
    from flctl.cli import logs
    from flctl.cli.checkpoints import load_model, task_of
    from flctl.learning.origin import summary
    from flctl.learning.prediction import predict as judge
    from flctl.learning.predictions import Said
    from flctl.records.plots.style import needs_matplotlib, picture_path
    from flctl.terminal import output
    from flctl.terminal.patience import reading

    logs.set_up(verbose, quiet=True)
    expect_path(file)
    picture = None
    if plot is not None:
        needs_matplotlib()
        picture = picture_path(plot, "--plot", [checkpoint, file])
    chosen, learnt = task_of(checkpoint, task, reading_as(lead, annotator, r_at))
    model, on = load_model(learnt, checkpoint, device)
    with reading(file):
        cases = learnt.cases(file)
    said = Said(learnt, cases, judge(learnt, model, cases.examples, device=on))
    if picture is not None:
        from flctl.records.plots.predictions import draw

        draw(picture, said, str(output.shown(file.absolute())))
    if json:
        head = {"checkpoint": str(checkpoint), "task": chosen, "file": str(file)}
        output.print_json(head | said.plain())
        return
    _show(said, rows)
    if not all(origin.as_documented and not origin.left_out for origin in cases.origins):
        for line in summary(cases.origins):
            output.print_line(f"Read: {line}")
    if len(said) > 1:
        _summarise(said)
    if cases.note:
        output.print_line(f"Note: {cases.note}")
    if picture is not None:
        output.print_line(f"Look at {output.shown(picture)}.")


def _show(said: "Said", rows: int) -> None:
    """A table of the first `rows` (0: all)."""
    from rich.text import Text

    from flctl.terminal import output

    shown = min(rows or len(said), len(said))
    numbers = range(len(said))
    many = len({said.record(at) for at in numbers}) > 1
    timed = any(said.at_s(at) is not None for at in numbers)
    columns = [">#", *["record"] * many, *[">at"] * timed, "class", ">probability", "else"]
    made = output.table(*columns, *["true"] * said.cases.labelled)
    for at in range(shown):
        (name, probability), *others = said.top(at)
        at_s, true = said.at_s(at), said.true(at)
        made.add_row(
            str(at + 1),
            *[said.record(at) or ""] * many,
            *["" if at_s is None else f"{at_s:.2f} s"] * timed,
            said.full(name),
            f"{probability:.3f}",
            Text("  ".join(f"{n} {p:.3f}" for n, p in others), style="dim"),
            *[Text(true or "", style="" if true == name else "red")] * said.cases.labelled,
        )
    output.show(made)
    if shown < len(said):
        output.print_line(f"… and {len(said) - shown:,} more; --rows 0 shows all, --json says all")


def _summarise(said: "Said") -> None:
    """How many are of each class."""
    from flctl.terminal import output

    made = output.table("class", ">examples", ">share")
    counts = {name: count for name, count in said.counts.items() if count}
    for name, count in sorted(counts.items(), key=lambda item: -item[1]):
        made.add_row(said.full(name), f"{count:,}", f"{100 * count / len(said):.1f} %")
    output.print_line("")
    output.show(made)
    if said.right is not None:
        output.print_line(
            f"\n{said.right:,} of {len(said):,} are of the class that the file says "
            f"({100 * said.right / len(said):.1f} %)."
        )
