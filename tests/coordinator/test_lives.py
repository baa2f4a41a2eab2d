"""Two coordinators with one server key: an agent that has been with both tells."""

from pathlib import Path

import msgspec
import pytest

from flctl.agent.state import AgentState
from flctl.coordinator.front.lives import FILE, KEPT, Lives
from flctl.coordinator.front.views import agent_status
from flctl.core.roster import Roster
from flctl.transport.gate import Gate
from flctl.wire.messages import Device, Hello, Welcome


def hello(life: str | None, session: str = "a" * 32) -> Hello:
    known = msgspec.json.decode(
        msgspec.json.encode(
            {"kind": "pi", "arch": "aarch64", "cores": 4, "memory_bytes": 1, "torch": None}
        ),
        type=Device,
    )
    return Hello(session=session, version="1", role="train", device=known, tasks={}, life=life)


def lives(state: Path) -> tuple[Lives, Roster]:
    roster = Roster(5.0)
    return Lives(state, roster, Gate()), roster


def note(roster: Roster) -> str | None:
    return agent_status(roster.member("pi-01"), 0.0)["note"]


def test_a_life_of_another_folder_is_named_until_the_agent_starts_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not one of this folder, nor none at all; it is a notice and nothing else."""
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    before, _ = lives(one)
    (two / FILE).write_bytes((one / FILE).read_bytes())  # restored from a backup
    other, _ = lives(two)
    now, roster = lives(one)
    for known in (None, "", before.own, now.own):
        now.on_hello("pi-01", hello(known))
        assert note(roster) is None and not caplog.records
    now.on_hello("pi-01", hello(other.own + "\x1b[2J"))
    assert other.own in (note(roster) or "") and "\x1b" not in (note(roster) or "")
    assert "agent=pi-01 was last with another coordinator" in caplog.text
    now.on_hello("pi-01", hello(now.own))
    assert note(roster)
    now.on_hello("pi-01", hello(now.own, "b" * 32))
    assert note(roster) is None


def test_the_lives_of_a_folder_are_bounded_and_damage_does_not_stop_it(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(msgspec.json.encode([str(n) for n in range(KEPT + 5)]))
    own = lives(tmp_path)[0].own
    kept = msgspec.json.decode((tmp_path / FILE).read_bytes())
    assert len(kept) == KEPT and kept[-1] == own
    (tmp_path / FILE).write_bytes(b"\xff{")
    assert lives(tmp_path)[0].own != own


def test_an_agent_keeps_it_with_the_key_that_its_owner_gave(tmp_path: Path) -> None:
    state = AgentState(tmp_path)
    assert state.life("key") == ""
    state.save_life("key", "host, started")
    assert (state.life("key"), state.life("other")) == ("host, started", "")
    state.close()


def test_an_older_agent_is_sent_no_life() -> None:
    """It would not read a field that it does not know."""
    said = msgspec.json.encode(Welcome(name="pi-01", version="1", heartbeat_s=5.0))
    assert b"life" not in said
