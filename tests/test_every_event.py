"""Every reader of a run's events bears every kind of event, and counts the rounds that count.

A run in which rounds were withdrawn and done again ends with each kind of event once; each
reader is given each of these journals. A kind that joins the union, or a module that begins
to read events, fails here until it is covered.
"""

import contextlib
import csv
import io
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

import msgspec
import numpy as np
import pytest

import flctl as package
from flctl.coordinator.store.folder import RunFolder
from flctl.coordinator.store.journal import (
    DURABLE,
    Journal,
    complete,
    published,
    read_events,
)
from flctl.coordinator.store.over import RunsOver
from flctl.coordinator.store.runs import summary
from flctl.core.events import (
    AgentPersonalised,
    AnyEvent,
    AttemptFailed,
    Journaled,
    PauseOrdered,
    PersonalisingBegan,
    PersonalisingEnded,
    RoundCommitted,
    RoundOpened,
    RoundsWithdrawn,
    RunFailed,
    RunFinished,
    RunPaused,
    RunResumed,
    RunStarted,
    RunStopped,
    UpdateRejected,
)
from flctl.core.history import History
from flctl.core.stream import Followed, Published, RunBegun
from flctl.fleet.answers import read_told
from flctl.fleet.heads import Heads, kept
from flctl.fleet.replay import replay
from flctl.fleet.virtual import VirtualRun
from flctl.records.tensorboard import Follower
from flctl.settings import LocalTraining
from flctl.terminal.live import Dashboard
from flctl.terminal.watching import JsonWatcher, LineWatcher
from flctl.transport.gate import Gate
from flctl.web.picture import RunPicture
from flctl.wire.messages import Metrics
from flctl.wire.parameters import ParameterFile

KINDS: tuple[type[Journaled], ...] = get_args(AnyEvent)
PERSONAL = (PersonalisingBegan, AgentPersonalised, PersonalisingEnded)
"""Of a run that is finished, in the order in which they happen."""
ENDS = {RunPaused: "paused", RunFinished: "finished", RunFailed: "failed", RunStopped: "stopped"}
ENDS |= dict.fromkeys(PERSONAL, "finished")
SOURCE = Path(package.__file__).parent
LOSSES = {1: 0.5, 2: 0.25, 3: 0.375}
"""Of the rounds that count: the best is neither the last nor the most accurate one."""
ACCURACIES = {1: 0.875, 2: 0.5, 3: 0.75}


class Case(NamedTuple):
    """A run whose journal ends with some kind of event."""

    folder: RunFolder
    events: list[AnyEvent]
    flctl: Callable[..., Any]
    tmp_path: Path

    @property
    def told(self) -> list[Published]:
        """As a coordinator tells it."""
        name = self.folder.name
        begun = RunBegun(run=name, round=0, rounds=3, task="ecg", agents=("pi-01", "pi-02"))
        return [Published(name, begun), *published(self.folder.journal_path)]

    @property
    def counted(self) -> dict[int, RoundCommitted]:
        """What this test takes for the truth: the last event of each round not withdrawn."""
        rounds: dict[int, RoundCommitted] = {}
        for event in self.events:
            if isinstance(event, RoundCommitted):
                rounds[event.round] = event
            elif isinstance(event, RoundsWithdrawn):
                rounds = {n: r for n, r in rounds.items() if n <= event.round}
        return rounds

    @property
    def losses(self) -> dict[int, float]:
        return {n: LOSSES[n] for n in self.counted}

    @property
    def best(self) -> int | None:
        """By the primary metric of `ecg`."""
        return max(self.losses, key=ACCURACIES.__getitem__, default=None)

    def command(self, *args: object) -> str | None:
        """What it prints; None when it says that there is no round yet, and there is none."""
        done = self.flctl("runs", args[0], self.folder.name, *args[1:])
        if not self.counted and done.code:
            assert (done.code, "no committed round" in done.complaint) == (1, True)
            return None
        assert (done.code, done.err) == (0, "")
        return done.out


# The runs ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of three rounds, with all of its models."""
    folder = tmp_path_factory.mktemp("trained")
    rng = np.random.default_rng(1)
    np.savez(
        folder / "beats.npz",
        X=rng.integers(-300, 300, (32, 187)).astype(np.int16),
        y=np.arange(32) % 3,
        record=np.repeat(["101", "102"], 16),
        split=np.tile([0, 0, 0, 1], 8),
    )
    given = {"task": "ecg", "virtual": 2, "rounds": 3, "keep_rounds": 0, "batch_size": 8,
             "federate_after_n_batches": 1, "data": str(folder / "beats.npz")}  # fmt: skip
    run = VirtualRun.start(folder / "state", given, "the test")
    run.run()
    return run.folder


def story(real: list[AnyEvent]) -> list[AnyEvent]:
    """`real`, with trouble on the way: rounds 2 and 3 were made before, and withdrawn."""
    by_round = {n: [e for e in real if getattr(e, "round", None) == n] for n in (1, 2, 3)}

    def measured(event: AnyEvent, loss: float, accuracy: float, **other: Any) -> AnyEvent:
        if not isinstance(event, RoundCommitted):
            return event
        assert event.metrics is not None and event.metrics.validation is not None
        values = {"loss": loss, "accuracy": accuracy, "macro_f1": accuracy}
        own = msgspec.structs.replace(event.metrics.validation, values=values)
        score = msgspec.structs.replace(event.metrics, values=values, validation=own)
        return msgspec.structs.replace(event, metrics=score, **other)

    def right(n: int) -> list[AnyEvent]:
        return [measured(event, LOSSES[n], ACCURACIES[n]) for event in by_round[n]]

    def wrong(n: int, base: str) -> list[AnyEvent]:
        """With the least loss and the greatest accuracy of all."""
        events = [measured(e, 0.1 / n, 0.99, model=str(n) * 64) for e in by_round[n]]
        return [msgspec.structs.replace(e, base=base) if isinstance(e, RoundOpened) else e
                for e in events]  # fmt: skip

    opened, *updates, committed = right(3)
    assert isinstance(opened, RoundOpened) and isinstance(real[0], RunStarted)
    first = right(1)
    assert isinstance(first[-1], RoundCommitted)
    return [
        real[0],
        *first,
        *wrong(2, first[-1].model),
        *wrong(3, "2" * 64),
        RoundsWithdrawn(at=0, round=1, reason="damaged"),
        RunResumed(at=0),
        *right(2),
        opened,
        PauseOrdered(at=0),
        PauseOrdered(at=0, withdrawn=True),
        UpdateRejected(at=0, round=3, agent=opened.invited[0], reason="NaN"),
        AttemptFailed(at=0, round=3, attempt=1, reason="too few"),
        msgspec.structs.replace(opened, attempt=2),
        *updates,
        committed,
    ]


def personalised(last: AnyEvent) -> list[AnyEvent]:
    """What agents do with the model of the round that is the `last` event."""
    assert isinstance(last, RoundCommitted) and last.metrics is not None
    figures = {"test": Metrics(examples=4, values=last.metrics.values)}
    about = {"at": 0, "number": 1, "round": last.round}
    return [
        PersonalisingBegan(**about, model=last.model, training=LocalTraining()),
        AgentPersonalised(**about, agent="pi-01", kept=True, epochs=2, shared=figures, own=figures),
        PersonalisingEnded(**about, without={"pi-02": "not connected"}),
    ]


def ends_with(kind: type[Journaled], real: list[AnyEvent]) -> list[AnyEvent]:
    """The story up to the last event of that kind."""
    events = story(real)
    ends = {
        RunPaused: RunPaused(at=0, reason="too few"),
        RunFinished: RunFinished(at=0),
        RunFailed: RunFailed(at=0, reason="broken"),
        RunStopped: RunStopped(at=0, reason="by an operator"),
    }
    if kind in ends:
        events.append(ends[kind])
    if kind in PERSONAL:
        events += [RunFinished(at=0, personalises=True), *personalised(events[-1])]
    last = max((n for n, event in enumerate(events) if type(event) is kind), default=None)
    assert last is not None, f"{kind.__name__} is new: put it into the story"
    events = events[: last + 1]
    return [msgspec.structs.replace(event, at=1e9 + n) for n, event in enumerate(events)]


@pytest.fixture
def case(
    kind: type[Journaled],
    trained: RunFolder,
    flctl: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: Any,
) -> Case:
    monkeypatch.chdir(tmp_path)
    folder = RunFolder(tmp_path / "state" / "runs" / trained.name)
    shutil.copytree(trained.path, folder.path)
    events = ends_with(kind, read_events(trained.journal_path))
    folder.journal_path.unlink()
    with contextlib.closing(Journal(folder.journal_path)) as journal:
        journal.append(events)
    return Case(folder, events, flctl, tmp_path)


# The readers ---------------------------------------------------------------------------------

Reader = Callable[[Case], None]
READERS: dict[str, Reader] = {}


def reader(read: Reader) -> Reader:
    READERS[read.__name__] = read
    return read


@reader
def history(case: Case) -> None:
    sent = msgspec.msgpack.decode(msgspec.msgpack.encode(case.told))
    assert [read_told(body, "there") for body in sent] == case.told
    assert [told.seq for told in case.told[1:]] == list(range(len(case.events)))
    for found in (case.folder.history(), History.of(case.events)):
        assert {r.round: r for r in found.rounds} == case.counted
        assert (found.best.round if found.best else None) == case.best


@reader
def lean_history(case: Case) -> None:
    """Of its last round nothing is missing, also when rounds are withdrawn as it goes on."""
    going_on = History(lean=True)
    for event in case.events:
        going_on.apply(event)
    complete(case.folder.journal_path, going_on)
    for found in (case.folder.history(lean=True), going_on):
        assert [r.round for r in found.rounds] == list(case.counted)
        assert found.rounds[-1:] == list(case.counted.values())[-1:]
        assert (found.best.round if found.best else None) == case.best


@reader
def metrics_json(case: Case) -> None:
    case.folder.mend(case.folder.history(lean=True), 0)
    for last in list(case.counted.values())[-1:]:
        told = (case.folder.round_path(last.round) / "metrics.json").read_bytes()
        assert msgspec.json.decode(told, type=RoundCommitted) == last
    best = case.folder.path / "best.safetensors"
    if case.best is not None:
        assert best.read_bytes() == case.folder.model_path(case.best).read_bytes()


@reader
def runs_list(case: Case) -> None:
    """What a coordinator answers, too."""
    (told,) = json.loads(case.flctl("runs", "list", "--json").out)
    assert told == json.loads(json.dumps(summary(case.folder)))
    assert told["round"] == max(case.counted, default=0)
    assert (told["metrics"] or {"values": {}})["values"].get("loss") == LOSSES.get(told["round"])
    assert told["state"] == ENDS.get(type(case.events[-1]), "stopped")
    assert f"{told['round']}/3" in case.flctl("runs", "list").out


@reader
def whether_it_is_over(case: Case) -> None:
    over = any(isinstance(event, RunFinished | RunFailed) for event in case.events)
    over_here = RunsOver(case.folder.path.parents[1], Gate())
    assert over_here.is_over(case.folder.name, "pi-01") is over


@reader
def runs_show(case: Case) -> None:
    out = case.command("show")
    assert out is not None
    rows = re.findall(r"^ *(\d+) +(\d\.\d{4}) +(\d\.\d{4})", out, re.M)
    assert {int(n): float(loss) for n, loss, _ in rows} == case.losses
    assert len(rows) == len(case.losses)
    told = json.loads(case.command("show", "--json") or "")
    assert told["events"] == json.loads(msgspec.json.encode(case.events))


@reader
def runs_export_csv(case: Case) -> None:
    for more in ((), ("--per-agent",)):
        out = case.command("export", "--format", "csv", "--out", "-", *more)
        rows = list(csv.DictReader((out or "").splitlines()))
        assert [int(row["round"]) for row in rows] == [
            n for n in case.counted for _ in range(2 if more else 1)
        ]
        if not more:
            assert [row["model"] for row in rows] == [r.model for r in case.counted.values()]


@reader
def runs_export_model(case: Case) -> None:
    wanted = {"last": max(case.counted, default=0), **{n: n for n in case.counted}}
    for which, round_id in {**wanted, **({"best": case.best} if case.best else {})}.items():
        out = case.command("export", "--format", "safetensors", "--which", which, "--out", "model",
                           "--json")  # fmt: skip
        assert json.loads(out or "")["round"] == round_id
        exported = tensors_of(case.tmp_path / "model")  # its metadata have the correction, too
        assert exported == tensors_of(case.folder.model_path(round_id or 0))


def tensors_of(path: Path) -> dict[str, bytes]:
    with path.open("rb") as file:
        opened = ParameterFile(file.fileno(), str(path))
        return {spec.name: opened.read(spec).tobytes() for spec in opened.specs}


def scalars(folder: Path) -> Mapping[int, list[float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    values: dict[int, list[float]] = {}
    for tag in set(found.Tags()["scalars"]) & {"later/loss", "test/loss"}:
        for point in found.Scalars(tag):
            values.setdefault(point.step, []).append(point.value)
    return values


@reader
def runs_export_tensorboard(case: Case) -> None:
    if case.command("export", "--format", "tensorboard") is not None:
        found = scalars(case.tmp_path / "tensorboard" / case.folder.name)
        assert found == {n: [loss] for n, loss in case.losses.items()}


@reader
def train_tensorboard(case: Case) -> None:
    """As it happens, and once more when the run is taken up."""
    for _ in range(2):
        with contextlib.closing(Follower(case.tmp_path / "live")) as follower:
            for event in case.told:
                follower.on_event(event)
        found = scalars(case.tmp_path / "live" / case.folder.name)
        assert found == {n: [loss] for n, loss in case.losses.items()}


@reader
def runs_plot(case: Case) -> None:
    told = case.command("plot", "--out", "run.png", "--json")
    if told is not None:
        assert json.loads(told)["rounds"] == len(case.counted)
        assert (case.tmp_path / "run.png").stat().st_size > 10_000


@reader
def runs_replay(case: Case) -> None:
    if not case.counted:
        assert case.command("replay") is None
        return
    rows = replay(case.folder, {})
    assert [row.journal for row in rows[1:]] == [r.model for r in case.counted.values()]
    assert all(row.same for row in rows)


@reader
def runs_verify(case: Case) -> None:
    """Against the head that `train` has kept, where some event told one."""
    state = case.folder.path.parents[1]
    heads = Heads(state)
    for told in case.told:
        heads.on_event(told)
    seen = kept(state, case.folder.name)
    assert (seen is not None) is any(isinstance(event, DURABLE) for event in case.events)
    assert case.flctl("runs", "verify", case.folder.name).code == 0


@reader
def web_page(case: Case) -> None:
    """The rounds that count, with their figures and the best of them."""
    picture = RunPicture(case.folder.name, 0.0)
    for told in case.told:
        picture.apply(told, 0.0)
    for each in (picture, RunPicture.of(case.folder.name, case.events)):
        assert {r.round: r.values["loss"] for r in each.rounds} == case.losses
        assert each.best == case.best


def watched(case: Case, watcher: LineWatcher | JsonWatcher) -> str:
    """What it prints when the connection is lost, and the last ones come again."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        watcher.expect({"task": "ecg", "rounds": 3})
        followed = Followed()
        for told in [*case.told, *case.told[-3:]]:
            if followed.is_new(told):
                watcher.on_event(told)
    scores = {line.round: line.score for line in watcher.story.done if line.score}
    assert {n: score.values["loss"] for n, score in scores.items()} == case.losses
    best = watcher.story.best
    assert (best.round if best else None) == case.best
    return out.getvalue()


@reader
def train_in_lines(case: Case) -> None:
    rows = re.findall(
        r"^round (\d)/3  on later:  loss (\d\.\d{4})", watched(case, LineWatcher()), re.M
    )
    told = {int(n): float(loss) for n, loss in rows}  # the last word on each
    assert {n: told[n] for n in case.losses} == case.losses


@reader
def train_json(case: Case) -> None:
    rounds: dict[int, float] = {}
    for line in map(json.loads, watched(case, JsonWatcher(verbose=True)).splitlines()):
        if line["event"] == "round":
            rounds[line["round"]] = line["metrics"]["values"]["loss"]
        elif line["event"] == "withdrawn":
            rounds = {n: loss for n, loss in rounds.items() if n <= line["round"]}
    assert rounds == case.losses


@reader
def train_live(case: Case) -> None:
    from rich.console import Console

    watcher = LineWatcher()
    watched(case, watcher)
    screen = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    screen.print(Dashboard(watcher.story, time.monotonic))
    picture = screen.file.getvalue()  # type: ignore[attr-defined]
    if len(case.losses) > 1:
        assert f"best round {case.best}: " in picture
    for n in case.losses:
        assert f"{ACCURACIES[n]:.4f}" in picture


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_every_reader_takes_every_event(read: Reader, case: Case):
    """After it each sees the same rounds, the same figures and the same best one."""
    read(case)


# Nothing is left out ---------------------------------------------------------------------------

WRITES: tuple[Reader, ...] = ()
"""Makes events, or hands them on: it reads none."""
READ_BY: dict[str, tuple[Reader, ...]] = {
    "terminal/demo.py": WRITES,  # its run is never taken up, so that nothing is withdrawn
    "cli/export.py": (runs_export_csv, runs_export_model, runs_export_tensorboard),
    "terminal/finding.py": (runs_list, runs_show),
    "terminal/runs.py": (runs_list, runs_show),
    "terminal/lines.py": (train_in_lines, train_json),
    "records/plots/run.py": (runs_plot,),
    "records/copies.py": (runs_export_model,),
    "cli/runs.py": (runs_list, runs_show, runs_replay, runs_verify),
    "core/story.py": (train_in_lines, train_live),
    "terminal/training.py": (train_tensorboard,),  # what it recalls
    "coordinator/run/decisions.py": WRITES,
    "coordinator/run/storing.py": WRITES,
    "coordinator/store/schema1.py": WRITES,  # of 0.1 alone: tests/cli/test_flctl_01.py
    "coordinator/run/ahead.py": WRITES,
    "coordinator/run/context.py": WRITES,
    "coordinator/front/outbox.py": WRITES,
    "coordinator/front/service.py": WRITES,
    "coordinator/front/agents.py": WRITES,
    "coordinator/front/watching.py": WRITES,
    "api.py": WRITES,  # tests/test_api.py reads a run with it
    "core/stream.py": (history, train_in_lines),
    "fleet/console.py": (history,),
    "fleet/looking.py": WRITES,  # the past of agents, not of a run
    "fleet/local.py": (history,),  # which agents a run began with
    "fleet/checking.py": WRITES,  # of a run that it has just made
    "fleet/processes.py": WRITES,
    "fleet/commits.py": WRITES,
    "fleet/spool.py": WRITES,
    "fleet/following.py": (history,),
    "coordinator/front/operators.py": (lean_history,),
    "coordinator/run/evaluating.py": WRITES,
    "coordinator/run/gathering.py": WRITES,
    "coordinator/store/journal.py": (history, lean_history),
    "coordinator/run/keeper.py": (lean_history,),
    "coordinator/run/round_driver.py": WRITES,
    "coordinator/run/reports.py": WRITES,
    "coordinator/run/waiting.py": (lean_history,),
    "coordinator/alerts/observing.py": WRITES,
    "coordinator/store/folder.py": (metrics_json,),
    "coordinator/store/over.py": (whether_it_is_over,),
    "coordinator/run/scoring.py": WRITES,
    "coordinator/store/resume.py": (lean_history,),
    "coordinator/store/runs.py": (runs_list, runs_show),
    "coordinator/run/run.py": (lean_history,),
    "terminal/watching.py": (train_in_lines, train_json),
    "core/events.py": WRITES,
    "core/history.py": (history, lean_history),
    "fleet/answers.py": (history,),
    "fleet/clients.py": WRITES,
    "fleet/driving.py": (train_in_lines, train_json),
    "fleet/heads.py": (runs_verify,),
    "fleet/restore.py": (runs_verify,),  # the chain alone
    "fleet/replay.py": (runs_replay,),
    "fleet/virtual.py": (lean_history,),
    "core/personal.py": (lean_history,),
    "coordinator/run/personalising.py": WRITES,
    "fleet/personal_here.py": (lean_history,),
    "terminal/personal.py": (runs_show,),
    "records/recorded.py": (history, runs_export_csv),
    "terminal/checkpoints.py": (history,),
    "records/tables.py": (runs_export_csv,),
    "records/tensorboard.py": (runs_export_tensorboard, train_tensorboard),
    "web/feed.py": (web_page,),
    "web/picture.py": (web_page,),
    "web/agent_pages.py": WRITES,  # the past of agents, not of a run
    "web/orders.py": WRITES,  # the word of a pause alone
    "web/metrics.py": WRITES,  # the same
    "web/run_view.py": (web_page,),
    "web/run_pages.py": WRITES,  # it passes the picture on
}
TOUCHES = re.compile(
    r"core\.(events|history|stream)|core import events|read_events|\.history\(|recorded\("
)


def touching() -> Iterator[str]:
    for path in SOURCE.rglob("*.py"):
        if TOUCHES.search(path.read_text()) or path.name in ("events.py", "history.py"):
            yield path.relative_to(SOURCE).as_posix()


def test_every_module_that_reads_events_is_among_the_readers():
    """A new one is added to the table above, with the reader that tries it."""
    odd = set(touching()) ^ set(READ_BY)
    assert not odd, f"{odd}: say in READ_BY which reader tries it, or that it only writes"
    used = {read for readers in READ_BY.values() for read in readers}
    assert used == set(READERS.values())
