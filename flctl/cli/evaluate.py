"""`flctl evaluate`: how good a checkpoint is."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flctl.cli.flags import OWN_DATA
from flctl.cli.options import Annotator, Json, Lead, RAt, Verbose, path, reading_as
from flctl.errors import DataError, UsageError
from flctl.files import expect_path

if TYPE_CHECKING:
    from flctl.learning.examples import Examples
    from flctl.learning.task import Task

SPLITS = ("auto", "train", "all")


def evaluate(
    checkpoint: Annotated[
        Path, typer.Argument(parser=path, metavar="CHECKPOINT", help="A .safetensors file.")
    ],
    task: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Of which task.  [default: the one that the checkpoint names]"
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(parser=path, metavar="PATH", help=f"File or folder.  [default: {OWN_DATA}]"),
    ] = None,
    split: Annotated[
        str,
        typer.Option(
            metavar="auto|train|all|PART",
            help="auto: the task's parts for testing, the first counts; train: what agents "
            "train on; all: both; or one part by its name.",
        ),
    ] = "auto",
    test_batch_size: Annotated[int, typer.Option(metavar="N", min=1)] = 1000,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda")] = "auto",
    lead: Lead = None,
    annotator: Annotator = None,
    r_at: RAt = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Measure a checkpoint: loss, accuracy, macro-F1, confusion."""
    from flctl.cli import logs
    from flctl.cli.checkpoints import task_of
    from flctl.terminal import output
    from flctl.terminal.patience import reading
    from flctl.wire.messages import Metrics

    logs.set_up(verbose, quiet=True)
    if data is not None:
        expect_path(data, f"--data {data}")
    chosen, learnt = task_of(checkpoint, task, reading_as(lead, annotator, r_at))
    with reading(data):
        parts = _parts(learnt, data, split)
    found: dict[str, Metrics] = _measure(learnt, checkpoint, parts, test_batch_size, device)
    (name, main), *others = found.items()
    if json:
        import msgspec

        told = {"part": name, **msgspec.to_builtins(main), "beside": dict(others)}
        output.print_json({"checkpoint": str(checkpoint), "task": chosen, **told})
        return
    _show(found)
    if main.confusion:
        _show_confusion(learnt.classes, main.confusion)


def _parts(task: "Task", data: Path | None, split: str) -> "dict[str, Examples]":
    tests = task.test_parts(data) if split != "train" else {}
    if split in ("train", "all"):
        tests = {"train": task.train_data(data), **tests}
    if split == "all":
        from flctl.learning.examples import concatenate

        trained, *others = tests.values()
        # Of data without splits, the part for testing is all of them.
        seen = any(part.contains(trained) for part in others)
        parts = others if seen else [trained, *others]
        return {"all": concatenate(parts, str(data or "the task's data")), **tests}
    if split in SPLITS:
        found = tests
    else:
        found = {name: part for name, part in tests.items() if name == split}
        if not found and tests:
            raise UsageError(f"--split {split}: there are auto, train, all, {', '.join(tests)}")
    if not found:
        raise DataError(f"{data or 'these data'}: nothing to test on; try --split train")
    return found


def _measure(
    task: "Task",
    checkpoint: Path,
    parts: "Mapping[str, Examples]",
    batch_size: int,
    device: str,
) -> dict[str, Any]:
    from flctl.cli.checkpoints import load_model
    from flctl.learning.evaluation import evaluate as measure

    model, on = load_model(task, checkpoint, device)
    return {
        name: measure(task, model, part, batch_size=batch_size, device=on)
        for name, part in parts.items()
    }


def _show(found: Mapping[str, Any]) -> None:
    from flctl import formats
    from flctl.terminal import output

    made = output.table("part", ">examples", ">loss", ">accuracy", ">macro-F1")
    for name, metrics in found.items():
        made.add_row(
            name,
            str(metrics.examples),
            formats.figure(metrics.loss, 4),
            formats.figure(metrics.accuracy, 4),
            formats.figure(metrics.macro_f1, 4),
        )
    output.show(made)


def _show_confusion(classes: tuple[str, ...], confusion: tuple[tuple[int, ...], ...]) -> None:
    """Rows are what is true, columns what the model says."""
    from flctl.terminal import output

    made = output.table("true \\ said", *(f">{name}" for name in classes))
    for name, row in zip(classes, confusion, strict=True):
        made.add_row(name, *(str(count) if count else "·" for count in row))
    output.print_line("")
    output.show(made)
