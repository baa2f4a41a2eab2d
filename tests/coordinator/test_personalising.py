"""Agents personalise the model of a run: over the in-memory channel, with a passed-in clock."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memory_fleet import MemoryFleet, ToyAgent

from flctl.agent.state import own_models_of
from flctl.coordinator.store.folder import RunFolder
from flctl.core.history import History
from flctl.errors import FlctlError, RunError, SettingsError, UsageError
from flctl.transport.channel import Incoming
from flctl.worker.jobs import AnyEvent, AnyJob, JobFailed, PersonaliseJob

NAMES = ("pi-01", "pi-02", "pi-03")


@pytest.fixture
def fleet(make_fleet: Callable[..., MemoryFleet]) -> MemoryFleet:
    """Three agents that hold out data of both kinds."""
    made = make_fleet(0)
    for name in NAMES:
        made.add(name, validation=6, held_out=8)
    return made


def trained(fleet: MemoryFleet, **given: Any) -> str:
    run = fleet.start_run(**given)
    fleet.finish()
    return run


def order(fleet: MemoryFleet, run: str, **more: Any) -> None:
    assert fleet.coordinator is not None
    fleet.coordinator.runs.personalise(RunFolder.find(fleet.state, run), **more)


def personalised(fleet: MemoryFleet, **more: Any) -> History:
    """A run, and then an order to all of its agents."""
    order(fleet, trained(fleet), **more)
    return fleet.finish()


def test_a_run_whose_settings_say_so_goes_on_until_all_have_a_model_of_their_own(
    fleet: MemoryFleet,
):
    """The figures of both models on both parts are in the journal, and no counts."""
    trained(fleet, personalise=True)
    history = fleet.history()
    assert history.state == "finished" and history.personalising is None
    assert sorted(history.personal) == [*NAMES] and history.without == {}
    event = history.personal["pi-02"]
    assert (event.kept, event.epochs, event.round) == (True, 2, 1)
    assert {part: m.values["loss"] for part, m in event.shared.items()} == {
        "validation": 0.5,
        "test": 0.5,
    }
    assert event.used("test") == event.own["test"] and event.own["test"].values["loss"] == 0.25
    assert (event.own["test"].examples, event.own["test"].counts) == (8, {})
    assert [e["event"] for e in fleet.events if e["event"] in ("finished", "personalised")] == [
        "finished",
        "personalised",
    ]


def test_a_model_that_does_not_beat_the_runs_is_not_kept(fleet: MemoryFleet):
    """The figures are those of the run's model alone."""
    fleet.agents["pi-01"].epochs = 0
    event = personalised(fleet).personal["pi-01"]
    assert (event.kept, event.epochs, event.own) == (False, 0, {})
    assert event.used("test") == event.shared["test"]


def test_more_epochs_than_were_ordered_are_impossible(fleet: MemoryFleet):
    """What such an agent says does not stand in the journal."""
    fleet.agents["pi-01"].epochs = 10**6
    history = personalised(fleet)
    assert sorted(history.personal) == ["pi-02", "pi-03"]
    assert history.without["pi-01"] == "sent impossible metrics: 1000000 epochs, 10 at most"


def test_a_new_agent_is_asked_alone(fleet: MemoryFleet):
    """It took no part in the run; the others are not asked again."""
    run = trained(fleet, personalise=True)
    before = fleet.history().personal
    fleet.add("pi-04", validation=6, held_out=8)
    fleet.until(lambda: fleet.coordinator.roster.is_free("pi-04"))
    order(fleet, run, agents=("pi-04",))
    after = fleet.finish().personal
    assert after.pop("pi-04").kept and after == before
    assert [fleet.agents[name].personalised for name in NAMES] == [1, 1, 1]


def test_one_that_comes_while_the_others_are_at_it_is_asked_too(fleet: MemoryFleet):
    run = trained(fleet)
    fleet.agents["pi-01"].ticks = 30
    order(fleet, run)
    fleet.add("pi-04", validation=6, held_out=8)
    assert sorted(fleet.finish().personal) == [*NAMES, "pi-04"]


def test_a_cordoned_agent_is_named_and_does_it_later(fleet: MemoryFleet):
    """At once: it is not waited for."""
    run = trained(fleet)
    fleet.coordinator.agents.cordon("pi-02", held=True)
    began = fleet.now
    order(fleet, run)
    history = fleet.finish()
    assert sorted(history.personal) == ["pi-01", "pi-03"] and fleet.now - began < 10
    assert history.without == {"pi-02": "cordoned (flctl uncordon pi-02)"}
    fleet.coordinator.agents.cordon("pi-02", held=False)
    order(fleet, run, agents=("pi-02",))
    history = fleet.finish()
    assert sorted(history.personal) == [*NAMES] and history.without == {}


def test_an_agent_that_is_killed_and_comes_back_does_it_again(fleet: MemoryFleet):
    run = trained(fleet)
    fleet.agents["pi-02"].ticks = 30
    order(fleet, run)
    fleet.until(lambda: fleet.agents["pi-02"].personalised == 1)
    fleet.agents["pi-02"].kill()
    for _ in range(100):
        fleet.step()
    fleet.agents["pi-02"].start()
    assert sorted(fleet.finish().personal) == [*NAMES]
    assert fleet.agents["pi-02"].personalised == 2


def test_an_agent_that_stays_away_is_named_and_the_others_go_on(fleet: MemoryFleet):
    run = trained(fleet)
    fleet.agents["pi-02"].kill()
    fleet.until(lambda: not fleet.coordinator.roster.members["pi-02"].connected)
    began = fleet.now
    order(fleet, run, changes={"wait_s": 40.0})
    history = fleet.finish()
    assert sorted(history.personal) == ["pi-01", "pi-03"]
    assert list(history.without) == ["pi-02"] and "lost" in history.without["pi-02"]
    assert 40 <= fleet.now - began < 45


def test_at_the_deadline_the_slow_ones_are_cancelled_and_named(fleet: MemoryFleet):
    """The agent stops working for it, and is ready for a run."""
    run = trained(fleet)
    fleet.agents["pi-03"].ticks = 10**6
    order(fleet, run, changes={"deadline_s": 20.0})
    history = fleet.finish()
    assert history.without == {"pi-03": "not done at the deadline of 20 s"}
    fleet.until(lambda: not fleet.agents["pi-03"].worker.busy)
    fleet.agents["pi-03"].ticks = 2
    fleet.start_run()
    assert fleet.finish().state == "finished"


def test_a_coordinator_that_is_restarted_goes_on_with_those_that_are_left(fleet: MemoryFleet):
    """Who has done it is not asked again."""
    run = trained(fleet)
    fleet.agents["pi-02"].ticks = 40
    order(fleet, run, changes={"personal_epochs": 4})
    fleet.until(lambda: len(fleet.named("personal")) == 2)
    fleet.kill_coordinator()
    for _ in range(20):
        fleet.step()
    fleet.start_coordinator()
    history = fleet.finish()
    assert sorted(history.personal) == [*NAMES] and history.personalisings == 1
    assert {event.number for event in history.personal.values()} == {1}
    assert [fleet.agents[name].personalised for name in ("pi-01", "pi-03")] == [1, 1]


def test_one_killed_between_the_end_of_the_run_and_the_order_gives_it(fleet: MemoryFleet):
    """The run's settings say so, and the journal says that it has not begun."""
    fleet.start_run(personalise=True)
    fleet.until(lambda: bool(fleet.named("finished")))
    fleet.kill_coordinator()
    path = RunFolder.find(fleet.state, "toy").journal_path
    lines = path.read_bytes().splitlines(keepends=True)
    ends = next(n for n, line in enumerate(lines) if b'"event":"finished"' in line)
    path.write_bytes(b"".join(lines[: ends + 1]))
    fleet.start_coordinator()
    assert sorted(fleet.finish().personal) == [*NAMES]


def test_an_agent_that_cannot_is_named_with_its_reason(fleet: MemoryFleet):
    def broken(job: AnyJob, model: dict[str, np.ndarray]) -> tuple[AnyEvent, int | None]:
        if isinstance(job, PersonaliseJob):
            return JobFailed(kind="task", message="the loss is nan"), None
        return ToyAgent.do(fleet.agents["pi-01"], job, model)

    fleet.agents["pi-01"].do = broken
    assert personalised(fleet).without == {"pi-01": "task: the loss is nan"}


def test_figures_of_more_examples_than_were_declared_do_not_count(fleet: MemoryFleet):
    run = trained(fleet)
    fleet.agents["pi-01"].held_out = 800  # its Hello has said 8
    order(fleet, run)
    history = fleet.finish()
    # The agent says in a new Hello how many there are, before it sends the figures.
    assert history.personal["pi-01"].shared["test"].examples == 800


def test_an_operator_stops_it(fleet: MemoryFleet):
    run = trained(fleet)
    fleet.agents["pi-01"].ticks = 10**6
    order(fleet, run)
    fleet.until(lambda: len(fleet.named("personal")) == 2)
    assert fleet.coordinator.runs.status()["phase"] == "personalising"
    fleet.coordinator.training.stop("stopped by an operator")
    assert fleet.finish().without == {"pi-01": "stopped by an operator"}


@pytest.mark.parametrize(
    ("changes", "error", "why"),
    [
        ({"personal_tensors": ["weigth"]}, SettingsError, "did you mean 'weight'"),
        ({"personal_lr": -1.0}, SettingsError, "personal_lr"),
        ({"rounds": 5}, SettingsError, "rounds cannot differ from the run"),
    ],
)
def test_an_order_that_cannot_be_is_refused(
    fleet: MemoryFleet, changes: dict[str, Any], error: type[FlctlError], why: str
):
    run = trained(fleet)
    with pytest.raises(error, match=why):
        order(fleet, run, changes=changes)
    assert fleet.coordinator.training is None


def test_only_a_finished_run_is_personalised_and_no_other_is_begun_meanwhile(fleet: MemoryFleet):
    run = fleet.start_run(rounds=50)
    fleet.until(lambda: fleet.history().round > 1)
    with pytest.raises(RunError, match="in progress"):
        order(fleet, run)
    fleet.coordinator.training.stop("by a test")
    fleet.finish()
    with pytest.raises(UsageError, match="the run is stopped"):
        order(fleet, run)
    done = trained(fleet)
    fleet.agents["pi-01"].ticks = 30
    order(fleet, done)
    with pytest.raises(RunError, match="in progress"):
        fleet.start_run()


def test_nothing_of_an_own_model_reaches_the_coordinator(fleet: MemoryFleet):
    """What it receives, and what it writes, is searched for the bytes of the model's file."""
    secret = np.random.default_rng(1).bytes(4096)
    agent = fleet.agents["pi-01"]

    def do(job: AnyJob, model: dict[str, np.ndarray]) -> tuple[AnyEvent, int | None]:
        if isinstance(job, PersonaliseJob):
            path = Path(job.folder) / "own.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(secret)
        return ToyAgent.do(agent, job, model)

    agent.do = do
    received: list[bytes] = []
    hear = fleet.hub.receive

    def receive() -> Iterator[Incoming]:
        for incoming in hear():
            received.extend(map(bytes, incoming.frames))
            yield incoming

    fleet.hub.receive = receive
    assert "pi-01" in personalised(fleet).personal
    kept = own_models_of(agent.folder) / "own.safetensors"
    assert kept.read_bytes() == secret and len(received) > 10
    files = [path.read_bytes() for path in fleet.state.rglob("*") if path.is_file()]
    pieces = [secret[at : at + 16] for at in range(0, len(secret), 16)]
    for known in (*received, *files):
        assert not any(piece in known for piece in pieces)
