"""The settings of `flctl train`, from its file and its command line; checked before anything heavy
is loaded."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flctl.errors import UsageError
from flctl.formats import counted
from flctl.run_toml import read_toml
from flctl.settings import CHANGEABLE, RunSettings, parse
from flctl.terminal.output import warn
from flctl.values import absolute

COMMAND_LINE = "command line"
AGENTS = ("local", "virtual", "agents", "dataset")
SAVE_MODEL, TENSORBOARD = "save_model", "tensorboard"
BESIDE = (SAVE_MODEL, TENSORBOARD)
"""Keys of a file that are not settings of the run."""
Read = Callable[[Mapping[str, Any], Path], dict[str, Any]]
"""The settings in a file, whose text means what it means on the command line."""


def resumed(file: Path | None, flags: Mapping[str, Any], run: str) -> dict[str, Any]:
    """What a resumed run changes. Raises UsageError."""
    if not run:
        raise UsageError("--resume '': name a run; 'flctl runs list' shows what there is")
    changes = {key: value for key, value in flags.items() if key != "task"}
    if file is not None or changes.keys() - set(CHANGEABLE):
        may = ", ".join(f"--{key.removesuffix('_s').replace('_', '-')}" for key in CHANGEABLE)
        raise UsageError(f"--resume uses the run's own settings; only {may} can be changed")
    return changes


def collected(file: Path | None, flags: dict[str, Any], read: Read) -> tuple[dict[str, Any], str]:
    """The settings of a new run, with those of BESIDE, and their source. Raises FlctlError."""
    if file is None:
        given, beside, where = flags, {}, COMMAND_LINE
    else:
        in_file = read_toml(file, beside=BESIDE)
        beside = {key: _path_in(file, key, in_file.pop(key)) for key in BESIDE if key in in_file}
        given = _merged(file, in_file, flags, read)
        where = f"{file} and {COMMAND_LINE}" if flags else str(file)
    settings = parse(given, where)
    if "topk_share" in flags and given.get("compression") != "topk":
        raise UsageError("--topk-share requires --compression topk")
    _warn_of_share(settings)
    return {**given, **beside}, where


def _merged(
    file: Path, in_file: dict[str, Any], flags: dict[str, Any], read: Read
) -> dict[str, Any]:
    """The flags take precedence."""
    if isinstance(in_file.get("task"), str):
        from flctl.learning.registry import task_to_load

        task_to_load(flags.get("task"), in_file["task"], str(file))
    in_file = read(in_file, file)
    task = {"task": flags.get("task", in_file.get("task", "?"))}
    parse({**in_file, **task}, str(file))  # names the place of a mistake
    parse({**flags, **task}, COMMAND_LINE)
    if "local" in flags or "virtual" in flags:  # the file may name others
        in_file = {key: value for key, value in in_file.items() if key not in AGENTS}
    for chosen in ("task", "strategy", "optimizer"):  # the arguments of another one are not its own
        if chosen in flags and flags[chosen] != in_file.get(chosen):
            in_file.pop(f"{chosen}_args", None)
    return {**in_file, **flags}


def _path_in(file: Path, key: str, value: object) -> str:
    word, kind = key.replace("_", "-"), "file" if key == SAVE_MODEL else "folder"
    if not isinstance(value, str):
        raise UsageError(f"{file}: {word}: write the path of a {kind}, in quotes")
    return absolute(value, f"{file}: {word}")


def _warn_of_share(settings: RunSettings) -> None:
    """Warn when there are too few agents for all to stay below --max-share."""
    agents = settings.local or settings.virtual or len(settings.agents)
    invited = settings.invited_of(agents) if agents else 0
    share = settings.max_share
    if share is not None and settings.weighting == "examples" and 0 < share * invited < 1:
        warn(
            f"max_share {share:g} cannot be kept by {counted(invited, 'agent')} "
            "a round: all weigh the same"
        )
