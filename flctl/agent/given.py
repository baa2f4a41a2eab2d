"""Command-line options of an agent, checked before anything starts."""

import os
import sys
from pathlib import Path
from typing import Any

import msgspec

from flctl.agent.config import AgentConfig
from flctl.agent.state import has_joined
from flctl.errors import AccessError, UsageError
from flctl.explaining import explained_key
from flctl.files import absent, read_small
from flctl.settings import is_utf8
from flctl.transport.allowlist import check_entry
from flctl.transport.keypair import public_key, refuse_secret
from flctl.values import arguments, named_paths


def checked(config: dict[str, Any]) -> AgentConfig:
    state = config.pop("state")
    given = {key: value for key, value in config.items() if value is not None}
    plain = {**msgspec.to_builtins(given), "state": str(state)}
    try:
        return msgspec.convert(plain, AgentConfig, dec_hook=lambda kind, value: kind(value))
    except msgspec.ValidationError as error:
        key, _, why = explained_key(error, AgentConfig, {}).partition(": ")
        raise UsageError(f"--{key.replace('_', '-')}: {why}") from error


def server_key_of(key: str | None, file: Path | None) -> str:
    if file is not None:
        refuse_secret(file.expanduser())
        key = _read(str(file), "--server-key-file")
    if not key:
        raise UsageError(
            "no server key; pass --server-key KEY, --server-key-file FILE or FLCTL_SERVER_KEY "
            "(the coordinator prints it when it starts; 'flctl keys list' shows it too)"
        )
    return public_key(key, "--server-key")


def name_of(name: str | None) -> str | None:
    if name is not None:
        try:
            check_entry(name, "agent")
        except UsageError as error:
            raise UsageError(f"--name {error}") from error
    return name


def join_token_of(file: str | None, state: Path, waits: bool = False) -> str | None:
    """Never taken from an argument, which `ps` shows. If the agent `waits` for a shard, the file
    may come later."""
    if file is None:
        return os.environ.get("FLCTL_JOIN_TOKEN") or None
    if file != "-" and _is_missing(file):
        if waits or has_joined(state):
            return None  # it is needed once
        raise UsageError(
            f"--join-token-file {file}: no such file; create a token on the coordinator "
            "with: flctl keys token (with coordinator --invite: flctl keys invite)"
        )
    token = sys.stdin.readline().strip() if file == "-" else _read(file, "--join-token-file")
    if not token:
        raise AccessError(f"--join-token-file {file}: is empty; flctl keys token creates a token")
    return token


def _is_missing(file: str) -> bool:
    """Not just unreadable, which `_read` explains."""
    try:
        Path(file).expanduser().stat()
    except FileNotFoundError:
        return True
    except (OSError, RuntimeError):
        return False
    return False


def _read(file: str, flag: str) -> str:
    try:
        return read_small(Path(file).expanduser()).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not plain text"
        raise UsageError(f"{flag} {file}: cannot be read: {reason}") from error


def datasets_of(data: list[str], shard: Any, task_args: str | None = None) -> dict[str, Any]:
    paths = named_paths(data, "--data") if data else {"default": None}
    for text, path in zip(data, paths.values(), strict=False):
        if not is_utf8(text):
            raise UsageError(f"--data {text}: its name is not UTF-8: rename it")
        if path is not None and not Path(path).exists():
            name, equals, _ = text.partition("=")
            also = f", and '{name}' cannot name a data set: no / in names" if equals else ""
            why = f"{absent(Path(path))}{also if '/' in name else ''}"
            raise UsageError(f"--data {text}: {why}")
    args = arguments(task_args, "--task-args") if task_args else {}
    return {name: {"path": path, "shard": shard, "task_args": args} for name, path in paths.items()}
