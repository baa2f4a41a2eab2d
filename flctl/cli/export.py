"""`flctl runs export`: a run's model or figures for other programs."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flctl.cli.flags import OWN_DATA
from flctl.cli.options import Context, Json, OfTask, Run, State, path
from flctl.core.history import BEST
from flctl.errors import UsageError, printable
from flctl.extras import needs_torch
from flctl.files import expect_path

if TYPE_CHECKING:
    from flctl.records.recorded import RecordedRun

MODELS = ("pt", "safetensors", "onnx")
FORMATS = (*MODELS, "csv", "tensorboard")
STDOUT = Path("-")


def export(
    run: Run,
    format: Annotated[
        str,
        typer.Option(
            metavar="|".join(FORMATS),
            help="A plain state dict of PyTorch, the checkpoint as it is, ONNX; the figures of "
            "all rounds as a table, or as events for TensorBoard.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            metavar="PATH",
            help="A file ('-' for standard output); for tensorboard a folder, in which the run "
            "gets one of its own.  "
            "[default: named after the run, in the current folder]",
            show_default=False,
        ),
    ] = None,
    which: Annotated[
        str | None,
        typer.Option(
            metavar="best|last|ROUND",
            help=f"The model of which round; best: of {BEST}.  [default: last]",
            show_default=False,
        ),
    ] = None,
    per_agent: Annotated[
        bool, typer.Option("--per-agent", help="For csv: a row for each agent of each round.")
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            metavar="PATH",
            help="For onnx: file or folder with an example of what the model takes.  "
            f"[default: the run's, else {OWN_DATA}]",
            show_default=False,
        ),
    ] = None,
    task: OfTask = None,
    state: State = None,
    context: Context = None,
    json: Json = False,
) -> None:
    """Write a run's model or its figures for other programs."""
    from flctl.cli.finding import recorded
    from flctl.formats import size
    from flctl.terminal.output import print_json, print_line, shown

    _check(format, which, per_agent, data, out)
    if task is not None and format != "onnx":
        raise UsageError("--task is for --format onnx")
    told: dict[str, Any] = {}
    target: Path | None
    with recorded(run, state, context) as found:
        if format in MODELS:
            round_id = found.round_of(which or "last")
            stem = f"{found.name}-{which}" if which not in (None, "last") else found.name
            target = _model(found, format, round_id, out or Path(f"{stem}.{format}"), data, task)
            told["round"] = round_id
        else:
            target = _figures(found, format, out, per_agent)
            told["rounds"] = found.history.round
    if target is None:
        return
    if json:
        print_json({"run": found.name, "format": format, "path": str(target), **told})
        return
    what = f"the model of round {told['round']}" if "round" in told else "the figures"
    amount = f", {size(target.stat().st_size)}" if target.is_file() else ""
    print_line(f"{what} of run {found.name} in {shown(target)}{amount}")


def _check(
    format_: str, which: str | None, per_agent: bool, data: Path | None, out: Path | None
) -> None:
    """That the options go together, and what they need is there."""
    if format_ not in FORMATS:
        raise UsageError(f"--format {format_}: it is {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    if which is not None and format_ not in MODELS:
        raise UsageError(f"--which is for a model; {format_} has all rounds")
    if per_agent and format_ != "csv":
        raise UsageError("--per-agent is for --format csv")
    if data is not None and format_ != "onnx":
        raise UsageError("--data is for --format onnx")
    if data is not None:
        expect_path(data, f"--data {data}")
    if out == STDOUT and format_ != "csv":
        raise UsageError(f"--out -: only csv goes to standard output; name a place for {format_}")
    if format_ == "tensorboard":
        from flctl.records.tensorboard import needs_tensorboard

        needs_tensorboard()
    elif format_ in ("pt", "onnx"):
        needs_torch(f"--format {format_}")
        if format_ == "onnx":
            from flctl.records.models import needs_onnx

            needs_onnx()


def _figures(found: "RecordedRun", format_: str, out: Path | None, per_agent: bool) -> Path | None:
    """Where they are; None when they went to standard output."""
    from flctl.files import explained, new_file, writable
    from flctl.records import tables, tensorboard

    if format_ == "tensorboard":
        folder = (out or Path("tensorboard")).expanduser().absolute() / found.name
        tensorboard.export(found.rounds, folder)
        return folder
    make = tables.agent_rows if per_agent else tables.round_rows
    table = tables.as_csv(make(found.rounds))
    if out == STDOUT:
        text = table.decode()
        sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
        return None
    name = Path(f"{found.name}-agents.csv" if per_agent else f"{found.name}.csv")
    target = writable(out or name, "--out")
    with explained(target, "save the table", "--out"), new_file(target) as file:
        file.write(table)
    return target


def _model(
    found: "RecordedRun",
    format_: str,
    round_id: int,
    out: Path,
    data: Path | None,
    given: str | None,
) -> Path:
    from flctl.files import explained, new_file, writable

    with tempfile.TemporaryDirectory(prefix="flctl-export-") as temporary:
        checkpoint = found.model(round_id, Path(temporary))
        target = writable(out, "--out", [checkpoint, *([data] if data else [])])
        if format_ == "safetensors":
            with (
                explained(target, "save the model", "--out"),
                new_file(target) as file,
                checkpoint.open("rb") as model,
            ):
                shutil.copyfileobj(model, file)
            return target
        from flctl.records import models  # loads torch

        if format_ == "pt":
            models.save_pt(checkpoint, target)
            return target
        from flctl.learning.registry import task_to_load
        from flctl.learning.task import load_task
        from flctl.terminal.patience import reading, waiting

        task = load_task(task_to_load(given, found.task, f"run {found.name}"))
        where = data or next(_data_of(found), None)
        with reading(where):
            example = models.example_input(task, where)
        with waiting("expressing the model in ONNX"):
            models.save_onnx(task, checkpoint, example, target)
    return target


def _data_of(found: "RecordedRun") -> Iterator[Path]:
    """What the run was tested or trained on, where that is here."""
    for key in ("test_data", "data"):
        given = found.settings.get(key)
        if given is not None and Path(given).exists():
            yield Path(given)
