"""What `import flctl` offers: start a run here or on a fleet, follow it, take its model."""

import atexit
import contextlib
import os
import queue
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from flctl.coordinator.store.runs import LocalRuns
from flctl.core.events import RoundCommitted, RunResumed
from flctl.core.story import Story
from flctl.core.stream import ENDS, FROM_START, Published, ended_by
from flctl.errors import RunError, UsageError
from flctl.fleet import driving
from flctl.fleet.connecting import connect as connect_saved
from flctl.fleet.connecting import remote
from flctl.fleet.console import RemoteRuns
from flctl.fleet.context import Context, context_names, load_context
from flctl.fleet.looking import FleetViews
from flctl.process import interruptible
from flctl.records.recorded import RecordedRun
from flctl.settings import parse
from flctl.terminal.notebook import pictured
from flctl.transport.keypair import PUBLIC, load_or_make, public_key, read_public
from flctl.values import with_model

if TYPE_CHECKING:
    from torch import nn

    from flctl.learning.task import Task

WHERE = "flctl.train"
LOOK_S = 0.2
"""How often the thread that waits for events looks whether the run has ended."""
COMMAND_ONLY = {
    "resume": "use flctl train --resume RUN",
    "save_model": "call model() of the run, or flctl runs export",
}
"""Flags of the command that are not settings of a run, and what to use instead."""
Follow = Callable[[int], Iterator[Published | None]]
"""The events of a run after the one with that number; None now and then when it is quiet."""


class TrainedRound(Struct, frozen=True):
    """A committed round."""

    round: int
    metrics: dict[str, float]
    """Metrics of the round's model, by name; empty where it was not measured."""
    examples: int
    """Number of examples that it was measured on."""
    agents: tuple[str, ...]
    """Agents that took part."""
    missing: tuple[str, ...]
    seconds: float


class Training:
    """A run: iterate it for its committed rounds, as they happen.

    Ctrl-C while it is iterated stops a run on this machine, so that `flctl train --resume` can
    continue it; a fleet's run continues until `stop` is called.
    """

    def __init__(self, follow: Follow, place: LocalRuns | RemoteRuns, name: str = "") -> None:
        self._follow, self._place = follow, place
        self._after = FROM_START
        self._story = Story(time.monotonic())
        self._done: list[TrainedRound] = []
        self.name = name
        """Name of the run; empty until it has begun."""
        self.ended = ""
        """finished, stopped, paused or failed; empty while the run is in progress."""
        self.reason = ""
        """Reason for its end."""

    def __iter__(self) -> Iterator[TrainedRound]:
        """All rounds from the first one on. Raises RunError when the run pauses or fails."""
        at = 0
        with pictured(self._story) as show:
            for told in chain([None], self._follow(self._after)):
                if told is not None:
                    self._take(told)
                show()
                while at < len(self._done):
                    yield self._done[at]
                    at += 1
                if self._is_over():
                    break
        if (why := self._story.not_personalised) or self.ended in ("paused", "failed"):
            raise RunError(f"run {self.name} {self.ended}: {why or self.reason}")

    def wait(self) -> "Training":
        """Until it has ended. Raises as iteration does."""
        for _ in self:
            pass
        return self

    def model(self, which: str | int = "last") -> "nn.Module":
        """A torch module with the parameters of the "last" or "best" round, or of one by number;
        before the end, of those committed so far. Raises FlctlError."""
        from flctl.learning.state import load_into
        from flctl.learning.task import load_task

        if not self.name:
            raise UsageError("the run has no round yet: iterate it first, or call wait()")
        place = self._place
        found = RecordedRun(place.about(self.name), place.events(self.name), place)
        task = load_task(found.task, found.settings.get("task_args", {}))
        model = task.model()
        with tempfile.TemporaryDirectory(prefix="flctl-model-") as folder:
            path = found.model(found.round_of(str(which)), Path(folder))
            with path.open("rb") as file:
                load_into(model, file.fileno(), str(path))
        return model.eval()

    def stop(self) -> None:
        """End the run; `flctl train --resume` can resume it."""
        if not self.ended and self.name:
            self._place.stop(self.name)

    def pause(self) -> None:
        """On a fleet: begin no round after the open one until `resume`; iteration ends there."""
        self._place.pause(self.name)

    def resume(self) -> None:
        """Go on with a fleet's run that pauses, or that has paused or stopped; iterate it again."""
        self._place.resume(self.name)
        self.ended = self.reason = ""

    def _is_over(self) -> bool:
        """It has ended, and was not resumed since."""
        over = self.ended != "paused" or self._place.about(self.name)["state"] == "paused"
        return bool(self.ended) and over

    def _take(self, told: Published) -> None:
        event = told.event
        self._after = self._after if told.seq is None else told.seq
        self.name = self.name or told.run
        self._story.apply(told, time.monotonic())
        if isinstance(event, ENDS):
            self.reason = event.reason
        self.ended = "" if isinstance(event, RunResumed) else ended_by(event) or self.ended
        if not isinstance(event, RoundCommitted) or (
            self._done and event.round <= self._done[-1].round
        ):
            return
        score, agents = event.metrics, tuple(sorted(event.participants))
        metrics, examples = ({}, 0) if score is None else (dict(score.values), score.examples)
        done = TrainedRound(event.round, metrics, examples, agents, event.missing, event.seconds)
        self._done.append(done)


class _Here(Training):
    """Driven by a thread of this process."""

    def __init__(self, state: Path, given: dict[str, Any]) -> None:
        super().__init__(self._next, LocalRuns(state))
        self._told: queue.SimpleQueue[Published | BaseException] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._failed: BaseException | None = None
        """What ended the run before it was iterated."""
        drive = driving.drive_virtual if given.get("virtual") else driving.drive_local
        self._drive = partial(
            drive, state, given, WHERE, self._told.put, between=self._stop_if_asked
        )
        self._thread = threading.Thread(target=self._work, name="flctl.train", daemon=True)
        self._thread.start()
        # Before the pools of threads refuse work, with which a run is stopped in order.
        getattr(threading, "_register_atexit", atexit.register)(self._end)

    def __iter__(self) -> Iterator[TrainedRound]:
        with interruptible(self.stop):
            yield from super().__iter__()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()
        with contextlib.suppress(queue.Empty):
            while True:
                told = self._told.get_nowait()
                if isinstance(told, Published):
                    self._take(told)
                else:
                    self._failed = told

    def _end(self) -> None:
        """The program ends: an error that it has not asked for is shown."""
        self.stop()
        if self._failed is not None:
            print(self._failed, file=sys.stderr)

    def _stop_if_asked(self) -> None:
        if self._stopping.is_set():
            raise KeyboardInterrupt("stopped by the user")

    def _work(self) -> None:
        try:
            self._drive()
        except KeyboardInterrupt:
            pass
        except BaseException as error:  # for the thread that reads the events
            self._told.put(error)

    def _next(self, _: int) -> Iterator[Published | None]:
        while self._thread.is_alive() or not self._told.empty():
            try:
                told = self._told.get(timeout=LOOK_S)
            except queue.Empty:
                yield None
                continue
            if isinstance(told, BaseException):
                raise told
            yield told


class Fleet(FleetViews):
    """A coordinator and its agents."""

    def run(self, name: str) -> Training:
        """One of its runs, or the only one whose name begins so; from its first round on."""
        found = self._runs.about(name)["run"]
        return Training(partial(self._runs.watch, found), self._runs, found)

    def start(self, **settings: Any) -> Training:
        """Begin a run; the settings are those of `flctl.train`."""
        parse(settings, WHERE)
        return self.run(self._runs.start(settings, WHERE))

    def close(self) -> None:
        """Close the connection; a run continues."""
        self._runs.close()

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def connect(
    coordinator: str | None = None,
    *,
    key: str | Path | None = None,
    server_key: str | None = None,
    state: str | Path | None = None,
) -> Fleet:
    """A fleet: that of the coordinator at HOST:PORT, with your secret key in the file `key` and
    the coordinator's public `server_key` (by default FLCTL_SERVER_KEY, else that with which
    `flctl connect` has saved this address, else that of the coordinator of this state folder); or,
    without an address, the one that commands use here.

    Raises UsageError, AccessError, CoordinatorAway.
    """
    for name, value in (("coordinator", coordinator), ("key", key), ("server_key", server_key)):
        if not isinstance(value, str | Path | None):
            raise UsageError(f"flctl.connect: {name}: {value!r:.60}: give text")
    if coordinator is None:
        found = connect_saved(_state(state))
        if isinstance(found, LocalRuns):
            raise UsageError(f"no coordinator runs on {found.where}, and none is connected")
        return Fleet(found)
    server_key = server_key or os.environ.get("FLCTL_SERVER_KEY") or _known(coordinator, state)
    if key is None or not server_key:
        raise UsageError(
            f"flctl.connect: name {'your key file: key' if key is None else 'server_key'}="
            f"…{'' if key is None else ', which the coordinator prints when it starts'}"
        )
    path = Path(key).expanduser().absolute()
    if not path.exists():
        raise UsageError(f"key {path}: no such file; make one with: flctl keys new {path}")
    pair = load_or_make(path)
    context = Context(
        coordinator=coordinator,
        server_key=public_key(server_key, "server_key"),
        public_key=pair.public,
        secret_key=pair.secret,
    )
    return Fleet(remote(context))


def train(
    *,
    task: "str | type[Task]",
    fleet: Fleet | None = None,
    state: str | Path | None = None,
    **settings: Any,
) -> Training:
    """Begin a run and return it at once; `settings` are those of `flctl train`, by name.

    `virtual=N` simulates N clients in this process, `local=N` starts agents on this machine,
    `fleet` trains on its agents. `state` is the folder that keeps the run. Raises SettingsError.
    """
    if not isinstance(task, str | type):
        raise UsageError(f"flctl.train: task: {task!r:.60}: pass its name or its class")
    if not isinstance(fleet, Fleet | None):
        raise UsageError(f"flctl.train: fleet: {fleet!r:.60}: pass what flctl.connect returns")
    if only := sorted(COMMAND_ONLY.keys() & settings.keys()):
        raise UsageError(f"flctl.train: {only[0]}: {COMMAND_ONLY[only[0]]}")
    from flctl.core.strategies import check_fits, strategy_of
    from flctl.learning.registry import locate

    ref = task if isinstance(task, str) else f"{task.__module__}:{task.__qualname__}"
    given = with_model({"task": ref, **settings}, WHERE)
    chosen = parse(given, WHERE)
    places = [kind for kind in ("virtual", "local") if given.get(kind)] + ["fleet"] * bool(fleet)
    if len(places) != 1:
        raise UsageError(
            f"flctl.train: {' and '.join(places) or 'where'}: say where to train: exactly one of "
            "virtual=N, local=N or fleet=…"
        )
    if fleet is not None:
        if state is not None:
            raise UsageError("flctl.train: state: the coordinator keeps a fleet's runs")
        return fleet.start(**given)
    locate(chosen.task)
    check_fits(strategy_of(chosen), chosen)
    return _Here(_state(state), given)


def _known(coordinator: str, state: str | Path | None) -> str | None:
    """The server key with which this address was saved, else that of a coordinator here."""
    folder = _state(state)
    for name in context_names(folder):
        saved = load_context(folder, name)
        if saved is not None and saved.coordinator == coordinator:
            return saved.server_key
    own = folder / "keys" / f"server{PUBLIC}"
    return read_public(own) if own.exists() else None


def _state(given: str | Path | None) -> Path:
    """Where commands keep it too."""
    if not isinstance(given, str | Path | None):
        raise UsageError(f"state: {given!r:.60}: pass the path of a folder")
    if folder := given or os.environ.get("FLCTL_STATE"):
        return Path(folder).expanduser().absolute()
    import platformdirs

    return platformdirs.user_state_path("flctl")
