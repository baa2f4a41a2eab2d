"""A coordinator's list of keys: in its state folder, or over the network."""

from collections.abc import Callable, Sequence
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

from msgspec import to_builtins

from flctl.coordinator.front.views import shown_key, shown_tokens
from flctl.coordinator.store.audit import Audit, local_actor
from flctl.errors import UsageError
from flctl.transport.channel import LOCAL
from flctl.transport.keys import Keyring
from flctl.wire.messages import Deal


class FolderKeys:
    """The list in a state folder; a running coordinator sees a change at once. Its methods are
    those of `RemoteRuns`."""

    def __init__(self, state: Path) -> None:
        self._keyring = Keyring(state / "keys")

    def keys(self) -> dict[str, Any]:
        entries = [shown_key(entry) for entry in self._keyring.entries()]
        return {
            "server_key": self._keyring.server.public,
            "keys": entries,
            "revoked": [shown_key(entry) for entry in self._keyring.revoked()],
            "waiting": [],
            "tokens": shown_tokens(self._keyring),
        }

    def add_key(self, name: str, key: str, role: str) -> None:
        self._keyring.add(name, key, role)  # type: ignore[arg-type]  # checked there

    def revoke(self, name: str) -> list[str]:
        return [token.id for token in self._keyring.revoke(name)]

    def token(self, ttl_s: float, uses: int, deal: Deal | None, evaluates: bool) -> str:
        return self._keyring.new_token(ttl_s, uses, deal, LOCAL, evaluates)

    def token_id(self, text: str) -> str | None:
        token = self._keyring.open_token(text)
        return token.id if token is not None else None

    def close_tokens(self, ids: Sequence[str] | None) -> list[str]:
        return [token.id for token in self._keyring.close_tokens(ids)]

    def invite(self, ttl_s: float) -> dict[str, Any]:  # noqa: ARG002
        raise UsageError("no coordinator runs here; only a running one has such a folder")

    def rotate_server(self, step: str, overlap_s: float, anyway: bool) -> dict[str, Any]:
        """Agents learn the new key when a coordinator runs again."""
        keys = self._keyring.server_keys
        agents = [entry.name for entry in self._keyring.entries() if entry.role == "agent"]
        if step == "begin":
            keys.begin(overlap_s)
        elif step == "abort":
            keys.abort()
        elif agents and keys.overlap is not None and not anyway:
            raise UsageError(
                "no coordinator runs here to say which agents have the new key: start it, or add "
                "--anyway"
            )
        else:
            keys.finish()
        found, rotation = keys.overlap, None
        if found is not None:
            rotation = {
                "new_key": found.new,
                "ends": found.ends,
                "ends_in_s": found.ends - self._keyring.now,
                "have": 0,
                "missing": agents,
            }
        return {"server_key": keys.current.public, "rotation": rotation}


SHUTTING = ("revoke", "close_tokens")
"""Methods that must not fail because the audit file cannot be written."""
WORDS = {"add_key": "key-add", "revoke": "key-revoke", "close_tokens": "token-close"}
"""The names of a running coordinator for its audit file."""


class AuditedKeys:
    """Keys of a folder; each change is written to the audit file next to them."""

    def __init__(self, state: Path) -> None:
        self._keys, self._audit = FolderKeys(state), Audit(state)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._keys, name)
        return method if name == "keys" else partial(self._change, name, method)

    def _change(self, name: str, method: Callable[..., Any], *args: Any) -> Any:
        named = to_builtins(dict(signature(method).bind(*args).arguments))
        word = WORDS.get(name, name.replace("_", "-"))
        with self._audit.action(local_actor(), word, named, name not in SHUTTING) as came:
            result = method(*args)
            if name == "token":
                came["id"] = self._keys.token_id(result)
            elif result is not None:
                came["result"] = to_builtins(result)
        return result
