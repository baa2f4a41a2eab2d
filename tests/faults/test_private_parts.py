"""Private tensors and the machines they are on: a card that dies, a coordinator that is killed."""

import shutil
from collections.abc import Callable
from random import Random

import pytest
from bed import Bed
from table import Result

pytestmark = pytest.mark.timeout(900)
SETTINGS = {"task": "hermit", "lr": 0.01, "epochs": 2}


def test_a_card_dies(bed: Bed, row: Result, unbroken: Callable[..., None]):
    """What it had for itself is lost, which is on record; the run goes on, from the beginning of
    that part, and can be computed again."""
    row.fault = "a card dies with private tensors"
    bed.start_all()
    run = bed.begin(100_000, **SETTINGS)
    bed.until_round(run, 3)
    bed.kill("pi-01")
    own = bed.folder / "pi-01" / "own"
    assert list(own.glob("private/*/*.safetensors"))
    shutil.rmtree(own)
    bed.start_agent("pi-01")
    bed.until_round(run, bed.committed(run) + 3)
    bed.stop(run)
    lost = [line for line in bed.events(run, "update") if line["private_lost"]]
    assert [line["agent"] for line in lost] == ["pi-01"]
    assert "private tensors are lost" in bed.log("pi-01")
    assert "agent=pi-01 its private tensors were lost" in bed.log("coordinator")
    assert (
        f"pi-01 lost its private tensors before round {lost[0]['round']}"
        in bed.flctl("runs", "show", run, "--state", bed.state).stdout
    )
    unbroken(bed, run, end="stopped", own_faults={"pi-01": 1})


def test_anybody_is_killed(bed: Bed, row: Result, chance: Random, unbroken: Callable[..., None]):
    """Twelve times, at random moments: nothing is lost, and nothing private is with the
    coordinator."""
    row.fault, row.times = "kill -9 of anybody, with private tensors", 12
    bed.start_all()
    run = bed.begin(100_000, **SETTINGS)
    faults = dict.fromkeys(bed.agents, 0)
    for _ in range(row.times):
        bed.until_round(run, bed.committed(run) + 1)
        victim = chance.choice(["coordinator", *bed.agents])
        bed.kill(victim)
        if victim == "coordinator":
            bed.start_coordinator()
        else:
            faults[victim] += 1
            bed.start_agent(victim)
    bed.until_round(run, bed.committed(run) + 2)
    bed.stop(run)
    assert not any(line["private_lost"] for line in bed.events(run, "update"))
    kept = [path for name in bed.agents
            for path in (bed.folder / name / "own").rglob("*.safetensors")]  # fmt: skip
    secrets = {path.read_bytes()[-400:] for path in kept}
    assert len(secrets) > 2
    for path in bed.state.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert not any(secret in data for secret in secrets), path
    unbroken(bed, run, end="stopped", own_faults=faults)
