"""Answers operators: `flctl status`, `train`, `runs`, `keys`, here or over the fleet port.

`flctl.wire.questions` types what may be asked. To add a question: a class there (its docstring
says how), and a method here, named in `Control.answers`, that returns the body of the answer.
Whether the key may ask it, and what its arguments may be, is checked before.
"""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flctl import __version__
from flctl.coordinator.background import Background, InlineBackground
from flctl.coordinator.front.desk import Desk
from flctl.coordinator.front.lookups import Past, look_at_past
from flctl.coordinator.front.remote_settings import settings_from_afar
from flctl.coordinator.front.service import Coordinator
from flctl.coordinator.front.turns import Asked
from flctl.coordinator.front.views import (
    agent_status,
    shown_key,
    shown_shards,
    shown_tokens,
    shown_waiting,
)
from flctl.coordinator.front.watching import Watcher
from flctl.coordinator.store.runs import Found, LocalRuns, Model
from flctl.core.roster import Member
from flctl.core.stream import Published
from flctl.errors import Kind, RunError, UsageError
from flctl.files import page
from flctl.transport.channel import LOCAL, Incoming
from flctl.wire import questions as q
from flctl.wire.messages import Ask, Trouble

logger = logging.getLogger(__name__)


class Control:
    def __init__(
        self,
        coordinator: Coordinator,
        endpoint: str,
        clock: Callable[[], float] = time.monotonic,
        looking: Background | None = None,
        test_data: Sequence[Path] = (),
    ) -> None:
        """`looking` reads what runs have left on the disk; `test_data` have the test data that
        far operators may name."""
        self._coordinator, self._all = coordinator, LocalRuns(coordinator.state)
        self._operators = coordinator.operators
        self._operators.on_dropped = self._unwatch
        self._desk = Desk(coordinator, self._reply, looking or InlineBackground())
        self._desk.on_trouble = self._forget_watch
        self.watchers: dict[bytes, Watcher] = {}
        """One for each operator: whoever asks again watches anew, not twice."""
        self._endpoint, self._test_data = endpoint, tuple(test_data)
        self._clock, self._began = clock, clock()
        self.answers: dict[type[q.Question], Callable[[Asked, Any], Any]] = {
            q.Status: self._status,
            q.Runs: self._runs,
            q.Run: self._run,
            q.Journal: self._journal,
            q.Watch: self._watch,
            q.Watching: self._watching,
            q.Checkpoint: self._checkpoint,
            q.Keys: self._keys,
            q.Audit: self._audit,
            q.Start: self._start,
            q.Stop: self._stop,
            q.Resume: self._resume,
            q.AddKey: self._add_key,
            q.RevokeKey: self._revoke,
            q.NewToken: self._new_token,
            q.CloseTokens: self._close_tokens,
            q.Invite: self._invite,
            q.RotateServer: self._rotate_server,
            q.Cordon: self._cordon,
            q.Uncordon: self._uncordon,
        }
        """Each returns the body of its answer; None: that comes later, or it was given."""

    def on_ask(self, incoming: Incoming, ask: Ask, role: str) -> None:
        """Answered in its turn, by `step`."""
        if role == "agent":
            self._refuse_agent(incoming, ask)
        else:
            self._desk.take(incoming, ask)

    def step(self) -> None:
        self._desk.step()

    def close(self) -> None:
        self._desk.close()

    def _reply(self, asked: Asked, question: q.AnyQuestion) -> Any:
        return self.answers[type(question)](asked, question)

    def _refuse_agent(self, incoming: Incoming, ask: Ask) -> None:
        """Nothing is kept for one that does not read it."""
        name = self._coordinator.keyring.name_of(incoming.key)
        text = (
            f"this key is that of the agent {name}; asking and steering need one that is "
            "enrolled as read or admin: make it with  flctl keys new FILE  and enrol it, "
            "there, with  flctl keys add NAME KEY --role admin"
        )
        self._desk.orders.refused(incoming.key, incoming.origin, ask, "the key is an agent's")
        refusal = Trouble(id=ask.id, message=text, kind=Kind.ACCESS)
        self._coordinator.peers.send(incoming.peer, refusal)

    # Looking --------------------------------------------------------------------------

    def _status(self, _: Asked, __: q.Status) -> Any:
        coordinator = self._coordinator
        now = self._clock()
        names = set(coordinator.enrolled()) | set(coordinator.roster.members)
        return {
            "coordinator": {
                "version": __version__,
                "uptime_s": round(now - self._began, 1),
                "endpoint": self._endpoint,
                "lost_after_s": coordinator.roster.lost_after_s,
                "server_key": coordinator.keyring.server.public,
                "rotation": coordinator.rotating.shown() if coordinator.rotating else None,
                "run": coordinator.runs.status(),
            },
            "agents": [
                agent_status(
                    coordinator.roster.members.get(name) or Member(name),
                    now,
                    name in coordinator.roster.cordoned,
                    coordinator.training is not None,
                )
                for name in sorted(names)
            ],
            "waiting": [shown_waiting(waiting) for waiting in coordinator.keyring.waiting()],
            "tokens": shown_tokens(coordinator.keyring),
            "revoked": [e.name for e in coordinator.keyring.revoked() if e.role == "agent"],
            "shards": shown_shards(coordinator.keyring),
        }

    def _runs(self, asked: Asked, _: q.Runs) -> None:
        def then(found: Found) -> Any:
            for fault in found.faults:
                self._coordinator.gate.warning(logger, asked.source, "%s", fault)
            return found.summaries

        self._desk.look(asked, self._all.look, then)

    def _run(self, asked: Asked, question: q.Run) -> None:
        self._desk.look(asked, lambda: self._all.about(question.run), same)

    def _journal(self, asked: Asked, question: q.Journal) -> None:
        def read() -> Any:
            return {"data": self._all.journal(question.run, question.offset)}

        self._desk.look(asked, read, same)

    def _watch(self, asked: Asked, question: q.Watch) -> None:
        """The events of a run after the asker's, then every new one, as RunEvents; where they are
        many only the next ones, and it asks again."""
        state, peer, id_ = self._coordinator.state, asked.to.peer, asked.ask.id
        watcher = Watcher(self._operators, asked, question.after, self._may_read)
        self._unwatch(peer)
        self.watchers[peer] = watcher
        self._coordinator.watch(watcher)

        def then(found: Past) -> None:
            if self.watchers.get(peer) is not watcher:
                return  # it is gone
            if found.more:
                self._unwatch(peer)
            watcher.begin(found)
            self._operators.answer(asked.to, id_, {"more": found.more})
            training = self._coordinator.training
            if training is not None and training.run == found.run and (waits := training.waiting()):
                watcher(Published(found.run, waits))

        self._desk.look(asked, lambda: look_at_past(state, question.run, question.after), then)

    def _watching(self, asked: Asked, question: q.Watching) -> Any:
        watcher = self.watchers.get(asked.to.peer)
        return {"watching": watcher is not None and watcher.asked.ask.id == question.question}

    def _may_read(self, key: str) -> bool:
        return key == LOCAL or self._coordinator.keyring.role_of(key) in ("read", "admin")

    def _unwatch(self, peer: bytes) -> None:
        watcher = self.watchers.pop(peer, None)
        if watcher is not None:
            self._coordinator.unwatch(watcher)

    def _forget_watch(self, asked: Asked) -> None:
        """It could not be answered: there is no such run, or it cannot be read."""
        watcher = self.watchers.get(asked.to.peer)
        if watcher is not None and watcher.asked is asked:
            self._unwatch(asked.to.peer)

    def _checkpoint(self, asked: Asked, question: q.Checkpoint) -> None:
        """The newest model of a run, or that of a round; its blob can be fetched afterwards."""

        def then(model: Model) -> Any:
            self._coordinator.serve_asked(model.digest, model.path)
            return {"blob": model.digest, "size": model.path.stat().st_size, "round": model.round}

        self._desk.look(asked, lambda: self._all.model(question.run, question.round), then)

    def _keys(self, _: Asked, __: q.Keys) -> Any:
        keyring = self._coordinator.keyring
        return {
            "server_key": keyring.server.public,
            "keys": [shown_key(entry) for entry in keyring.entries()],
            "revoked": [shown_key(entry) for entry in keyring.revoked()],
            "waiting": [shown_waiting(waiting) for waiting in keyring.waiting()],
            "tokens": shown_tokens(keyring),
        }

    def _audit(self, _: Asked, question: q.Audit) -> Any:
        path = self._coordinator.audit.path
        return {"data": page(path, question.offset) if path.exists() else b""}

    # Steering -------------------------------------------------------------------------

    def _start(self, asked: Asked, order: q.Start) -> Any:
        given, where = order.given, order.where
        if asked.key != LOCAL:
            given = settings_from_afar(given, where, self._test_data)
        if given.get("local") or given.get("virtual"):
            raise UsageError(f"{where}: a coordinator's run has neither local nor virtual agents")

        def done(run: str | None, error: BaseException | None) -> None:
            if run is None:
                failure = error or RunError("the run could not be started")
                self._desk.trouble(asked, failure)
            else:
                self._desk.answer(asked, {"run": run})

        self._coordinator.runs.start(given, where, "fleet", done)
        return None

    def _stop(self, asked: Asked, order: q.Stop) -> Any:
        """Answered when it has ended: whoever is told may begin another run."""
        training = self._coordinator.training
        folder = self._all.find(order.run)
        if self._coordinator.runs.forget_paused(folder.name):
            return {"run": folder.name}
        if training is None or training.run != folder.name:
            raise UsageError(f"run {folder.name} is not in progress")

        def on_event(_: Published) -> None:
            if training.ended:
                self._coordinator.unwatch(on_event)
                self._desk.answer(asked, {"run": folder.name})

        self._coordinator.watch(on_event)
        training.stop("stopped by an operator")
        return None

    def _resume(self, _: Asked, order: q.Resume) -> Any:
        folder = self._all.find(order.run)
        started = folder.history(lean=True).started
        if started is not None and started.kind != "fleet":
            raise UsageError(
                f"run {folder.name} had {started.kind} agents: resume it where it was started"
            )
        self._coordinator.runs.resume(folder, order.changes)
        return {"run": folder.name}

    def _add_key(self, _: Asked, order: q.AddKey) -> Any:
        self._coordinator.keyring.add(order.name, order.key, order.role)
        return {"name": order.name}

    def _revoke(self, _: Asked, order: q.RevokeKey) -> Any:
        closed = self._coordinator.keyring.revoke(order.name)
        self._coordinator.drop_revoked()  # it hears why, before its connection is closed
        return {"name": order.name, "closed": [token.id for token in closed]}

    def _new_token(self, asked: Asked, order: q.NewToken) -> Any:
        token = self._coordinator.keyring.new_token(
            order.ttl_s, order.uses, order.deal, asked.source, order.evaluates
        )
        return {"token": token}

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

    def _rotate_server(self, _: Asked, order: q.RotateServer) -> Any:
        rotating, now = self._coordinator.rotating, self._clock()
        if rotating is None:
            raise UsageError("this coordinator has one server key, for as long as it runs")
        match order.step:
            case "begin":
                rotating.begin(order.overlap_s)
            case "finish":
                rotating.finish(now, order.anyway)
            case "abort":
                rotating.abort(now)
        return {
            "server_key": self._coordinator.keyring.server.public,
            "rotation": rotating.shown(),
        }

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


def same(body: Any) -> Any:
    return body
