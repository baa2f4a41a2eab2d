"""The arguments of a task: its own settings, which a run has and sends to its agents."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct, structs

from flctl.errors import SettingsError
from flctl.explaining import explained_key
from flctl.settings import RunSettings

if TYPE_CHECKING:
    from flctl.learning.task import Task


def converted(usual: Struct | None, given: Mapping[str, Any], task: str) -> Struct | None:
    """`usual`, the task's own arguments, with those that are `given`. Raises SettingsError."""
    known = () if usual is None else usual.__struct_fields__
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"it has {', '.join(known) or 'none'}"
            raise SettingsError(f"task_args: task '{task}' has no argument '{name}'; {hint}")
    if usual is None or not given:
        return usual
    try:
        return msgspec.convert({**plain(usual), **given}, type(usual))
    except msgspec.ValidationError as error:
        why = explained_key(error, type(usual), {})
        raise SettingsError(f"task_args of task '{task}': {why}") from error


def plain(args: Struct | None) -> dict[str, Any]:
    """Arguments as a file has them; those without a value are left out."""
    if args is None:
        return {}
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(args))  # lists, no tuples
    return {name: value for name, value in found.items() if value is not None}


def settled(task: "Task", settings: RunSettings) -> RunSettings:
    """The settings of a run with all arguments of its task, which takes some from the run's data.
    Raises DataError, SettingsError for arguments that an agent would refuse: too many classes."""
    own = settings.data or settings.test_data
    task.settle(None if own is None else Path(own))
    try:
        converted(task.args, plain(task.args), task.name)
    except SettingsError as error:  # not given by the user
        found = f"which those found in {own or 'the data'} are not"
        raise SettingsError(f"{error}, {found}: name some with --task-args") from error
    return structs.replace(settings, task_args=task.all_args)
