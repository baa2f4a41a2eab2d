"""Parsers of typed values: times, arguments, named paths."""

import errno
import math
import re
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flctl.errors import UsageError

if TYPE_CHECKING:
    from flctl.settings import OptimizerArgs

_UNITS_S = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
MODELS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
"""Endings of files with a model; no run's name has one."""
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([smhd]?)")


def as_path(text: str) -> Path:
    """Raises UsageError where neither a file nor a folder can be."""
    path = Path(text)
    try:
        path.stat()
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
            raise UsageError(f"{text:.80}: {str(error.strerror).lower()}") from error
    return path


def seconds(text: str, flag: str) -> float:
    """`90`, `90s`, `1.5m`, `2h` or `7d` in seconds. Raises UsageError that names `flag`."""
    found = _DURATION.fullmatch(text.strip().lower())
    if found is None:
        raise UsageError(f"{flag} {text!r}: not a time; write for instance 90, 90s, 10m or 2h")
    value = float(found[1]) * _UNITS_S[found[2]]
    if not math.isfinite(value):
        raise UsageError(f"{flag} {text!r}: too long")
    return value


def moment(text: str, flag: str) -> str:
    """`10m` ago, or a date (UTC unless it says otherwise), as the coordinator writes moments, which
    sort as text. Raises UsageError."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        if _DURATION.fullmatch(text.strip().lower()) is None:
            raise UsageError(f"{flag} {text!r}: write for instance 10m, 7d or 2026-11-27") from None
        try:
            when = datetime.now(UTC) - timedelta(seconds=seconds(text, flag))
        except OverflowError:
            raise UsageError(f"{flag} {text!r}: too long ago") from None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return when.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def arguments(text: str, flag: str) -> "OptimizerArgs":
    """`momentum=0.9,nesterov=true,betas=[0.9,0.99]`, values as TOML has them."""
    try:
        found = tomllib.loads(f"args = {{{text}}}")["args"]
    except tomllib.TOMLDecodeError as error:
        raise UsageError(
            f"{flag} {text!r}: write NAME=VALUE,…, for instance momentum=0.9,nesterov=true; "
            "text in quotes, as in \"kind='small'\""
        ) from error
    return dict(found)


def names(text: str, flag: str) -> tuple[str, ...]:
    """`pi-01,pi-02` as names. Raises UsageError when one of them is empty."""
    found = tuple(name.strip() for name in text.split(","))
    if not all(found):
        raise UsageError(f"{flag} {text!r}: write names separated by commas")
    return found


def absolute(path: str, flag: str) -> str:
    """`path` from the current folder, so that it still holds when the run is resumed.

    Raises UsageError when it is empty.
    """
    if not path:
        raise UsageError(f"{flag} '': name a file or folder")
    return str(Path(path).expanduser().absolute())


def model_or_run(text: str, flag: str) -> str:
    """The absolute path of a file with a model, or the name of a run. Raises UsageError."""
    path = Path(text).expanduser()
    is_file = "/" in text or path.suffix in MODELS or path.is_file()
    return absolute(text, flag) if is_file or not text else text


def with_model(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The same settings, with the file that `from_` may name as `model_or_run` has it."""
    begin = settings.get("from_")
    named = isinstance(begin, str | Path)
    return {**settings, "from_": model_or_run(str(begin), where)} if named else {**settings}


def named_paths(texts: list[str], flag: str, unnamed: str | None = "default") -> dict[str, str]:
    """`NAME=PATH` or `PATH` (for the name `unnamed`), several times; paths made absolute."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or "/" in name:
            name, path = unnamed or "", text
        if not path or not name:
            either = "PATH or NAME=PATH" if unnamed else "NAME=PATH"
            raise UsageError(f"{flag} {text!r}: write {either}")
        if name in found:
            raise UsageError(f"{flag}: the name '{name}' is given twice; write {flag} NAME=PATH")
        found[name] = absolute(path, flag)
    return found


def share_of(text: str, flag: str) -> tuple[int, int]:
    """`2/4`, the second of four, as (1, 4): the index counts from 0. Raises UsageError."""
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise UsageError(f"{flag} {text!r}: write K/N with K from 1 to N, for instance 2/4")
    return int(found[1]) - 1, int(found[2])


def names_run(text: str, run: str) -> bool:
    """Whether a user who names `text` may mean that run: its name, the beginning or the last
    part."""
    return run.startswith(text) or run.endswith(f"-{text}")
