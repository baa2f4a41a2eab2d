"""Writes a run's model or figures for other programs, with progress on the terminal."""

import sys
import tempfile
from pathlib import Path

from flctl.errors import printable
from flctl.files import explained, new_file
from flctl.outputs import writable
from flctl.records import tables, tensorboard
from flctl.records.copies import copy_checkpoint, found_of
from flctl.records.recorded import RecordedRun
from flctl.terminal.patience import reading, waiting

STDOUT = Path("-")


def export_figures(
    found: RecordedRun, format_: str, out: Path | None, per_agent: bool
) -> Path | None:
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


def export_model(
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
        with reading(where):
            example = models.example_input(task, where)
        with waiting("converting the model to ONNX"):
            models.save_onnx(task, checkpoint, example, target)
    return target
