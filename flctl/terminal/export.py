"""Writes a run's model or figures for other programs, with progress on the terminal."""

import sys
import tempfile
from pathlib import Path
from typing import Any

from flctl.errors import DataError, TaskError, UsageError, printable
from flctl.extras import needs_torch
from flctl.files import expect_path, explained, new_file
from flctl.outputs import writable
from flctl.records import tables, tensorboard
from flctl.records.copies import copy_checkpoint, found_of
from flctl.records.recorded import RecordedRun
from flctl.terminal.patience import reading, waiting

MODELS = ("pt", "safetensors", "onnx")
FORMATS = (*MODELS, "csv", "tensorboard")
STDOUT = Path("-")


def check(
    format_: str,
    which: str | None,
    per_agent: bool,
    data: Path | None,
    out: Path | None,
    task: str | None,
) -> None:
    """Check that the options fit together, and that what they need is installed."""
    if format_ not in FORMATS:
        raise UsageError(f"--format {format_}: write {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    if which is not None and format_ not in MODELS:
        raise UsageError(f"--which applies to models; {format_} has all rounds")
    if per_agent and format_ != "csv":
        raise UsageError("--per-agent requires --format csv")
    if data is not None and format_ != "onnx":
        raise UsageError("--data requires --format onnx")
    if task is not None and format_ != "onnx":
        raise UsageError("--task requires --format onnx")
    if data is not None:
        expect_path(data, f"--data {data}")
    if out == STDOUT and format_ != "csv":
        raise UsageError(f"--out -: only csv can go to standard output; name a path for {format_}")
    if format_ == "tensorboard":
        tensorboard.needs_tensorboard()
    elif format_ in ("pt", "onnx"):
        needs_torch(f"--format {format_}")
        if format_ == "onnx":
            from flctl.records.models import needs_onnx

            needs_onnx()


def export(
    found: RecordedRun,
    format_: str,
    which: str | None,
    out: Path | None,
    data: Path | None,
    task: str | None,
    per_agent: bool,
) -> tuple[Path | None, dict[str, Any]]:
    """What was written (None: standard output), and of which round or rounds."""
    if format_ not in MODELS:
        return _figures(found, format_, out, per_agent), {"rounds": found.history.round}
    round_id = found.round_of(which or "last")
    stem = f"{found.name}-{which}" if which not in (None, "last") else found.name
    place = out or Path(f"{stem}.{format_}")
    return _model(found, format_, round_id, place, data, task), {"round": round_id}


def _figures(found: RecordedRun, format_: str, out: Path | None, per_agent: bool) -> Path | None:
    """Path of the written file; None for standard output."""
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
    found: RecordedRun, format_: str, round_id: int, out: Path, data: Path | None, given: str | None
) -> Path:
    with tempfile.TemporaryDirectory(prefix="flctl-export-") as temporary:
        checkpoint = found.model(round_id, Path(temporary))
        target = writable(out, "--out", [checkpoint, *([data] if data else [])])
        if format_ == "safetensors":
            score = found.rounds[round_id - 1].metrics if round_id else None
            copy_checkpoint(checkpoint, target, "--out", found_of(checkpoint, score))
            return target
        from flctl.records import models  # loads torch

        if format_ == "pt":
            models.save_pt(checkpoint, target)
            return target
        from flctl.learning.registry import task_to_load
        from flctl.learning.task import load_task

        name = task_to_load(given, found.task, f"run {found.name}")
        task = load_task(name, found.settings.get("task_args", {}))
        own = (found.settings.get(key) for key in ("test_data", "data"))
        where = data or next((Path(path) for path in own if path and Path(path).exists()), None)
        try:
            with reading(where):
                example = models.example_input(task, where)
        except (DataError, TaskError) as error:
            raise DataError(f"{error}; name a file to predict as an example (--data)") from error
        with waiting("converting the model to ONNX"):
            models.save_onnx(task, checkpoint, example, target)
    return target
