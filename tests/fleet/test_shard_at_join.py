"""Agents that share one data set: the coordinator deals it when they join."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from real_fleet import RealFleet, beats, flctl, wait_for


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[RealFleet]:
    fleet = RealFleet(tmp_path)
    try:
        fleet.start_coordinator()
        yield fleet
    finally:
        fleet.close()


def dealt(fleet: RealFleet) -> dict[str, int]:
    """How many examples each agent says it has."""
    return {name: agent["examples"] for name, agent in fleet.status().items()}


def test_each_agent_has_its_own_part_whatever_is_restarted(fleet, tmp_path):
    """Three records of 20, 40 and 60 beats: whose part it is shows in the count."""
    data = beats(tmp_path / "shared.npz", [1, 2, 2, 3, 3, 3], each=20)
    token = fleet.token("--ttl", "10m", "--uses", 4, "--shards", 3, "--partition", "record")

    def start(name: str, token: str | None = None) -> None:
        (tmp_path / f"{name}.npz").unlink(missing_ok=True)
        (tmp_path / f"{name}.npz").hardlink_to(data)
        fleet.start_agent(name, "--shard", "auto", token=token)

    for name in ("pi-01", "pi-02", "pi-03"):
        start(name, token)
        fleet.until_ready(name)
    first = dealt(fleet)
    assert sorted(first.values()) == [13, 26, 39]
    listed = flctl("keys", "list", "--state", fleet.state).stdout
    assert "1/3 record" in listed

    # All are killed. The agents come back without a token, in another order.
    for name in ("coordinator", *first):
        fleet.kill(name)
    fleet.start_coordinator()
    for name in sorted(first, reverse=True):
        start(name)
    fleet.until_ready(*first)
    assert dealt(fleet) == first

    # A fourth waits until one is gone for good, and is seen.
    start("pi-04", token)
    wait_for(lambda: "all 3 shards are assigned" in fleet.log("pi-04"), "the refusal")
    shown = flctl("status", "--state", fleet.state).stdout
    assert "all 3 shards are assigned, and 1 more wait" in " ".join(shown.split())
    fleet.kill("pi-02")
    revoked = flctl("keys", "revoke", "pi-02", "--state", fleet.state)
    assert "also closed: token" in revoked.stdout  # pi-02 may hold it still
    # It reads the new token where the old one stood.
    (fleet.folder / "pi-04.token").write_text(fleet.token("--shards", 3, "--partition", "record"))
    fleet.until_ready("pi-04")
    assert dealt(fleet)["pi-04"] == first["pi-02"]
