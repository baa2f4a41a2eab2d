"""Carries out a run, wherever its agents are, and yields its events."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from msgspec import Struct, to_builtins

from flctl.coordinator.front.service import Coordinator
from flctl.coordinator.main import make_coordinator
from flctl.coordinator.store.folder import RunFolder
from flctl.core.events import PersonalisingEnded
from flctl.core.history import History
from flctl.core.stream import AgentsAwaited, Published, RunBegun, ended_by
from flctl.errors import FlctlError, RunError, UsageError
from flctl.fleet.console import RemoteRuns
from flctl.fleet.local import LocalFleet, agents_folder
from flctl.settings import RunSettings, agent_names
from flctl.transport.keys import Keyring

OnEvent = Callable[[Published], None]
POLL_S = 0.25
AGENT_BYTES = 300 * 2**20
"""Minimum memory of an agent on this machine with its worker, torch included."""
FEW = 4
"""Number of agents that is always tried, whatever the memory."""
STOP_STEPS = 40
"""Polls, POLL_S apart, for the end of a run after Ctrl-C."""


class RunResult(Struct, frozen=True):
    run: str
    state: str
    reason: str
    rounds: int
    """Committed ones."""
    checkpoint: Path | None
    """The newest model, on the coordinator's machine."""
    metrics: dict[str, Any] | None
    best: tuple[int, Path] | None = None
    """The round with the best model, and where that is."""


def drive_virtual(
    state: Path,
    given: dict[str, Any],
    where: str,
    on_event: OnEvent,
    resume: str | None = None,
    between: Callable[[], None] = lambda: None,
) -> RunResult:
    """Simulate the clients in this process; what `between` raises ends it. Raises FlctlError."""
    from flctl.fleet.virtual import VirtualRun  # loads torch

    if resume is None:
        run = VirtualRun.start(state, given, where, on_event, between)
    else:
        run = VirtualRun(_resumable(state, resume, "virtual"), on_event, between, changes=given)
    history = run.run()
    if history.personalises:
        from flctl.fleet.personal_here import PersonalHere

        try:
            PersonalHere(run.folder, on_event, between).run()
        except (FlctlError, OSError) as error:  # the run is finished all the same
            ended = PersonalisingEnded(at=time.time(), number=0, round=0, reason=str(error))
            on_event(Published(run.folder.name, ended))
    return _result(run.folder, history)


def drive_local(
    state: Path,
    given: dict[str, Any],
    where: str,
    on_event: OnEvent,
    resume: str | None = None,
    verbose: bool = False,
    between: Callable[[], None] = lambda: None,
) -> RunResult:
    """A coordinator in this process and its agents as processes of their own. Raises FlctlError.

    Ctrl-C ends the run so that it can be resumed, stops all processes, and is raised again.
    """
    folder = _resumable(state, resume, "local") if resume is not None else None
    count = folder.settings().local if folder is not None else given.get("local")
    _expect_room(count or 1)
    names = agent_names(count or 1)
    with agents_folder() as temporary:
        keyring = Keyring(temporary / "keys")
        coordinator, endpoint = make_coordinator(state, keyring, "127.0.0.1:0")

        def on_told(told: Published) -> None:
            # That its own agents are still starting is expected.
            if not (isinstance(told.event, AgentsAwaited) and told.event.round is None):
                on_event(told)

        coordinator.watchers.append(on_told)

        def fleet_for(settings: RunSettings) -> LocalFleet:
            return LocalFleet(temporary, keyring, endpoint, names, settings, verbose)

        embedded = _Embedded(coordinator, fleet_for)
        try:
            if folder is None:
                embedded.start({**given, "agents": list(names)}, where)
            else:
                embedded.resume(folder, given)
            return embedded.run(between)
        finally:
            embedded.close()


def _expect_room(agents: int) -> None:
    """Raise UsageError if `agents` would not fit into memory, rather than freeze the machine."""
    need, there = agents * AGENT_BYTES, psutil.virtual_memory().total
    if agents > FEW and need > there:
        raise UsageError(
            f"--local {agents}: these processes need about {need >> 30} GiB of memory, this "
            f"machine has {there >> 30}; simulate them in one process with --virtual {agents}"
        )


class _Embedded:
    """One run of a coordinator that lives and dies with this process."""

    def __init__(
        self, coordinator: Coordinator, make_fleet: Callable[[RunSettings], LocalFleet]
    ) -> None:
        self._coordinator, self._make_fleet = coordinator, make_fleet
        self._fleet: LocalFleet | None = None
        self._folder: RunFolder | None = None
        self._history: History | None = None
        self._error: BaseException | None = None

    def start(self, given: dict[str, Any], where: str) -> None:
        def done(run: str | None, error: BaseException | None) -> None:
            self._error = error
            if run is not None:
                self._begin(RunFolder.find(self._coordinator.state, run))

        self._coordinator.runs.start(given, where, "local", done)

    def resume(self, folder: RunFolder, changes: dict[str, Any]) -> None:
        self._coordinator.runs.resume(folder, changes)
        self._begin(folder)

    def run(self, between: Callable[[], None]) -> RunResult:
        """Until the run ends. Raises FlctlError, KeyboardInterrupt."""
        try:
            while not self._over():
                between()
                self._coordinator.pause(POLL_S)
                if self._fleet is not None:
                    self._fleet.check()
        except (KeyboardInterrupt, RunError) as error:
            self._stop(str(error) or "stopped by the user")
            raise
        assert self._folder is not None and self._history is not None
        return _result(self._folder, self._history)

    def close(self) -> None:
        if self._fleet is not None:
            self._fleet.stop()
        self._coordinator.close()

    def _begin(self, folder: RunFolder) -> None:
        assert self._coordinator.training is not None
        self._folder, self._history = folder, self._coordinator.training.history
        self._fleet = self._make_fleet(folder.settings())
        self._fleet.start(folder)

    def _over(self) -> bool:
        if self._error is not None:
            raise self._error
        return self._folder is not None and self._coordinator.training is None

    def _stop(self, reason: str) -> None:
        if self._coordinator.training is None:
            return
        self._coordinator.training.stop(reason)
        for _ in range(STOP_STEPS):
            if self._coordinator.training is None:
                return
            self._coordinator.pause(POLL_S)


def drive_remote(
    console: RemoteRuns,
    given: dict[str, Any],
    where: str,
    on_event: OnEvent,
    resume: str | None = None,
) -> RunResult:
    """Start (or resume) a run on a coordinator and watch it. Ctrl-C only ends the watching.

    To resume a run that is in progress is to watch it; `given` are changes of its settings then.
    """
    if resume is None:
        run = console.start(given, where)
    elif console.about(resume)["state"] != "running":
        run = console.resume(resume, given)
    elif given:
        raise UsageError(f"run {resume} is in progress: stop it before changing its settings")
    else:
        run = resume
    return watch_remote(console, run, on_event)


def watch_remote(console: RemoteRuns, run: str, on_event: OnEvent) -> RunResult:
    """Watch a coordinator's run until it ends. Raises FlctlError."""
    about = console.about(run)
    begun = {key: about[key] for key in ("run", "round", "rounds", "task")}
    agents = tuple(about["settings"]["agents"])
    on_event(Published(about["run"], RunBegun(**begun, agents=agents)))
    for told in filter(None, console.watch(about["run"])):
        on_event(told)
        if ended_by(told.event):
            found = console.about(run)
            if found["state"] != "running":  # else it is an old one of a resumed run
                best = found.get("best")
                return RunResult(
                    run=found["run"],
                    state=found["state"],
                    reason=found["reason"],
                    rounds=found["round"],
                    checkpoint=Path(found["checkpoint"]),
                    metrics=found["metrics"],
                    best=(best["round"], Path(best["checkpoint"])) if best else None,
                )
    raise RunError(f"run {run}: the coordinator ended the connection")


def _resumable(state: Path, run: str, kind: str) -> RunFolder:
    folder = RunFolder.find(state, run)
    started = folder.history(lean=True).started
    assert started is not None
    if started.kind != kind:
        raise UsageError(f"run {folder.name} is a {started.kind} one, not a {kind} one")
    return folder


def _result(folder: RunFolder, history: History) -> RunResult:
    last = history.rounds[-1].metrics if history.rounds else None
    return RunResult(
        run=folder.name,
        state=history.state,
        reason=history.reason,
        rounds=history.round,
        checkpoint=folder.checkpoint(history),
        metrics=to_builtins(last) if last is not None else None,
        best=folder.best(history),
    )
