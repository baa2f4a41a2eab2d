"""`flctl runs export`: a run's model or figures for other programs."""

from pathlib import Path
from typing import Annotated

from flctl.cli.options import OWN_DATA, At, Json, OfTask, Run, flag, option, path
from flctl.formats import size
from flctl.terminal.output import answer, shown


def export(
    run: Run,
    format: Annotated[
        str,
        option(
            "pt|safetensors|onnx|csv|tensorboard",
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
        "For onnx: file or folder with an example of the model's input, where the task does not "
        f"know its shape; no targets are needed.  [default: the run's, else {OWN_DATA}]",
        parser=path,
        default=None,
    ),
    task: OfTask = None,
    json: Json = False,
) -> None:
    """Write a run's model or its figures for other programs."""
    from flctl.terminal import export as exporting
    from flctl.terminal.finding import recorded

    exporting.check(format, which, per_agent, data, out, task)
    with recorded(run, at.folder, at.context) as found:
        target, more = exporting.export(found, format, which, out, data, task, per_agent)
    if target is None:
        return
    what = f"the model of round {more['round']}" if "round" in more else "the figures"
    amount = f", {size(target.stat().st_size)}" if target.is_file() else ""
    result = {"run": found.name, "format": format, "path": str(target), **more}
    answer(result, json, f"{what} of run {found.name} in {shown(target)}{amount}")
