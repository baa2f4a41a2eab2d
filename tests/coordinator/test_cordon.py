"""Agents that are held back: whole runs over the in-memory channel, and the file that says who."""

from collections.abc import Callable

import pytest
from memory_fleet import MemoryFleet

from flctl.coordinator.main import make_coordinator
from flctl.coordinator.store.cordons import load_cordons, save_cordons
from flctl.errors import StateError
from flctl.transport.keys import Keyring


def rounds_of(fleet: MemoryFleet, name: str) -> list[int]:
    return [r for r, _ in fleet.agents[name].trained]


def test_a_cordoned_agent_is_not_invited_and_the_run_goes_on(fleet: MemoryFleet):
    """The others do all rounds without it; it is shown as cordoned, and ready all the same."""
    fleet.coordinator.agents.cordon("pi-02", held=True)
    fleet.start_run()
    history = fleet.finish()
    assert [sorted(r.participants) for r in history.rounds] == [["pi-01", "pi-03"]] * 3
    assert rounds_of(fleet, "pi-02") == []
    shown = fleet.status("pi-02")
    assert (shown["cordoned"], shown["ready"], shown["state"]) == (True, True, "ready")


def test_an_agent_that_is_cordoned_in_a_round_finishes_it(fleet: MemoryFleet):
    """Its work counts; from the next round on it is left alone, until it is invited again."""
    fleet.start_run(rounds=8)
    fleet.until(lambda: fleet.agents["pi-02"].trained != [])
    fleet.coordinator.agents.cordon("pi-02", held=True)
    fleet.until(lambda: fleet.history().round >= 4)
    fleet.coordinator.agents.cordon("pi-02", held=False)
    history = fleet.finish()
    took_part = [r.round for r in history.rounds if "pi-02" in r.participants]
    assert took_part[0] == 1
    assert took_part[-1] == 8
    assert 3 not in took_part
    assert rounds_of(fleet, "pi-02") == took_part


def test_a_cordon_survives_the_coordinators_restart(fleet: MemoryFleet):
    """It is in the state folder, not in the memory of a process."""
    fleet.coordinator.agents.cordon("pi-03", held=True)
    fleet.kill_coordinator()
    fleet.start_coordinator()
    fleet.start_run()
    history = fleet.finish()
    assert all("pi-03" not in r.participants for r in history.rounds)


@pytest.mark.parametrize("given", [{}, {"agents": ["pi-01"]}])
def test_a_run_waits_for_an_agent_that_is_cordoned_rather_than_end(
    make_fleet: Callable[..., MemoryFleet], given: dict[str, list[str]]
):
    """A fleet of one that is upgraded: longer than the run would wait for anybody else."""
    fleet = make_fleet(1)
    fleet.start_run(rounds=6, wait_s=5.0, **given)
    fleet.until(lambda: fleet.history().round >= 2)
    fleet.coordinator.agents.cordon("pi-01", held=True)
    for _ in range(200):
        fleet.step(0.5)
    assert fleet.history().state == "running"
    fleet.agents["pi-01"].kill()
    fleet.step(2.0)
    fleet.agents["pi-01"].start()
    fleet.step(2.0)
    fleet.coordinator.agents.cordon("pi-01", held=False)
    assert fleet.finish().state == "finished"


def test_a_damaged_list_is_an_error_that_names_it(tmp_path):
    """Nobody is invited by mistake because a file was cut off."""
    save_cordons(tmp_path, {"pi-02", "pi-01"})
    assert load_cordons(tmp_path) == {"pi-01", "pi-02"}
    path = tmp_path / "cordoned.json"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(StateError, match=r"cordoned\.json: damaged"):
        load_cordons(tmp_path)


def test_agents_of_a_local_run_are_not_those_that_an_operator_holds_back(tmp_path):
    """Both are called pi-01: the folder's cordons are for the coordinator that runs on it."""
    save_cordons(tmp_path, {"pi-01"})
    for control, cordoned in ((None, set()), (tmp_path, {"pi-01"})):
        keyring = Keyring(tmp_path / "keys")
        coordinator, _ = make_coordinator(tmp_path, keyring, "127.0.0.1:0", control)
        try:
            assert coordinator.roster.cordoned == cordoned
        finally:
            coordinator.close()


def test_a_run_that_waits_for_a_cordoned_agent_says_so(fleet: MemoryFleet):
    """First of all, and whether it is connected or not: only an operator ends that wait."""
    fleet.agents["pi-03"].kill()
    fleet.coordinator.agents.cordon("pi-03", held=True)
    fleet.step(60.0)
    fleet.start_run(agents=["pi-01", "pi-02", "pi-03", "pi-00"], quorum=4)
    fleet.until(lambda: bool(fleet.named("waiting")))
    assert fleet.named("waiting")[0]["missing"].startswith("pi-03: cordoned (flctl uncordon pi-03)")
