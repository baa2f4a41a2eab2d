"""An admin who asks one device for single examples, over real processes."""

from collections.abc import Generator
from pathlib import Path

import pytest
from real_fleet import RealFleet, flctl, json_lines


@pytest.fixture
def fleet(tmp_path: Path) -> Generator[RealFleet, None, None]:
    made = RealFleet(tmp_path)
    yield made
    made.close()


def test_one_batch_of_one_is_refused_and_a_permitted_size_trains(fleet: RealFleet) -> None:
    """One line in the agent's log, in the run and in the status; then a run of batches of 16."""
    fleet.start_coordinator()
    fleet.start_agent("pi-11", token=fleet.token())
    fleet.until_ready("pi-11")
    single = ("--federate-after-n-batches", 1, "--optimizer", "SGD", "--rounds", 1)
    done = fleet.train("--batch-size", 1, *single)
    assert done.returncode == 1
    why = "batches of 1 are below --min-batch-size 8"
    assert f"pi-11: its owner does not allow it: {why}" in done.stdout
    assert len([line for line in fleet.log("pi-11").splitlines() if why in line]) == 1
    assert why in fleet.status()["pi-11"]["note"]
    wide = flctl("status", "--wide", "--state", fleet.state).stdout
    assert "1024 MiB" in wide and "max rounds per hour" in wide

    # What the order does not show: of 51 examples in batches of 44 the last batch has 7.
    done = fleet.train("--batch-size", 44, "--epochs", 1, "--rounds", 1)
    assert done.returncode == 0, done.stderr
    journals = [path.read_text() for path in fleet.state.glob("runs/*/journal.jsonl")]
    (part,) = [e for text in journals for e in json_lines(text) if e["event"] == "update"]
    assert (part["examples"], part["batches"], part["left_out"]) == (44, 1, 7)

    done = fleet.train("--batch-size", 16, *single)
    assert done.returncode == 0, done.stderr
