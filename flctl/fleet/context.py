"""Which remote coordinator this machine uses: what `flctl connect` saves."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, structs

from flctl.errors import StateError, UsageError
from flctl.files import explained, load, make_folder, replace
from flctl.transport.keypair import KeyPair, shown

CURRENT = "current"
"""The file with the name of the context in use; without it that is DEFAULT."""
DEFAULT = "default"
LOCAL = "local"
"""Value of --context for no remote coordinator."""


class Context(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    coordinator: str
    """HOST:PORT"""
    server_key: str
    public_key: str
    secret_key: str
    old_server_key: str = ""
    """Good as well while `server_key` replaces it."""
    emulated: bool = False
    """Made by `flctl emulate up`, and removed by `down`."""

    def keys(self) -> KeyPair:
        return KeyPair(public=self.public_key, secret=self.secret_key)

    def server_keys(self) -> tuple[str, ...]:
        """In the order in which they are tried."""
        return (self.server_key, self.old_server_key) if self.old_server_key else (self.server_key,)

    def known_by(self, keys: Sequence[str]) -> "Context":
        """As the coordinator says by which keys it is known from now on."""
        new, *old = keys
        return structs.replace(self, server_key=new, old_server_key=old[0] if old else "")

    def __repr__(self) -> str:
        return f"Context({self.coordinator})"


def save_context(state: Path, context: Context, name: str = DEFAULT) -> Path:
    """Readable for this user only, for it holds a secret key. Raises StateError, UsageError."""
    if name == LOCAL:
        raise UsageError(f"--name {LOCAL}: this name means this machine; choose another one")
    path = make_folder(state / "contexts") / f"{_checked(name)}.json"
    replace(path, msgspec.json.format(msgspec.json.encode(context), indent=2) + b"\n")
    return path


def forget_context(state: Path, name: str) -> None:
    """Raises StateError when it cannot be removed."""
    path = state / "contexts" / f"{_checked(name)}.json"
    with explained(path, "remove the context"):
        path.unlink(missing_ok=True)
        if current_context(state) == name:
            (state / "contexts" / CURRENT).unlink(missing_ok=True)


def context_names(state: Path) -> list[str]:
    folder = state / "contexts"
    with explained(folder, "list the contexts"):
        return sorted(path.stem for path in folder.glob("*.json")) if folder.exists() else []


def saved_contexts(state: Path) -> list[dict[str, Any]]:
    """All of them, for people: without secrets, and damaged ones with a fault."""
    current, rows = current_context(state), []
    for name in context_names(state):
        row = {"name": name, "current": name == current, "coordinator": None, "server_key": None}
        try:
            saved, fault = load_context(state, name), ""
        except StateError:
            saved, fault = None, "damaged: connect again, or remove it"
        if saved is not None:
            row |= {"coordinator": saved.coordinator, "server_key": shown(saved.server_key)}
        rows.append({**row, "fault": fault})
    return rows


def current_context(state: Path) -> str:
    """The name of the context that commands without --context take."""
    path = state / "contexts" / CURRENT
    with explained(path, "read which context is in use"):
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else DEFAULT
    return _checked(text.strip())


def use_context(state: Path, name: str) -> None:
    """Commands without --context take this one from now on. Raises UsageError, StateError."""
    load_context(state, name)
    replace(state / "contexts" / CURRENT, f"{name}\n".encode())


def load_context(state: Path, name: str | None = None) -> Context | None:
    """The context of that name; without a name the default one, None if there is none.

    Raises StateError when it is damaged, UsageError when a named one is not there.
    """
    path = state / "contexts" / f"{_checked(name or current_context(state))}.json"
    if not path.exists():
        if name is None:
            return None
        options = f"--name {name} --state {shlex.quote(str(state))}"
        raise UsageError(
            f"there is no context '{name}'; make it with: flctl connect HOST:PORT {options}"
        )
    return load(path, Context, "read the context", "; run 'flctl connect HOST:PORT' again")


def _checked(name: str) -> str:
    if not name.replace("-", "").replace("_", "").isalnum():
        raise UsageError(f"'{name}' is not a name for a context: letters, digits, - and _")
    return name
