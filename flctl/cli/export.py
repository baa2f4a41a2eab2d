"""`flctl runs export`: a run's model or figures for other programs."""

from pathlib import Path
from typing import Annotated, Any

from flctl.cli.options import OWN_DATA, At, Json, OfTask, Run, flag, option, path
from flctl.errors import UsageError
from flctl.extras import needs_torch
from flctl.files import expect_path
from flctl.formats import size
from flctl.terminal.output import answer, shown

MODELS = ("pt", "safetensors", "onnx")
FORMATS = (*MODELS, "csv", "tensorboard")
STDOUT = Path("-")


def export(
    run: Run,
    format: Annotated[
        str,
        option(
            "|".join(FORMATS),
            "pt: a state dict of PyTorch. safetensors: the checkpoint. onnx: an ONNX model. csv, "
            "tensorboard: the figures of all rounds.",
        ),
    ],
    at: At,
    out: Path | None = option(
        "PATH",
        "File ('-': standard output); for tensorboard a folder, which gets a folder for the "
        "run.  [default: named after the run, in the current folder]",
        parser=path,
        default=None,
    ),
    which: str | None = option(
        "best|last|ROUND",
        "Round of the model; best: by the task's primary metric on validation.  [default: last]",
        default=None,
    ),
    per_agent: bool = flag("For csv: a row for each agent in each round.", "--per-agent"),
    data: Path | None = option(
        "PATH",
        "For onnx: file or folder with an example of the model's input.  "
        f"[default: the run's, else {OWN_DATA}]",
        parser=path,
        default=None,
    ),
    task: OfTask = None,
    json: Json = False,
) -> None:
    """Write a run's model or its figures for other programs."""
    from flctl.terminal.export import export_figures, export_model
    from flctl.terminal.finding import recorded

    _check(format, which, per_agent, data, out)
    if task is not None and format != "onnx":
        raise UsageError("--task is for --format onnx")
    more: dict[str, Any] = {}
    target: Path | None
    with recorded(run, at.folder, at.context) as found:
        if format in MODELS:
            round_id = found.round_of(which or "last")
            stem = f"{found.name}-{which}" if which not in (None, "last") else found.name
            place = out or Path(f"{stem}.{format}")
            target = export_model(found, format, round_id, place, data, task)
            more["round"] = round_id
        else:
            target = export_figures(found, format, out, per_agent)
            more["rounds"] = found.history.round
    if target is None:
        return
    what = f"the model of round {more['round']}" if "round" in more else "the figures"
    amount = f", {size(target.stat().st_size)}" if target.is_file() else ""
    result = {"run": found.name, "format": format, "path": str(target), **more}
    answer(result, json, f"{what} of run {found.name} in {shown(target)}{amount}")


def _check(
    format_: str, which: str | None, per_agent: bool, data: Path | None, out: Path | None
) -> None:
    """Check that the options fit together, and that what they need is installed."""
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
