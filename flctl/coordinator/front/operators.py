"""Answers operators: `flctl status`, `train`, `runs`, `keys`, here or over the fleet port.

`flctl.wire.questions` types what may be asked. To add a question: a class there (its docstring
says how), and a case in `Control._reply`, that returns the body of the answer.
Whether the key may ask it, and what its arguments may be, is checked before.
"""

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, assert_never

from flctl import __version__
from flctl.coordinator.alerts.alarms import about_alerts
from flctl.coordinator.background import Background, InlineBackground
from flctl.coordinator.front import views
from flctl.coordinator.front.agent_logs import AgentLogs
from flctl.coordinator.front.desk import Desk
from flctl.coordinator.front.remote_settings import settings_from_afar
from flctl.coordinator.front.service import Coordinator
from flctl.coordinator.front.turns import Asked
from flctl.coordinator.front.watching import Past, Subscriber, look_at_past
from flctl.coordinator.store.runs import Found, KeptModel, LocalRuns
from flctl.coordinator.trends.looking_back import look_back
from flctl.core.roster import Member
from flctl.core.stream import Published
from flctl.errors import ErrorKind, NoAgents, RunError, UsageError
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
        agents = coordinator.agents
        self._logs = AgentLogs(
            coordinator.roster, agents.tell, self._desk.answer, self._desk.trouble
        )
        agents.on_log = self._logs.on_lines
        self.watchers: dict[bytes, Subscriber] = {}
        """One for each operator: a second request replaces the first."""
        self._endpoint, self._test_data = endpoint, tuple(test_data)
        self._clock, self._began = clock, clock()

    def on_ask(self, incoming: Incoming, ask: Ask, role: str) -> None:
        """Answered in its turn, by `step`."""
        if role == "agent":
            self._refuse_agent(incoming, ask)
        else:
            self._desk.take(incoming, ask)

    def step(self) -> None:
        self._desk.step()
        self._logs.on_time(self._clock())

    def close(self) -> None:
        self._desk.close()

    def _reply(self, asked: Asked, question: q.AnyQuestion) -> Any:  # noqa: PLR0911, PLR0912
        """The body of the answer; None: that comes later, or it was given."""
        coordinator, keyring = self._coordinator, self._coordinator.keyring
        match question:
            case q.ShowStatus():
                return self._status()
            case q.ListRuns():
                return self._desk.look(
                    asked, self._all.look, lambda found: self._runs(asked, found)
                )
            case q.ShowRun(run=run):
                return self._desk.look(asked, lambda: self._all.about(run))
            case q.ReadJournal(run=run, offset=offset):
                return self._desk.look(asked, lambda: {"data": self._all.journal(run, offset)})
            case q.WatchRun():
                return self._watch(asked, question)
            case q.StillWatching():
                watcher = self.watchers.get(asked.to.peer)
                return {"watching": bool(watcher and watcher.asked.ask.id == question.question)}
            case q.FetchCheckpoint(run=run, round=number):
                return self._desk.look(
                    asked, lambda: self._all.model(run, number), self._checkpoint
                )
            case q.ReadHistory():
                return self._desk.look(asked, lambda: look_back(coordinator.state, question))
            case q.ListKeys():
                return self._keys()
            case q.ReadAudit(offset=offset):
                return coordinator.audit.page(offset)
            case q.ReadLog(agent=name):
                self._expect_enrolled(name, coordinator.agents.enrolled())
                self._logs.ask(asked, question, self._clock())
                return None
            case q.StartRun():
                return self._start(asked, question)
            case q.StopRun():
                return self._stop(asked, question)
            case q.PauseRun(run=run):
                return coordinator.runs.pause(self._all.find(run).name)
            case q.ResumeRun():
                return self._resume(question)
            case q.PersonaliseRun():
                return self._personalise(question)
            case q.AddKey(name=name, key=key, role=role):
                keyring.add(name, key, role)
                return {"name": name}
            case q.RevokeKey(name=name):
                closed = keyring.revoke(name)
                coordinator.agents.drop_revoked()  # it hears why, before its connection is closed
                return {"name": name, "closed": [token.id for token in closed]}
            case q.NewToken():
                ttl_s, uses, deal = question.ttl_s, question.uses, question.deal
                by, evaluates = asked.source, question.evaluates
                return {"token": keyring.new_token(ttl_s, uses, deal, by, evaluates)}
            case q.CloseTokens(ids=ids):
                return {"closed": [token.id for token in keyring.close_tokens(ids)]}
            case q.OpenTokenFolder(ttl_s=ttl_s):
                return self._open_token_folder(ttl_s)
            case q.RotateServer():
                return self._rotate_server(question)
            case q.ShowAlerts() | q.AckAlert() | q.MuteAlerts() | q.TestAlerts():
                return about_alerts(coordinator.alarms, question, partial(self._desk.end, asked))
            case q.Cordon(name=name) | q.Uncordon(name=name):
                return self._cordon(name, held=isinstance(question, q.Cordon))
            case q.LabelAgent(name=name, labels=labels, reset=reset):
                self._expect_enrolled(name, coordinator.agents.enrolled())
                return {"labels": coordinator.agents.labels.change(name, labels, reset)}
            case _:
                assert_never(question)

    def _refuse_agent(self, incoming: Incoming, ask: Ask) -> None:
        """Refuse an agent's question; a refusal that the agent does not read is not kept."""
        name = self._coordinator.keyring.name_of(incoming.key)
        text = (
            f"this key is that of the agent {name}; operators need a key that is enrolled as "
            "read or admin: make one with  flctl keys new FILE  and enrol it, "
            "there, with  flctl keys add NAME KEY --role admin"
        )
        self._desk.auditing.refused(incoming.key, incoming.origin, ask, "the key is an agent's")
        refusal = Trouble(id=ask.id, message=text, kind=ErrorKind.ACCESS)
        self._coordinator.peers.send(incoming.peer, refusal)

    # Looking --------------------------------------------------------------------------

    def _status(self) -> Any:
        coordinator = self._coordinator
        now, alarms, run = self._clock(), coordinator.alarms, coordinator.runs.status()
        alerts = alarms.of_subjects() if alarms is not None else {}
        if run is not None and alarms is not None:
            run["since_round_s"] = alarms.since_round_s()
        roster = coordinator.roster
        names = set(coordinator.agents.enrolled()) | set(roster.members)
        return {
            "coordinator": {
                "version": __version__,
                "uptime_s": round(now - self._began, 1),
                "endpoint": self._endpoint,
                "lost_after_s": roster.lost_after_s,
                "server_key": coordinator.keyring.server.public,
                "rotation": coordinator.agents.rotating.shown()
                if coordinator.agents.rotating
                else None,
                "run": run,
            },
            "agents": [
                views.agent_status(
                    roster.members.get(name) or Member(name),
                    now,
                    name in roster.cordoned,
                    coordinator.training is not None,
                    roster.labels,
                    alerts.get(name, ()),
                )
                | (alarms.past_of(name) if alarms is not None else {})
                for name in sorted(names)
            ],
            "waiting": [views.shown_waiting(waiting) for waiting in coordinator.keyring.waiting()],
            "tokens": views.shown_tokens(coordinator.keyring),
            "revoked": [e.name for e in coordinator.keyring.revoked() if e.role == "agent"],
            "alerts": alarms.counts() if alarms is not None else None,
            "shards": views.shown_shards(coordinator.keyring),
        }

    def _runs(self, asked: Asked, found: Found) -> Any:
        for fault in found.faults:
            self._coordinator.gate.warning(logger, asked.source, "%s", fault)
        return found.summaries

    def _watch(self, asked: Asked, question: q.WatchRun) -> None:
        """The events of a run after the asker's, then every new one, as RunEvents; where they are
        many only the next ones, and it asks again."""
        state, peer, id_ = self._coordinator.state, asked.to.peer, asked.ask.id
        watcher = Subscriber(self._operators, asked, question.after, self._may_read)
        self._unwatch(peer)
        self.watchers[peer] = watcher
        self._coordinator.watchers.append(watcher)

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

    def _may_read(self, key: str) -> bool:
        return key == LOCAL or self._coordinator.keyring.role_of(key) in ("read", "admin")

    def _unwatch(self, peer: bytes) -> None:
        watcher = self.watchers.pop(peer, None)
        if watcher is not None:
            self._coordinator.watchers.remove(watcher)

    def _forget_watch(self, asked: Asked) -> None:
        """Not answered: no such run, or it cannot be read."""
        watcher = self.watchers.get(asked.to.peer)
        if watcher is not None and watcher.asked is asked:
            self._unwatch(asked.to.peer)

    def _checkpoint(self, model: KeptModel) -> Any:
        """The newest model of a run, or that of a round; its blobs can be fetched afterwards."""
        serve, size = self._coordinator.agents.serve, model.path.stat().st_size
        serve(model.digest, model.path, asked=True)
        answer: dict[str, Any] = {"blob": model.digest, "size": size, "round": model.round}
        if model.frozen is not None and model.frozen_digest is not None:
            serve(model.frozen_digest, model.frozen, asked=True)
            answer["frozen"] = {"blob": model.frozen_digest, "size": model.frozen.stat().st_size}
        return answer

    def _keys(self) -> Any:
        keyring = self._coordinator.keyring
        return {
            "server_key": keyring.server.public,
            "keys": [views.shown_key(entry) for entry in keyring.entries()],
            "revoked": [views.shown_key(entry) for entry in keyring.revoked()],
            "waiting": [views.shown_waiting(waiting) for waiting in keyring.waiting()],
            "tokens": views.shown_tokens(keyring),
        }

    # Steering -------------------------------------------------------------------------

    def _start(self, asked: Asked, order: q.StartRun) -> Any:
        given, where = order.given, order.where
        if asked.key != LOCAL:
            given = settings_from_afar(given, where, self._test_data)
        if given.get("local") or given.get("virtual"):
            raise UsageError(f"{where}: a coordinator's run has neither local nor virtual agents")
        agents, keyring = self._coordinator.agents, self._coordinator.keyring
        if not (given.get("agents") or agents.trainers() or keyring.open_tokens()):
            raise NoAgents("no agent is enrolled, and no token is open: flctl keys token makes one")

        def done(run: str | None, error: BaseException | None) -> None:
            if run is None:
                self._desk.trouble(asked, error or RunError("the run could not be started"))
            else:
                self._desk.answer(asked, {"run": run})

        self._coordinator.runs.start(given, where, "fleet", done)
        return None

    def _stop(self, asked: Asked, order: q.StopRun) -> Any:
        """Answered once the run has ended, so that another one may begin at once."""
        training = self._coordinator.training
        folder = self._all.find(order.run)
        if self._coordinator.runs.stopped(folder):
            return {"run": folder.name}
        if training is None or training.run != folder.name:
            raise UsageError(f"run {folder.name} is not in progress")

        def on_event(_: Published) -> None:
            if training.ended:
                self._coordinator.watchers.remove(on_event)
                self._desk.answer(asked, {"run": folder.name})

        self._coordinator.watchers.append(on_event)
        training.stop("stopped by an operator")
        return None

    def _resume(self, order: q.ResumeRun) -> Any:
        folder = self._all.find(order.run)
        started = folder.history(lean=True).started
        if started is not None and started.kind != "fleet":
            raise UsageError(
                f"run {folder.name} had {started.kind} agents: resume it on the machine where it "
                "was started"
            )
        self._coordinator.runs.resume(folder, order.changes)
        return {"run": folder.name}

    def _personalise(self, order: q.PersonaliseRun) -> Any:
        folder, agents = self._all.find(order.run), self._coordinator.agents
        if unknown := sorted({*order.agents} - {*agents.trainers()}):
            raise UsageError(f"no agent is enrolled to train as {unknown[0]}; see flctl status")
        n = self._coordinator.runs.personalise(folder, order.changes, order.agents, order.round)
        return {"run": folder.name, "number": n}

    def _open_token_folder(self, ttl_s: float) -> Any:
        invitation = self._coordinator.invitation
        if invitation is None:
            raise UsageError(
                "this coordinator shares no folder with agents (flctl coordinator --invite DIR): "
                "create a token with  flctl keys token"
            )
        token = invitation.open(ttl_s)
        return {"id": token.id, "uses": token.uses_left, "folder": str(invitation.path.parent)}

    def _rotate_server(self, order: q.RotateServer) -> Any:
        rotating, now = self._coordinator.agents.rotating, self._clock()
        if rotating is None:
            raise UsageError("the server key of this coordinator cannot be replaced")
        match order.step:
            case "begin":
                rotating.begin(order.overlap_s)
            case "finish":
                rotating.finish(now, order.anyway)
            case "abort":
                rotating.abort(now)
        return {"server_key": self._coordinator.keyring.server.public, "rotation": rotating.shown()}

    def _cordon(self, name: str, held: bool) -> Any:
        agents = self._coordinator.agents
        known = agents.enrolled() if held else [*agents.enrolled(), *agents.roster.cordoned]
        self._expect_enrolled(name, known)
        agents.cordon(name, held)
        return {"name": name}

    def _expect_enrolled(self, name: str, known: Sequence[str]) -> None:
        if name not in known:
            raise UsageError(f"no agent is enrolled as {name}; see flctl status")
