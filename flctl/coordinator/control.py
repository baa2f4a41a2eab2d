"""Answers operators: `flctl status`, `train`, `runs`, `keys`, here or over the fleet port."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, get_args

import msgspec

from flctl import __version__
from flctl.coordinator.journal import as_json, last_events, read_events
from flctl.coordinator.runs import RunFolder, all_runs, summary
from flctl.coordinator.service import Coordinator
from flctl.core.roster import Member
from flctl.errors import AccessError, FlctlError, RunError, UsageError
from flctl.files import failure
from flctl.transport.channel import Incoming
from flctl.transport.keys import Entry, Waiting
from flctl.wire.messages import AdminQuestion, Ask, Deal, Trouble

logger = logging.getLogger(__name__)

ADMIN = frozenset(get_args(AdminQuestion))
WATCH_LIMIT = 2000
"""Events of the past that a watcher is sent at most."""

Watcher = Callable[[dict[str, Any]], None]


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
        self._handlers: dict[str, Callable[[Incoming, Ask], Any]] = {
            "status": self._status,
            "runs": self._runs,
            "run": self._run,
            "watch": self._watch,
            "checkpoint": self._checkpoint,
            "keys": self._keys,
            "start": self._start,
            "stop": self._stop,
            "resume": self._resume,
            "key-add": self._add_key,
            "key-revoke": self._revoke,
            "token": self._token,
            "cordon": self._cordon,
            "uncordon": self._uncordon,
        }

    def on_ask(self, incoming: Incoming, ask: Ask, role: str) -> None:
        if role == "agent":
            self._refuse_agent(incoming, ask)
            return
        try:
            if ask.what in ADMIN and role != "admin":
                raise AccessError(f"'{ask.what}' needs an admin key, this one may only read")
            body = self._handlers[ask.what](incoming, ask)
            if body is not None:
                self._operators.answer(incoming.peer, ask.id, body)
        except (FlctlError, OSError) as error:
            self._trouble(incoming.peer, ask, error)
        except (KeyError, TypeError, ValueError) as error:
            self._trouble(incoming.peer, ask, UsageError(f"'{ask.what}': bad argument: {error}"))

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

    def _trouble(self, peer: bytes, ask: Ask, error: BaseException) -> None:
        if isinstance(error, OSError):
            error = failure(error, self._coordinator.state, ask.what)
        code = error.exit_code if isinstance(error, FlctlError) else 1
        text = str(error) if isinstance(error, FlctlError) else f"unexpected: {error!r}"
        self._operators.put(peer, Trouble(id=ask.id, message=text[:2000], exit_code=code))

    # Looking --------------------------------------------------------------------------

    def _status(self, _: Incoming, __: Ask) -> Any:
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
        }

    def _runs(self, _: Incoming, __: Ask) -> Any:
        found = []
        for folder in all_runs(self._coordinator.state):
            try:
                found.append(summary(folder))
            except FlctlError as error:
                logger.warning("run=%s cannot be read: %s", folder.name, error)
        return found

    def _run(self, _: Incoming, ask: Ask) -> Any:
        folder = self._find(ask.args)
        return {
            **summary(folder),
            "settings": msgspec.to_builtins(folder.settings()),
            "events": [as_json(event) for event in read_events(folder.journal_path)],
        }

    def _watch(self, incoming: Incoming, ask: Ask) -> Any:
        """The events of a run so far, then every new one, as RunEvents."""
        folder = self._find(ask.args)
        self._operators.answer(incoming.peer, ask.id, summary(folder))
        if ask.args.get("past", True):
            for event in last_events(folder.journal_path, WATCH_LIMIT):
                self._operators.event(incoming.peer, ask.id, as_json(event))
        training = self._coordinator.training
        if training is not None and training.run == folder.name and (waits := training.waiting()):
            self._operators.event(incoming.peer, ask.id, waits)
        self._unwatch(incoming.peer)

        def watcher(event: dict[str, Any]) -> None:
            if not self._operators.event(incoming.peer, ask.id, event):
                self._unwatch(incoming.peer)

        self._watching[incoming.peer] = watcher
        self._coordinator.watch(watcher)
        return None

    def _unwatch(self, peer: bytes) -> None:
        watcher = self._watching.pop(peer, None)
        if watcher is not None:
            self._coordinator.unwatch(watcher)

    def _checkpoint(self, _: Incoming, ask: Ask) -> Any:
        """The newest model of a run, or that of a round; its blob can be fetched afterwards."""
        folder = self._find(ask.args)
        history = folder.history(lean=True)
        round_id = int(ask.args.get("round", history.round))
        path = folder.kept_model(round_id, history)
        digest = history.model_of(round_id)
        self._coordinator.serve_asked(digest, path)
        return {"blob": digest, "size": path.stat().st_size, "round": round_id}

    def _keys(self, _: Incoming, __: Ask) -> Any:
        keyring = self._coordinator.keyring
        return {
            "server_key": keyring.server.public,
            "keys": [shown_key(entry) for entry in keyring.entries()],
            "revoked": [shown_key(entry) for entry in keyring.revoked()],
            "waiting": [shown_waiting(waiting) for waiting in keyring.waiting()],
        }

    # Steering -------------------------------------------------------------------------

    def _start(self, incoming: Incoming, ask: Ask) -> Any:
        given = ask.args["given"]
        where = str(ask.args.get("where", "the settings"))
        if not isinstance(given, Mapping):
            raise UsageError("'start': no settings are given")
        if given.get("local") or given.get("virtual"):
            raise UsageError(f"{where}: a coordinator's run has neither local nor virtual agents")

        def done(run: str | None, error: BaseException | None) -> None:
            if run is None:
                failure = error or RunError("the run could not be started")
                self._trouble(incoming.peer, ask, failure)
            else:
                self._operators.answer(incoming.peer, ask.id, {"run": run})

        self._coordinator.runs.start(dict(given), where, "fleet", done)
        return None

    def _stop(self, incoming: Incoming, ask: Ask) -> Any:
        """Answered when it has ended: whoever is told may begin another run."""
        training = self._coordinator.training
        folder = self._find(ask.args)
        if training is None or training.run != folder.name:
            raise UsageError(f"run {folder.name} is not in progress")

        def on_event(_: dict[str, Any]) -> None:
            if training.ended:
                self._coordinator.unwatch(on_event)
                self._operators.answer(incoming.peer, ask.id, {"run": folder.name})

        self._coordinator.watch(on_event)
        training.stop("stopped by an operator")
        return None

    def _resume(self, _: Incoming, ask: Ask) -> Any:
        folder = self._find(ask.args)
        started = folder.history(lean=True).started
        if started is not None and started.kind != "fleet":
            raise UsageError(
                f"run {folder.name} had {started.kind} agents: resume it where it was started"
            )
        self._coordinator.runs.resume(folder)
        return {"run": folder.name}

    def _add_key(self, _: Incoming, ask: Ask) -> Any:
        args = ask.args
        self._coordinator.keyring.add(str(args["name"]), str(args["key"]), args["role"])
        return {"name": args["name"]}

    def _revoke(self, _: Incoming, ask: Ask) -> Any:
        self._coordinator.keyring.revoke(str(ask.args["name"]))
        return {"name": ask.args["name"]}

    def _token(self, _: Incoming, ask: Ask) -> Any:
        ttl_s, uses = float(ask.args["ttl_s"]), int(ask.args["uses"])
        deal = msgspec.convert(ask.args.get("deal"), Deal | None)
        return {"token": self._coordinator.keyring.new_token(ttl_s, uses, deal)}

    def _cordon(self, _: Incoming, ask: Ask) -> Any:
        name = str(ask.args["name"])
        if name not in self._coordinator.enrolled():
            raise UsageError(f"no agent is enrolled as {name}; see flctl status")
        self._coordinator.cordon(name, held=True)
        return {"name": name}

    def _uncordon(self, _: Incoming, ask: Ask) -> Any:
        name = str(ask.args["name"])
        if name not in {*self._coordinator.enrolled(), *self._coordinator.roster.cordoned}:
            raise UsageError(f"no agent is enrolled as {name}; see flctl status")
        self._coordinator.cordon(name, held=False)
        return {"name": name}

    def _find(self, args: Mapping[str, Any]) -> RunFolder:
        return RunFolder.find(self._coordinator.state, str(args["run"]))


def shown_key(entry: Entry) -> dict[str, Any]:
    """A key that is let in, as `flctl keys list --json` shows it."""
    return {
        "name": entry.name,
        "role": entry.role,
        "public_key": entry.key,
        "added": entry.added,
        "shard": None if entry.shard is None else str(entry.shard),
    }


def shown_waiting(waiting: Waiting) -> dict[str, Any]:
    """An unknown key that has knocked."""
    return {
        "public_key": waiting.key,
        "first_seen": waiting.first_seen,
        "last_seen": waiting.last_seen,
        "count": waiting.count,
    }


def agent_status(member: Member, now: float, cordoned: bool = False) -> dict[str, Any]:
    """One agent as `flctl status --json` shows it."""
    hello, telemetry = member.hello, member.telemetry
    shown: dict[str, Any] = {
        "name": member.name,
        "state": member.state,
        "ready": member.ready,
        "cordoned": cordoned,
        "version": hello.version if hello else None,
        "protocol": member.protocol or None,
        "role": hello.role if hello else None,
        "kind": hello.device.kind if hello else None,
        "arch": hello.device.arch if hello else None,
        "cores": hello.device.cores if hello else None,
        "torch": hello.device.torch if hello else None,
        "cuda": hello.device.cuda if hello else None,
        "tasks": dict(hello.tasks) if hello else {},
        "datasets": msgspec.to_builtins(hello.datasets) if hello else [],
        "examples": max((d.examples for d in hello.datasets), default=0) if hello else 0,
        "rtt_ms": member.rtt_ms,
        "last_seen_s": round(now - member.heard_at, 1) if member.heard_at > 0 else None,
        "last_round": member.last_round,
        "progress": list(member.progress) if member.progress else None,
        "last_error": member.error,
        "note": member.note,
    }
    for name in (
        "temperature_c",
        "throttled",
        "memory_used_bytes",
        "memory_total_bytes",
        "cpu_percent",
        "load_1m",
        "disk_free_bytes",
        "written_bytes",
        "uptime_s",
    ):
        shown[name] = getattr(telemetry, name) if telemetry else None
    return shown
