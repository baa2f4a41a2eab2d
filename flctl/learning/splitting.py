"""Reads and deals data for `flctl data`, and names the command that repeats it."""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flctl.errors import UsageError
from flctl.files import expect_path, explained, make_folder
from flctl.folders import new_folder
from flctl.learning.dealing import DataSet, find_task, read_data
from flctl.learning.task import Task, load_task
from flctl.run_toml import toml_value
from flctl.settings import RunSettings, normalised, parse


def read_named(
    data: Path | None, task: str | None, args: Mapping[str, Any]
) -> tuple[str, Task, DataSet]:
    """The task by its name, with these arguments, and what it reads. Raises FlctlError."""
    if data is not None:
        expect_path(data)
    if data is None and task is None:
        raise UsageError("name a file or folder, or a task with data of its own (--task)")
    if task is None and args:
        raise UsageError("--task-args: say --task too")
    if task is None:
        assert data is not None
        name, found = find_task(data)
        learnt = load_task(name)
        learnt.settle(data)
        return name, learnt, found
    learnt = load_task(task, args)
    if data is not None and "target" in args:
        learnt.expect_target(data)
    return task, learnt, read_data(learnt, data)


def write_sample(task: str, folder: Path) -> int:
    """Small invented files of that task in the new `folder`: how many. Raises FlctlError."""
    if os.path.lexists(folder):
        raise UsageError(f"{folder} is there already; name a new folder")
    files = load_task(task).sample()
    make_folder(folder.absolute().parent, "DIR")
    with explained(folder, "write the files", "DIR"), new_folder(folder.absolute()) as new:
        for name, content in files.items():
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            (new / name).write_bytes(content)
    return len(files)


def split_settings(task: str, defaults: Mapping[str, Any], given: Mapping[str, Any]) -> RunSettings:
    """As `flctl train` reads the same options. Raises SettingsError."""
    plain = {key: value for key, value in given.items() if value is not None}
    own = normalised(defaults, f"the defaults of task '{task}'")
    return parse({**own, **plain, "task": task}, "command line")


def split_command(data: Path | None, out: Path, task: str, settings: RunSettings) -> str:
    args = ",".join(f"{name}={toml_value(value)}" for name, value in settings.task_args.items())
    words = ["flctl", "data", "split", *([] if data is None else [str(data)]), "--task", task,
             *(["--task-args", args] if args else []),
             "--out", str(out), "--agents", str(settings.virtual),
             "--partition", settings.partition]  # fmt: skip
    if settings.partition == "dirichlet":
        words += ["--alpha", repr(settings.alpha)]
    return shlex.join([*words, "--seed", str(settings.seed)])
