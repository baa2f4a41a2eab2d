"""Answers operators: `flctl status`, `train`, `runs`, `keys`, here or over the fleet port.

`flctl.wire.questions` types what may be asked. To add a question: a class there (its docstring
says how), and a method here, named in `Control._answers`, that returns the body of the answer.
Whether the key may ask it, and what its arguments may be, is checked before.
"""

import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from flctl import __version__
from flctl.coordinator.journal import as_json, chain_of, last_events, read_events
from flctl.coordinator.runs import RunFolder, all_runs, summary
from flctl.coordinator.service import Coordinator
from flctl.coordinator.views import agent_status, shown_key, shown_tokens, shown_waiting
from flctl.core.roster import Member
from flctl.errors import AccessError, FlctlError, RunError, UsageError
from flctl.files import failure, page
from flctl.transport.channel import Incoming
from flctl.wire import questions as q
from flctl.wire.messages import Ask, Trouble

logger = logging.getLogger(__name__)

WATCH_LIMIT = 2000
"""Events of the past that a watcher is sent at most."""

Watcher = Callable[[dict[str, Any]], None]


class Asked(NamedTuple):
    """Where the answer of a question goes."""

    peer: bytes
    id: int
    what: str
    source: str
    """Of lines in the log: the operator's name, LOCAL for the control socket."""


class Control:
    def __init__(
        self,
        coordinator: Coordinator,
        endpoint: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._coordinator = coordinator
        self._operators = coordinator.operators
        self._watching: dict[bytes, Watcher] = {}
        """One for each operator: whoever asks again watches anew, not twice."""
        self._endpoint = endpoint
        self._clock, self._began = clock, clock()
        self._answers: dict[type[q.Question], Callable[[Asked, Any], Any]] = {
            q.Status: self._status,
            q.Runs: self._runs,
            q.Run: self._run,
            q.Journal: self._journal,
            q.Watch: self._watch,
            q.Checkpoint: self._checkpoint,
            q.Keys: self._keys,
            q.Start: self._start,
            q.Stop: self._stop,
            q.Resume: self._resume,
            q.AddKey: self._add_key,
            q.RevokeKey: self._revoke,
            q.NewToken: self._new_token,
            q.CloseTokens: self._close_tokens,
            q.Invite: self._invite,
            q.Cordon: self._cordon,
            q.Uncordon: self._uncordon,
        }
        """Each returns the body of its answer; None: that comes later, or it was given."""

    def on_ask(self, incoming: Incoming, ask: Ask, role: str) -> None:
        if role == "agent":
            self._refuse_agent(incoming, ask)
            return
        asked = Asked(incoming.peer, ask.id, ask.what, self._coordinator.source_of(incoming))
        try:
            if q.is_order(ask) and role != "admin":
                raise AccessError(f"'{ask.what}' needs an admin key, this one may only read")
            question = q.read_question(ask)
            body = self._answers[type(question)](asked, question)
            if body is not None:
                self._operators.answer(asked.peer, asked.id, body)
        except (FlctlError, OSError) as error:
            self._trouble(asked, error)

    def _refuse_agent(self, incoming: Incoming, ask: Ask) -> None:
        """Nothing is kept for one that does not read it."""
        name = self._coordinator.keyring.name_of(incoming.key)
        text = (
            f"this key is that of the agent {name}; asking and steering need one that is "
            "enrolled as read or admin: make it with  flctl keys new FILE  and enrol it, "
            "there, with  flctl keys add NAME KEY --role admin"
        )
        refusal = Trouble(id=ask.id, message=text, exit_code=AccessError.exit_code)
        self._coordinator.peers.send(incoming.peer, refusal)

    def _trouble(self, asked: Asked, error: BaseException) -> None:
        if isinstance(error, OSError):
            error = failure(error, self._coordinator.state, asked.what)
        code = error.exit_code if isinstance(error, FlctlError) else 1
        text = str(error) if isinstance(error, FlctlError) else f"unexpected: {error!r}"
        trouble = Trouble(id=asked.id, message=text[:2000], exit_code=code)
        self._operators.put(asked.peer, trouble)

    # Looking --------------------------------------------------------------------------

    def _status(self, _: Asked, __: q.Status) -> Any:
        coordinator = self._coordinator
        now = self._clock()
        names = set(coordinator.enrolled()) | set(coordinator.roster.members)
        training = coordinator.training
        return {
            "coordinator": {
                "version": __version__,
                "uptime_s": round(now - self._began, 1),
                "endpoint": self._endpoint,
                "lost_after_s": coordinator.roster.lost_after_s,
                "server_key": coordinator.keyring.server.public,
                "run": training.status() if training is not None else None,
            },
            "agents": [
                agent_status(
                    coordinator.roster.members.get(name) or Member(name),
                    now,
                    name in coordinator.roster.cordoned,
                )
                for name in sorted(names)
            ],
            "waiting": [shown_waiting(waiting) for waiting in coordinator.keyring.waiting()],
            "tokens": shown_tokens(coordinator.keyring),
        }

    def _runs(self, asked: Asked, _: q.Runs) -> Any:
        found = []
        for folder in all_runs(self._coordinator.state):
            try:
                found.append(summary(folder))
            except FlctlError as error:
                text = "run=%s cannot be read: %s"
                self._coordinator.gate.warning(logger, asked.source, text, folder.name, error)
        return found

    def _run(self, _: Asked, question: q.Run) -> Any:
        folder = self._find(question.run)
        about = {**summary(folder), "settings": msgspec.to_builtins(folder.settings())}
        if not question.events:
            return about
        return {
            **about,
            "chain": chain_of(folder.journal_path),
            "events": [as_json(event) for event in read_events(folder.journal_path)],
        }

    def _journal(self, _: Asked, question: q.Journal) -> Any:
        folder = self._find(question.run)
        return {"data": page(folder.journal_path, question.offset)}

    def _watch(self, asked: Asked, question: q.Watch) -> Any:
        """The events of a run so far, then every new one, as RunEvents."""
        folder = self._find(question.run)
        self._operators.answer(asked.peer, asked.id, summary(folder))
        if question.past:
            for event in last_events(folder.journal_path, WATCH_LIMIT):
                self._operators.event(asked.peer, asked.id, event)
        training = self._coordinator.training
        if training is not None and training.run == folder.name and (waits := training.waiting()):
            self._operators.event(asked.peer, asked.id, waits)
        self._unwatch(asked.peer)

        def watcher(event: dict[str, Any]) -> None:
            if not self._operators.event(asked.peer, asked.id, event):
                self._unwatch(asked.peer)

        self._watching[asked.peer] = watcher
        self._coordinator.watch(watcher)
        return None

    def _unwatch(self, peer: bytes) -> None:
        watcher = self._watching.pop(peer, None)
        if watcher is not None:
            self._coordinator.unwatch(watcher)

    def _checkpoint(self, _: Asked, question: q.Checkpoint) -> Any:
        """The newest model of a run, or that of a round; its blob can be fetched afterwards."""
        folder = self._find(question.run)
        history = folder.history(lean=True)
        round_id = history.round if question.round is None else question.round
        path = folder.kept_model(round_id, history)
        digest = history.model_of(round_id)
        self._coordinator.serve_asked(digest, path)
        return {"blob": digest, "size": path.stat().st_size, "round": round_id}

    def _keys(self, _: Asked, __: q.Keys) -> Any:
        keyring = self._coordinator.keyring
        return {
            "server_key": keyring.server.public,
            "keys": [shown_key(entry) for entry in keyring.entries()],
            "revoked": [shown_key(entry) for entry in keyring.revoked()],
            "waiting": [shown_waiting(waiting) for waiting in keyring.waiting()],
            "tokens": shown_tokens(keyring),
        }

    # Steering -------------------------------------------------------------------------

    def _start(self, asked: Asked, order: q.Start) -> Any:
        given, where = order.given, order.where
        if given.get("local") or given.get("virtual"):
            raise UsageError(f"{where}: a coordinator's run has neither local nor virtual agents")

        def done(run: str | None, error: BaseException | None) -> None:
            if run is None:
                failure = error or RunError("the run could not be started")
                self._trouble(asked, failure)
            else:
                self._operators.answer(asked.peer, asked.id, {"run": run})

        self._coordinator.runs.start(given, where, "fleet", done)
        return None

    def _stop(self, asked: Asked, order: q.Stop) -> Any:
        """Answered when it has ended: whoever is told may begin another run."""
        training = self._coordinator.training
        folder = self._find(order.run)
        if training is None or training.run != folder.name:
            raise UsageError(f"run {folder.name} is not in progress")

        def on_event(_: dict[str, Any]) -> None:
            if training.ended:
                self._coordinator.unwatch(on_event)
                self._operators.answer(asked.peer, asked.id, {"run": folder.name})

        self._coordinator.watch(on_event)
        training.stop("stopped by an operator")
        return None

    def _resume(self, _: Asked, order: q.Resume) -> Any:
        folder = self._find(order.run)
        started = folder.history(lean=True).started
        if started is not None and started.kind != "fleet":
            raise UsageError(
                f"run {folder.name} had {started.kind} agents: resume it where it was started"
            )
        self._coordinator.runs.resume(folder)
        return {"run": folder.name}

    def _add_key(self, _: Asked, order: q.AddKey) -> Any:
        self._coordinator.keyring.add(order.name, order.key, order.role)
        return {"name": order.name}

    def _revoke(self, _: Asked, order: q.RevokeKey) -> Any:
        closed = self._coordinator.keyring.revoke(order.name)
        return {"name": order.name, "closed": [token.id for token in closed]}

    def _new_token(self, asked: Asked, order: q.NewToken) -> Any:
        keyring = self._coordinator.keyring
        return {"token": keyring.new_token(order.ttl_s, order.uses, order.deal, asked.source)}

    def _close_tokens(self, _: Asked, order: q.CloseTokens) -> Any:
        closed = self._coordinator.keyring.close_tokens(order.ids)
        return {"closed": [token.id for token in closed]}

    def _invite(self, _: Asked, order: q.Invite) -> Any:
        invitation = self._coordinator.invitation
        if invitation is None:
            raise UsageError(
                "this coordinator shares no folder with agents (flctl coordinator --invite DIR): "
                "make a token with  flctl keys token"
            )
        token = invitation.open(order.ttl_s)
        return {"id": token.id, "uses": token.uses_left, "folder": str(invitation.path.parent)}

    def _cordon(self, _: Asked, order: q.Cordon) -> Any:
        if order.name not in self._coordinator.enrolled():
            raise UsageError(f"no agent is enrolled as {order.name}; see flctl status")
        self._coordinator.cordon(order.name, held=True)
        return {"name": order.name}

    def _uncordon(self, _: Asked, order: q.Uncordon) -> Any:
        coordinator = self._coordinator
        if order.name not in {*coordinator.enrolled(), *coordinator.roster.cordoned}:
            raise UsageError(f"no agent is enrolled as {order.name}; see flctl status")
        coordinator.cordon(order.name, held=False)
        return {"name": order.name}

    def _find(self, run: str) -> RunFolder:
        return RunFolder.find(self._coordinator.state, run)
