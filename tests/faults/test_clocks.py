"""Wall clocks that are wrong. Python's time of day is wrong in the processes; nothing of theirs
may depend on it but what people read."""

import time
from collections.abc import Callable

import pytest
from bed import Bed
from real_fleet import wait_for
from table import Result

pytestmark = pytest.mark.timeout(600)

YEAR_S = 365 * 86_400


def wrong(bed: Bed, name: str, seconds: float) -> dict[str, str]:
    """Faults of a process whose clock is off; it may be set again while it runs."""
    path = bed.folder / f"{name}.clock"
    new = path.with_suffix(".new")
    new.write_text(str(seconds))
    new.replace(path)
    return {"clock": str(path)}


def test_a_pi_that_boots_in_1970(bed: Bed, row: Result, unbroken: Callable[..., None]):
    """It joins with a token, which knows no clock of the Pi's, and trains."""
    row.fault = "agent boots in 1970"
    bed.start_coordinator()
    token = bed.folder / "token"
    made = bed.flctl("keys", "token", "--state", bed.state, "--ttl", "5m")
    token.write_text(made.stdout)
    revoked = bed.flctl("keys", "revoke", "pi-01", "--state", bed.state)
    assert revoked.returncode == 0
    (bed.folder / "pi-01" / "agent.key").unlink()
    (bed.folder / "pi-01" / "agent.pub").unlink()
    faults = wrong(bed, "pi-01", 60 - time.time())
    began = time.monotonic()
    bed.start_agent("pi-01", faults, "--join-token-file", token)
    bed.start_agent("pi-02")
    bed.until_ready()
    row.recovered_s = time.monotonic() - began
    assert "1970-01-01" in bed.log("pi-01")
    run = bed.begin(2)
    assert bed.until_over(run) == "finished"
    unbroken(bed, run)


@pytest.mark.parametrize("who", ["pi-01", "coordinator"])
def test_the_clock_jumps_by_a_year_during_a_round(
    bed: Bed, row: Result, unbroken: Callable[..., None], who: str
):
    """Forwards, and in the next round back: no deadline, heartbeat or token takes notice."""
    row.fault, row.times = f"clock of {who} jumps by a year, forwards and back", 2
    bed.start_coordinator(wrong(bed, "coordinator", 0))
    for name in bed.agents:
        bed.start_agent(name, wrong(bed, name, 0))
        bed.pace(name, 0.2)
    bed.until_ready()
    run = bed.begin(3, epochs=8)
    for number, jump in enumerate((YEAR_S, -YEAR_S)):
        bed.until_round(run, number)
        bed.until_training(*bed.agents)
        wrong(bed, who, jump)
        time.sleep(1)  # while it is training
    for name in bed.agents:
        bed.pace(name, 0)
    assert bed.until_over(run) == "finished"
    assert " lost" not in bed.log("coordinator")
    years = {line["at"] // YEAR_S for line in bed.journal(run)}
    assert (len(years) > 1) == (who == "coordinator"), "the clock was never wrong"
    wait_for(lambda: all(s["state"] == "ready" for s in bed.status().values()), "ready", 60)
    unbroken(bed, run)
