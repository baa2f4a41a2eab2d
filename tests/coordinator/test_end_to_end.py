"""Whole runs over the in-memory channel: real coordinator, real supervisors, toy learning."""

from collections.abc import Callable

import numpy as np
import pytest
from memory_fleet import MemoryFleet, read_tensors, toy_model, toy_update
from msgspec import structs

from flctl.coordinator.store.folder import RunFolder
from flctl.core.randomness import Seeding
from flctl.errors import RunError
from flctl.settings import LocalTraining
from flctl.transport.keypair import KeyPair
from flctl.worker.jobs import DataSource, TrainJob


def expected_model(agents: dict[str, int], rounds: int, seed: int) -> np.ndarray:
    """The toy's weight after so many rounds, computed in plain NumPy."""
    model = {name: array for name, (_, array) in toy_model(seed).items()}
    for round_id in range(1, rounds + 1):
        updates = []
        for agent in sorted(agents):
            job = TrainJob(
                task="toy",
                source=DataSource(),
                training=LocalTraining(),
                seeding=Seeding(seed, agent, round_id - 1, round_id, 4 * (round_id - 1)),
                residuals="",
            )
            updates.append({n: a for n, (_, a) in toy_update(model, job).items()})
        total = sum(agents.values())
        mean = sum(
            u["weight"].astype(np.float64) * (agents[a] / total)
            for a, u in zip(sorted(agents), updates, strict=True)
        )
        model = {**updates[0], "weight": np.asarray(mean).astype(np.float32)}
    return model["weight"]


def final_weight(fleet: MemoryFleet) -> np.ndarray:
    history = fleet.history()
    folder = next((fleet.state / "runs").iterdir())
    path = folder / "rounds" / f"{history.round:04d}" / "model.safetensors"
    with path.open("rb") as file:
        return read_tensors(file.fileno())["weight"]


def test_a_run_is_the_average_that_numpy_computes(make_fleet: Callable[..., MemoryFleet]):
    """Three agents with unequal data, three rounds: the model is the weighted mean, exactly."""
    fleet = make_fleet(0)
    for number, examples in enumerate((10, 20, 70), start=1):
        fleet.add(f"pi-{number:02d}", examples=examples)
    fleet.start_run(seed=5, max_share=1.0)
    history = fleet.finish()
    assert history.state == "finished"
    assert [r.round for r in history.rounds] == [1, 2, 3]
    expected = expected_model({"pi-01": 10, "pi-02": 20, "pi-03": 70}, 3, seed=5)
    np.testing.assert_array_equal(final_weight(fleet), expected)


def test_every_agent_trains_once_a_round_from_where_it_left_off(fleet: MemoryFleet):
    """Rounds 1, 2, 3 begin at the batches 0, 4, 8 of each agent's own data."""
    fleet.start_run()
    fleet.finish()
    for agent in fleet.agents.values():
        assert agent.trained == [(1, 0), (2, 4), (3, 8)]


def test_the_records_of_a_run(fleet: MemoryFleet):
    """Metrics, participants, best and last are there; the spool is gone; old models too."""
    run = fleet.start_run(rounds=6, keep_rounds=2)
    history = fleet.finish()
    folder = fleet.state / "runs" / run
    assert history.rounds[-1].metrics is not None
    assert history.rounds[-1].metrics.source == "coordinator"
    assert sorted(history.rounds[-1].participants) == ["pi-01", "pi-02", "pi-03"]
    kept = sorted(p.parent.name for p in folder.glob("rounds/*/model.safetensors"))
    assert kept == ["0005", "0006"]
    assert (folder / "best.safetensors").exists()
    last = (folder / "last.safetensors").read_bytes()
    assert last == (folder / "rounds/0006/model.safetensors").read_bytes()
    assert not list(folder.rglob("updates")) and not list(folder.rglob("*.tmp"))
    assert len(list(folder.glob("rounds/*/metrics.json"))) == 6


def test_an_agent_that_dies_is_not_waited_for(fleet: MemoryFleet):
    """With a quorum of two the round closes as soon as the third is known to be gone."""
    fleet.agents["pi-03"].ticks = 10_000
    fleet.start_run(rounds=1, quorum=0.6, deadline_s=500.0)
    fleet.until(lambda: len(fleet.named("update")) == 2)
    before = fleet.now
    fleet.agents["pi-03"].kill()
    history = fleet.finish()
    assert fleet.now - before < 10
    assert history.rounds[0].missing == ("pi-03",)
    assert fleet.status("pi-03")["state"] == "lost"


def test_a_straggler_is_cut_off_at_the_deadline(fleet: MemoryFleet):
    """Progress without an update does not hold a round beyond its deadline."""
    fleet.agents["pi-02"].ticks = 10_000
    fleet.start_run(rounds=1, quorum=0.6, deadline_s=30.0)
    began = fleet.now
    history = fleet.finish()
    assert 30 <= fleet.now - began < 40
    assert history.rounds[0].missing == ("pi-02",)
    fleet.step()
    assert fleet.agents["pi-02"].supervisor.work.doing is None, "it was told to stop"


def test_an_agent_that_comes_back_in_time_is_counted(fleet: MemoryFleet):
    """Below the quorum the round waits for the one that rebooted, and asks it again."""
    agent = fleet.agents["pi-01"]
    agent.ticks = 10_000
    fleet.start_run(rounds=1)
    fleet.until(lambda: len(fleet.named("update")) == 2)
    agent.kill()
    for _ in range(50):
        fleet.step()
    agent.ticks = 2
    agent.start()
    history = fleet.finish()
    assert history.rounds[0].missing == ()
    assert len(agent.trained) == 2, "once before the power cut, once after it"


def test_a_broken_connection_does_not_cost_a_training(fleet: MemoryFleet):
    """An agent that is cut off while it trains delivers when it is back."""
    agent = fleet.agents["pi-01"]
    agent.ticks = 30
    fleet.start_run(rounds=1)
    fleet.until(lambda: bool(agent.trained))
    agent.link.cut()
    for _ in range(100):
        fleet.step()
    agent.link.mend()
    history = fleet.finish()
    assert history.rounds[0].missing == ()
    assert agent.trained == [(1, 0)]


def lose_for_good(fleet: MemoryFleet) -> str:
    """pi-03 burns in round 2, after the other two have delivered; the paused run."""
    run = fleet.start_run(rounds=3, deadline=60.0, attempts=1)
    fleet.until(lambda: len(fleet.named("opened")) == 2)
    fleet.agents.pop("pi-03").kill()
    assert fleet.finish().state == "paused"
    return run


def test_a_pi_that_is_gone_for_good_is_shut_out_and_the_run_goes_on_without_it(fleet: MemoryFleet):
    """The two updates of its round that were accepted count, and nobody trains twice."""
    run = lose_for_good(fleet)
    fleet.coordinator.runs.resume(RunFolder.find(fleet.state, run))
    assert fleet.finish().state == "paused"  # as long as it may come back
    fleet.keyring.revoke("pi-03")
    fleet.coordinator.runs.resume(RunFolder.find(fleet.state, run))
    history = fleet.finish()
    assert (history.state, history.round) == ("finished", 3)
    assert [sorted(r.participants) for r in history.rounds[1:]] == [["pi-01", "pi-02"]] * 2
    for name in ("pi-01", "pi-02"):
        assert [r for r, _ in fleet.agents[name].trained] == [1, 2, 3]


def test_a_pi_under_another_name_takes_the_place_of_one_that_is_gone(fleet: MemoryFleet):
    run = lose_for_good(fleet)
    fleet.keyring.revoke("pi-03")
    fleet.add("pi-04")
    fleet.coordinator.runs.resume(RunFolder.find(fleet.state, run))
    history = fleet.finish()
    assert (history.state, history.round) == ("finished", 3)
    assert sorted(history.rounds[1].participants) == ["pi-01", "pi-02", "pi-04"]


def test_an_accepted_update_of_a_pi_that_is_gone_for_good_still_counts(fleet: MemoryFleet):
    """pi-03 had delivered before it burnt; it was pi-02 that kept the round open."""
    fleet.agents["pi-02"].ticks = 10**6
    fleet.start_run(rounds=2, deadline=60.0, attempts=1)
    fleet.until(lambda: len(fleet.named("update")) == 2)
    for name in ("pi-02", "pi-03"):
        fleet.agents.pop(name).kill()
        fleet.keyring.revoke(name)
    history = fleet.finish()
    assert (history.state, history.round) == ("finished", 2)
    assert sorted(history.rounds[0].participants) == ["pi-01", "pi-03"]
    assert sorted(history.rounds[1].participants) == ["pi-01"]
    assert "1 of 2 rounds, the first of them round 2" in history.reason


def test_below_the_quorum_the_run_pauses_with_the_reason_and_can_be_resumed(fleet: MemoryFleet):
    """Three attempts, then a pause; the updates that were accepted are kept."""
    agent = fleet.agents["pi-03"]
    agent.ticks = 10_000
    run = fleet.start_run(rounds=2, deadline_s=5.0)
    history = fleet.finish()
    assert history.state == "paused"
    assert "2 of 3 required updates" in history.reason and "pi-03" in history.reason
    assert len(fleet.named("attempt")) == 3
    agent.ticks = agent.worker.left = 2
    fleet.coordinator.runs.resume(RunFolder.find(fleet.state, run))
    history = fleet.finish()
    assert history.state == "finished"
    for agent in fleet.agents.values():
        assert agent.trained == [(1, 0), (2, 4)], "nobody trained round 1 again"


def test_nobody_there_is_said_after_the_wait(make_fleet: Callable[..., MemoryFleet]):
    """No agent within the wait: the run pauses and says who is missing."""
    fleet = make_fleet(0)
    fleet.start_run(agents=["pi-07"], wait_s=5.0)
    history = fleet.finish()
    assert history.state == "paused"
    assert "pi-07: not enrolled" in history.reason


def test_who_waits_for_a_first_agent_reads_how_one_joins(make_fleet: Callable[..., MemoryFleet]):
    fleet = make_fleet(0)
    fleet.start_run(wait_s=5.0)
    history = fleet.finish()
    assert "0 of 1 required agent ready (no agent is enrolled: flctl keys token)" in history.reason


def test_only_one_run_at_a_time(fleet: MemoryFleet):
    """A second run is refused while one is in progress."""
    run = fleet.start_run(rounds=50)
    with pytest.raises(RunError, match=f"is in progress: .* first: flctl runs stop {run}$"):
        fleet.start_run()


def test_a_fraction_of_the_agents_is_drawn_and_everyone_gets_a_turn(
    make_fleet: Callable[..., MemoryFleet],
):
    """C = 0.5 of four agents: two a round, by the seed, and in ten rounds all of them."""
    fleet = make_fleet(4)
    fleet.start_run(rounds=10, fraction=0.5)
    history = fleet.finish()
    assert {len(r.participants) for r in history.rounds} == {2}
    assert set().union(*(r.participants for r in history.rounds)) == set(fleet.agents)


def test_agents_evaluate_when_the_coordinator_has_no_data(make_fleet: Callable[..., MemoryFleet]):
    """The held-out parts of the agents give the round's metrics, each agent's beside them."""
    fleet = make_fleet(0)
    fleet.evaluator.tests = {}
    for name, held_out in (("pi-01", 4), ("pi-02", 6)):
        fleet.add(name, held_out=held_out)
    fleet.start_run(rounds=2)
    metrics = fleet.finish().rounds[-1].metrics
    assert metrics is not None
    assert (metrics.source, metrics.examples, metrics.values["loss"]) == ("agents", 10, 0.25)
    assert sorted(metrics.beside) == ["pi-01", "pi-02"]


def test_an_agent_whose_role_is_to_evaluate_does_only_that(fleet: MemoryFleet):
    """It is never invited to train, and its metrics are the round's."""
    tester = fleet.add("pi-test", role="evaluate", held_out=50, examples=0)
    fleet.start_run(rounds=2, evaluate="agents")
    history = fleet.finish()
    metrics = history.rounds[-1].metrics
    assert metrics is not None and (metrics.source, metrics.examples) == ("agents", 50)
    assert tester.trained == []
    assert all("pi-test" not in r.participants for r in history.rounds)


def test_on_exhausted_stop_ends_the_run_when_somebody_has_seen_all_its_data(fleet: MemoryFleet):
    """The old project's behaviour, when it is asked for."""
    agent = fleet.agents["pi-02"]
    plain = agent.do

    def used_up(job, model):
        event, fd = plain(job, model)
        if isinstance(job, TrainJob) and job.seeding.round == 2:
            event = structs.replace(event, claim=structs.replace(event.claim, exhausted=True))
        return event, fd

    agent.do = used_up
    fleet.start_run(rounds=10, on_exhausted="stop")
    history = fleet.finish()
    assert history.state == "finished" and history.round == 2
    assert "pi-02" in history.reason


def test_who_only_says_that_it_evaluates_measures_nothing(fleet: MemoryFleet):
    """It claims an accuracy of 1.0; a person who enrols it as such makes it so."""
    keys = KeyPair.make()
    fleet.keyring.add("pi-test", keys.public, "agent")
    fleet.add("pi-test", enrol=False, keys=keys, role="evaluate", held_out=50, examples=0)
    fleet.start_run(rounds=1, evaluate="agents", quorum=3)
    metrics = fleet.finish().rounds[-1].metrics
    assert metrics is None or "pi-test" not in metrics.beside
    assert fleet.coordinator is not None
    note = fleet.coordinator.roster.members["pi-test"].note
    assert note is not None and "flctl keys add pi-test" in note and "--role evaluate" in note
    fleet.keyring.add("pi-test", keys.public, "evaluate")
    fleet.until(lambda: fleet.coordinator.roster.members["pi-test"].ready)
    fleet.start_run(rounds=1, evaluate="agents")
    metrics = fleet.finish().rounds[-1].metrics
    assert metrics is not None and sorted(metrics.beside) == ["pi-test"]


def test_the_coordinators_own_data_come_before_any_agents(fleet: MemoryFleet):
    """Under "auto"."""
    fleet.add("pi-test", role="evaluate", held_out=50, examples=0)
    fleet.start_run(rounds=1)
    metrics = fleet.finish().rounds[-1].metrics
    assert metrics is not None and metrics.source == "coordinator"
