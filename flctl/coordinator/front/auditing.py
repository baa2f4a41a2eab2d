"""Writes operators' orders, and refused attempts, to the audit file.

The desk calls this around every question, so that no `AdminOrder` is left out.
"""

from typing import Any

import msgspec

from flctl.coordinator.front.turns import Asked
from flctl.coordinator.store.audit import Actor, Audit, account, reason_of
from flctl.transport.channel import LOCAL
from flctl.transport.keys import Keyring
from flctl.wire import questions as q
from flctl.wire.messages import Ask

SHUTTING = (q.StopRun, q.PauseRun, q.RevokeKey, q.CloseTokens)
"""Orders that end a run's work or withdraw access: a full disk must not prevent them."""


class Auditing:
    def __init__(self, audit: Audit, keyring: Keyring) -> None:
        self._audit, self._keyring = audit, keyring

    def begin(self, asked: Asked, question: q.AnyQuestion) -> Asked:
        """Call this before the order is carried out. Raises FlctlError: then nothing is changed."""
        if not isinstance(question, q.AdminOrder):
            return asked
        args = msgspec.to_builtins(question)
        del args["type"]
        by, needed = self._actor(asked.key, asked.origin), not isinstance(question, SHUTTING)
        return asked._replace(begun=self._audit.begin(by, asked.ask.what, args, needed))

    def done(self, asked: Asked, body: Any) -> None:
        """Note the result of the order, without secrets."""
        if asked.begun is None:
            return
        told = dict(body)
        if (token := told.pop("token", None)) is not None:
            known = self._keyring.open_token(token)
            told["id"] = known.id if known is not None else None
        self._audit.end(asked.begun, "done", told)

    def failed(self, asked: Asked, error: BaseException) -> None:
        """Note that the order failed, or was refused before it began."""
        if asked.begun is not None:
            self._audit.end(asked.begun, "failed", reason_of(error))
        elif q.needs_admin(asked.ask):
            self.refused(asked.key, asked.origin, asked.ask, reason_of(error))

    def refused(self, key: str, origin: str, ask: Ask, why: str) -> None:
        self._audit.refused(self._actor(key, origin), ask.what, why)

    def _actor(self, key: str, origin: str) -> Actor:
        if key == LOCAL:
            _, uid, _, pid = [*origin.split(":"), "", "", "", ""][:4]
            who = account(int(uid)) if uid.isdecimal() else "this machine"
            return Actor(who, "local", f"process {pid}" if pid else "")
        role = self._keyring.role_of(key) or "revoked"
        return Actor(self._keyring.name_of(key) or "", role, origin, key)
