"""Follows a run for the person or program that started it: live, in lines, or as JSON."""

import contextlib
import os
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flctl.core.events import RoundCommitted, RunResumed
from flctl.core.story import Story
from flctl.core.stream import Published
from flctl.errors import FlctlError
from flctl.terminal import lines
from flctl.terminal.output import (
    give_up_stdout,
    print_json,
    print_line,
    program,
    say,
    task_option,
    warn,
)

if TYPE_CHECKING:
    from rich.live import Live

    from flctl.fleet.driving import RunResult

_FIGURES = ("values", "source", "part", "examples", "validation", "validated_by", "primary")


class Watcher:
    """Base: knows how the run stands. Events may come from any thread.

    To be entered while the run goes on, so that a live view is closed before anything
    else is printed.
    """

    def __init__(self) -> None:
        self.story = Story(time.monotonic())
        self.embedded = True
        """Whether the run ends with this process."""
        self.again = ""
        """Options that a suggested command needs to find the run."""
        self.target: Path | None = None
        """Path to which this process copies the final model."""
        self.also: Callable[[Published], None] = lambda _: None
        """Receives every event too; an exception ends only its own part, not the run."""
        self._lock = threading.Lock()
        self._unwritten = False
        self._measures = False
        """Whether figures are expected."""
        self._data: str | None = None
        self._read_as = ""

    def expect(self, given: Mapping[str, Any]) -> None:
        """Before the first event: what is known from the settings."""
        self.story.rounds = int(given.get("rounds", 0))
        self.story.task = str(given.get("task", ""))
        self._measures = "task" in given and given.get("evaluate") != "none"
        self._data = given.get("test_data") or given.get("data")
        flags = {"--lead": "lead", "--annotator": "annotator", "--r-at": "r_at"}
        typed = ((flag, given.get(key)) for flag, key in flags.items())
        self._read_as = "".join(f" {f} {shlex.quote(str(v))}" for f, v in typed if v is not None)

    def on_event(self, told: Published) -> None:
        """Show an event."""
        with self._lock:
            self.story.apply(told, time.monotonic())
            self._tell(told)
            with self._printing():
                self.show(told)

    def recall(self, past: Iterable[Published]) -> None:
        """Pass on events from before the run was resumed, which only `also` needs."""
        for told in past:
            self._tell(told)

    def show(self, told: Published) -> None:
        """Print what there is to say about one event."""

    def finish(self, result: "RunResult", saved: Path | None) -> bool:
        """Say how the run ended; whether it ended well."""
        with self._printing():
            self.show_end(result, saved)
        well = result.state == "finished" and not self.story.not_personalised
        return well and not self._unwritten

    def show_end(self, result: "RunResult", saved: Path | None) -> None:
        """Print how the run ended."""

    def close(self) -> None:
        """Before anything else is printed."""

    def interrupted(self, state: str, reason: str) -> None:
        """Print that the run, or the watching, was ended from outside."""

    def __enter__(self) -> "Watcher":
        return self

    def __exit__(self, _: object, error: BaseException | None, trace: object) -> None:
        with self._printing():
            self.close()
            if isinstance(error, KeyboardInterrupt):
                say(self._goodbye(), sys.stderr)
                state = "stopped" if self.embedded else "detached"
                self.interrupted(state, str(error) or "interrupted by the user")

    def resume(self, run: str) -> str:
        """The command that resumes the run, or watches it again."""
        copy = f" --save-model {shlex.quote(str(self.target))}" if self.target else ""
        own = task_option(self.story.task) if self.embedded else ""
        return f"{program()} train --resume {run}{own}{self.again}{copy}"

    def _tell(self, told: Published) -> None:
        try:
            self.also(told)
        except FlctlError as error:
            self.also, self._unwritten = lambda _: None, True
            warn(f"{error}; the run continues without it")

    @contextlib.contextmanager
    def _printing(self) -> Iterator[None]:
        """Keep the run going if its output is closed, or its file is on a full disk."""
        try:
            yield
        except OSError as error:
            self._unwritten |= give_up_stdout(error)

    def _goodbye(self) -> str:
        """Message about the effect of Ctrl-C, and how to continue."""
        run = self.story.run
        if not run and not self.embedded:  # the order may be with the coordinator by now
            return (
                "no longer watching; if the coordinator has accepted the run, it continues: "
                f"{program()} runs list{self.again} shows the run, "
                f"{program()} runs stop RUN{self.again} stops it"
            )
        if not run:
            return "stopped before the run began"
        if self.story.personalising:
            again = f"{program()} personalise {run}{task_option(self.story.task)}{self.again}"
            show = f"{program()} runs show {run}{self.again}"
            then = f"continue with: {again}" if self.embedded else f"its agents continue: {show}"
            return (
                f"run {run} is finished, but not all its agents have personalised its model; {then}"
            )
        if self.embedded:
            at = max(self.story.open_round, 1)
            return f"run {run} stopped in round {at}; resume with: {self.resume(run)}"
        then = "watch it again" + (f" and have {self.target} written" if self.target else "")
        return (
            f"run {run} continues without this terminal; {then} with: {self.resume(run)}, "
            f"stop it with: {program()} runs stop {run}{self.again}"
        )


class JsonWatcher(Watcher):
    """One JSON object a line on stdout; the last one says how it ended."""

    def __init__(self, verbose: bool) -> None:
        super().__init__()
        self._verbose = verbose

    def show(self, told: Published) -> None:
        shown = lines.as_json_event(told, self._verbose)
        if shown is not None:
            print_json(shown, indent=False)

    def show_end(self, result: "RunResult", saved: Path | None) -> None:
        end: dict[str, Any] = {
            "event": result.state,
            "run": result.run,
            "rounds": result.rounds,
            "checkpoint": _checkpoint(result, saved),
            "metrics": _figures(result.metrics),
        }
        if result.reason or result.state != "finished":
            end["reason"] = result.reason
        if result.best is None and (why := lines.without_best(result.metrics or {})):
            end["no_best"] = why
        if self.story.personal or self.story.without:
            end |= {"personal": sorted(self.story.personal), "without": self.story.without}
        print_json(end, indent=False)

    def interrupted(self, state: str, reason: str) -> None:
        print_json({"event": state, "run": self.story.run or None, "reason": reason}, indent=False)


class LineWatcher(Watcher):
    """One line a round on stdout, trouble on stderr."""

    def __init__(self) -> None:
        super().__init__()
        self._last_trouble = ""

    def show(self, told: Published) -> None:
        if isinstance(told.event, RoundCommitted):
            print_line(lines.round_line(told.event, self.story.rounds))
        self.show_trouble(told)

    def show_trouble(self, told: Published) -> None:
        text = lines.trouble_line(told)
        if text and text != self._last_trouble and not self.story.ended:
            self._last_trouble = text
            say(text, sys.stderr)

    def show_end(self, result: "RunResult", saved: Path | None) -> None:
        if result.state != "finished":
            end = f"run {result.run} {result.state}: {result.reason or 'no reason given'}"
            reason = result.reason or ""
            # The settings of a run are frozen: where they are at fault, going on does not help.
            resumable = result.state in ("paused", "stopped") and "begin a new run" not in reason
            then = "watch it again with" if "continues by itself" in reason else "resume with"
            say(end + (f"; {then}: {self.resume(result.run)}" if resumable else ""), sys.stderr)
            return
        if result.reason:
            print_line(f"finished after round {result.rounds}: {result.reason}")
        if result.metrics is not None:
            print_line(lines.measured_by(result.metrics))
        elif self._measures and result.rounds:
            print_line(
                "not measured: no test data; name some with --test-data, or have agents hold "
                "some out"
            )
        personalise = f"{program()} personalise {result.run}{self.again}"
        if self.story.personal or self.story.without:
            from flctl.terminal.personal import show

            show(self.story.personal, self.story.without, personalise)
        if why := self.story.not_personalised:
            warn(f"run {result.run} is finished; {why}; ask again with: {personalise}")
        model = _checkpoint(result, saved)
        fetch = f"{program()} runs export {result.run} --format safetensors{self.again}"
        if result.best is not None and result.best[0] != result.rounds:
            round_id, best = result.best
            there = "" if os.access(best, os.R_OK) else f"; get it with: {fetch} --which best"
            print_line(f"best: round {round_id}, {best}{there}")
        elif result.best is None and (why := lines.without_best(result.metrics or {})):
            print_line(why)
        if model is not None and not os.access(model, os.R_OK):
            print_line(f"model on the coordinator, in {model}; get it with: {fetch}")
            return
        task = shlex.quote(self.story.task)
        try_next = f"{program()} evaluate {shlex.quote(str(model))} --task {task}"
        if self._data is None and (result.metrics or {}).get("source") == "agents":
            try_next = f"{program()} predict {shlex.quote(str(model))} FILE"  # data are with agents
        if self._data is not None:  # else it would measure other data
            try_next += f" --data {shlex.quote(str(self._data))}{self._read_as}"
        print_line(f"model in {model}" + (f"; try: {try_next}" if self.story.task else ""))


class LiveWatcher(LineWatcher):
    """A picture that changes in place, for a terminal."""

    def __init__(self) -> None:
        super().__init__()
        self._view: Live | None = None

    def show(self, told: Published) -> None:
        """The picture draws itself from the story; a warning stays above it."""
        if isinstance(told.event, RunResumed | RoundCommitted):
            self.show_trouble(told)

    def __enter__(self) -> "LiveWatcher":
        from flctl.terminal.live import live_view
        from flctl.terminal.output import terminal

        self._view = live_view(self.story, terminal())
        self._view.start()
        return self

    def close(self) -> None:
        if self._view is not None:
            self._view.stop()
            self._view = None


def watcher(as_json: bool, verbose: bool) -> Watcher:
    """JSON when asked for, a live view on a terminal, else lines.

    With `verbose` lines too: a log that scrolls and a picture do not go together. So for a job of
    the shell in the background, which would draw over what the user types.
    """
    if as_json:
        return JsonWatcher(verbose)
    return LiveWatcher() if _in_the_foreground() and not verbose else LineWatcher()


def _in_the_foreground() -> bool:
    """Whether stdout is a terminal, and this process is of the job that reads from it."""
    if not sys.stdout.isatty():
        return False
    try:
        return os.tcgetpgrp(sys.stdout.fileno()) == os.getpgrp()
    except OSError:  # not the terminal of this session
        return True


def _checkpoint(result: "RunResult", saved: Path | None) -> str | None:
    if saved is not None and result.state == "finished":
        return str(saved)
    return None if result.checkpoint is None else str(result.checkpoint)


def _figures(metrics: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Without the counts, which stand in the round's own line."""
    if metrics is None:
        return None
    told = {key: metrics[key] for key in _FIGURES if key in metrics}
    if others := metrics.get("beside"):
        told["beside"] = {name: _figures(part) for name, part in others.items()}
    return told
