"""Labels of agents, and runs that choose by them: whole runs over the in-memory channel."""

import os
from collections.abc import Callable
from typing import Any

import pytest
from memory_fleet import MemoryFleet, sha256
from test_questions import answer

from flctl.coordinator.store.labels import FILE, load_labels, save_labels
from flctl.core.labelling import Labelling
from flctl.errors import StateError, UsageError
from flctl.labels import MOST
from flctl.transport.keypair import KeyPair
from flctl.wire.messages import Answer, Hello, Trouble

WARD = {"site": "ward-3"}


@pytest.fixture
def wards(make_fleet: Callable[..., MemoryFleet]) -> MemoryFleet:
    """Three agents of ward 3 and two of ward 4, by labels that they bring."""
    fleet = make_fleet(())
    for n in range(1, 6):
        fleet.add(f"pi-{n:02}", labels={"site": "ward-3" if n <= 3 else "ward-4"})
    fleet.step(1.0)
    fleet.until(lambda: len(fleet.coordinator.roster.connected()) == 5)
    return fleet


def label(fleet: MemoryFleet, name: str, reset: bool = False, **changes: str | None) -> Any:
    return fleet.coordinator.agents.labels.change(name, changes, reset)


def participants(fleet: MemoryFleet) -> list[list[str]]:
    return [sorted(r.participants) for r in fleet.history().rounds]


def test_a_run_asks_only_agents_with_its_labels(wards: MemoryFleet):
    """The others are neither waited for nor counted by the quorum, though they are enrolled."""
    wards.start_run(where=["site=ward-3"])
    assert wards.finish().state == "finished"
    assert participants(wards) == [["pi-01", "pi-02", "pi-03"]] * 3
    assert wards.agents["pi-04"].trained == wards.agents["pi-05"].trained == []


@pytest.mark.parametrize(
    ("where", "chosen"),
    [(["site!=ward-3"], ["pi-04", "pi-05"]), (["site", "fast"], ["pi-02"]), (["fast!=no"], None)],
)
def test_requirements_are_those_of_the_docs(
    wards: MemoryFleet, where: list[str], chosen: list[str] | None
):
    label(wards, "pi-02", fast="yes")
    wards.start_run(rounds=1, where=where)
    wards.finish()
    assert participants(wards) == [chosen or [f"pi-{n:02}" for n in range(1, 6)]]


def test_labels_that_change_count_from_the_next_draw_on(wards: MemoryFleet):
    """The open round goes on as it was drawn; its record has the names."""
    wards.start_run(rounds=6, where=["site=ward-3"])
    wards.until(lambda: wards.history().round >= 2 and bool(wards.history().opened))
    label(wards, "pi-01", site="ward-4")
    label(wards, "pi-05", site="ward-3")
    opened = wards.history().opened
    assert opened is not None and opened.invited == ("pi-01", "pi-02", "pi-03")
    wards.finish()
    found = participants(wards)
    assert found[opened.round - 1] == ["pi-01", "pi-02", "pi-03"]
    assert found[-1] == ["pi-02", "pi-03", "pi-05"]


def test_a_restarted_coordinator_goes_on_with_the_names_of_the_record(
    make_fleet: Callable[..., MemoryFleet],
):
    """Labels may have changed in the meantime: the round that is open has the same bytes."""
    models = []
    for disturbed in (False, True):
        fleet = make_fleet(())
        for n in range(1, 5):
            fleet.add(f"pi-{n:02}", labels=WARD if n <= 3 else {})
        fleet.step(2.0)
        fleet.start_run(rounds=2, where=["site=ward-3"])
        fleet.until(lambda f=fleet: f.history().round == 1 and bool(f.history().opened))
        if disturbed:
            fleet.kill_coordinator()
            save_labels(fleet.state, Labelling(changed={"pi-01": {"site": "x"}, "pi-04": WARD}))
            fleet.start_coordinator()
        history = fleet.finish()
        assert sorted(history.rounds[-1].participants) == ["pi-01", "pi-02", "pi-03"]
        models.append(history.rounds[-1].model)
    assert models[0] == models[1]


def test_a_run_that_chooses_none_is_refused_with_the_labels_there_are(wards: MemoryFleet):
    with pytest.raises(UsageError) as caught:
        wards.start_run(where=["site=ward-9"])
    assert str(caught.value) == (
        "no agent is chosen by site=ward-9; the labels are site=ward-3, site=ward-4"
    )
    with pytest.raises(UsageError, match=r"a quorum of 4 cannot be met; agents chosen: 3"):
        wards.start_run(where=["site=ward-3"], quorum=4)


def test_a_run_whose_labels_are_taken_away_says_so_and_goes_on_when_they_are_back(
    wards: MemoryFleet,
):
    wards.start_run(rounds=6, where=["site=ward-4"], wait_s=5.0)
    wards.until(lambda: wards.history().round >= 2)
    for name in ("pi-04", "pi-05"):
        label(wards, name, site=None)
    wards.until(lambda: wards.history().state == "paused")
    assert "no agent is chosen by site=ward-4; the labels are site=ward-3" in (
        wards.history().reason or ""
    )
    label(wards, "pi-04", reset=True)
    label(wards, "pi-05", reset=True)
    wards.until(lambda: wards.history().state == "finished")
    assert participants(wards)[-1] == ["pi-04", "pi-05"]


def test_after_a_restart_agents_that_are_away_are_counted_by_the_labels_they_had(
    wards: MemoryFleet,
):
    """Else the first agent that comes back would be all that the run chooses, and its quorum."""
    wards.step(6.0)
    wards.kill_coordinator()
    for name in ("pi-01", "pi-02"):
        wards.agents[name].kill()
    wards.start_coordinator()
    wards.start_run(rounds=1, where=["site=ward-3"], wait_s=600.0)
    wards.step(60.0)
    assert wards.history().round == 0
    for name in ("pi-01", "pi-02"):
        wards.agents[name].start()
    wards.finish()
    assert participants(wards) == [["pi-01", "pi-02", "pi-03"]]


def test_an_operators_labels_survive_and_count_more(wards: MemoryFleet):
    """Over a restart of either side; `reset` gives the agent's own ones back."""
    assert label(wards, "pi-01", site="ward-9", model="pi4") == {"model": "pi4", "site": "ward-9"}
    wards.kill_coordinator()
    wards.start_coordinator()
    wards.agents["pi-01"].kill()
    wards.agents["pi-01"].start()
    wards.until(lambda: "pi-01" in wards.coordinator.roster.members)
    wards.step(5.0)
    shown = wards.status("pi-01")
    assert shown["labels"] == {"model": "pi4", "site": "ward-9"} and shown["own_labels"] == WARD
    assert label(wards, "pi-01", site=None) == {"model": "pi4"}
    assert label(wards, "pi-01", reset=True) == WARD


def test_a_label_that_an_agent_changes_in_its_settings_is_taken_over(wards: MemoryFleet):
    wards.agents["pi-01"].kill()
    wards.agents["pi-01"].labels = {"site": "ward-4", "rack": "b"}
    wards.agents["pi-01"].start()
    wards.until(lambda: "rack" in wards.status("pi-01")["labels"])
    assert wards.status("pi-01")["labels"] == {"rack": "b", "site": "ward-4"}


def test_an_agent_has_only_so_many(wards: MemoryFleet):
    with pytest.raises(UsageError, match=f"pi-01 would have {MOST + 1} labels, at most {MOST}"):
        label(wards, "pi-01", **{f"k{n}": "v" for n in range(MOST)})
    assert wards.status("pi-01")["labels"] == WARD
    many = {f"k{n}": "v" for n in range(MOST)}
    assert len(label(wards, "pi-01", **{**many, "site": None})) == MOST
    for turn in range(3):  # removed and set again, and the file stays one that can be read
        wards.agents["pi-01"].labels = {f"own{turn}-{n}": "v" for n in range(MOST)}
        wards.agents["pi-01"].kill()
        wards.agents["pi-01"].start()
        wards.until(lambda t=turn: f"own{t}-0" in wards.status("pi-01")["own_labels"])
        label(wards, "pi-01", reset=turn == 0, **{f"own{turn}-{n}": None for n in range(MOST)})
        assert load_labels(wards.state).of("pi-01") == wards.status("pi-01")["labels"]


def test_labels_of_a_revoked_agent_are_forgotten(wards: MemoryFleet):
    """Another device that is enrolled under the name later has none of them."""
    label(wards, "pi-01", site="ward-9")
    wards.keyring.revoke("pi-01")
    wards.until(lambda: "pi-01" not in load_labels(wards.state).changed)
    wards.agents.pop("pi-01").kill()
    wards.add("pi-01")
    wards.until(lambda: "pi-01" in wards.coordinator.roster.members)
    assert wards.status("pi-01")["labels"] == {}


def test_a_full_disk_changes_nothing(wards: MemoryFleet, monkeypatch: pytest.MonkeyPatch):
    """What is shown is what will be there after a restart."""

    def full(fd: int) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StateError, match=r"labels.*the disk is full"):
            label(wards, "pi-01", site="ward-9")
    assert wards.status("pi-01")["labels"] == WARD


def test_a_damaged_file_is_an_error_that_names_it(tmp_path):
    save_labels(tmp_path, Labelling({"pi-01": WARD}, {"pi-02": {"a": None}}))
    assert load_labels(tmp_path).of("pi-01") == WARD
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:-9])
    with pytest.raises(StateError, match=r"labels\.json: damaged.*label the agents again"):
        load_labels(tmp_path)


def test_an_agent_cannot_write_to_the_disk_as_often_as_it_likes(wards: MemoryFleet):
    """One that says other labels with every hello costs one small write in some seconds."""
    wards.step(6.0)
    writes = set()
    for n in range(100):
        wards.coordinator.agents.labels.on_hello("pi-01", {"n": str(n)})
        wards.step()
        writes.add(sha256(wards.state / FILE))
    assert len(writes) <= 4  # in ten seconds


@pytest.mark.parametrize(
    "labels",
    [{"a b": "c"}, {"a": ""}, {"a": "\x1b[31m"}, {"a": "x" * 64}, {f"k{n}": "v" for n in range(17)},
     {"a": 3}, ["a"]],
)  # fmt: skip
def test_labels_that_are_none_are_refused_when_an_agent_says_them(labels: Any):
    """As any malformed message: nothing of it is believed."""
    import msgspec

    from flctl.errors import MalformedMessage
    from flctl.wire import framing

    hello = {
        "type": "hello", "session": "a" * 32, "version": "1", "role": "train", "tasks": {},
        "device": {"kind": "x", "arch": "y", "cores": 1, "memory_bytes": 1},
    }  # fmt: skip
    head = framing.MAGIC + bytes([framing.PROTOCOL])
    _, message, _ = framing.to_coordinator()([head, msgspec.msgpack.encode(hello)])
    assert isinstance(message, Hello) and message.labels == {}
    with pytest.raises(MalformedMessage):
        framing.to_coordinator()([head, msgspec.msgpack.encode({**hello, "labels": labels})])


def test_only_an_admin_labels_and_only_enrolled_agents(wards: MemoryFleet):
    reader, boss = KeyPair.make().public, KeyPair.make().public
    wards.keyring.add("ana", reader, "read")
    wards.keyring.add("boss", boss, "admin")
    said = answer(wards, "label", reader, name="pi-01", labels={"a": "b"})
    assert isinstance(said, Trouble) and "needs an admin key" in said.message
    said = answer(wards, "label", boss, name="pi-99", labels={"a": "b"})
    assert isinstance(said, Trouble) and "no agent is enrolled as pi-99" in said.message
    said = answer(wards, "label", boss, name="pi-01", labels={"a": "b c"})
    assert isinstance(said, Trouble) and "'label': " in said.message
    said = answer(wards, "label", boss, name="pi-01", labels={"a": "b"})
    assert isinstance(said, Answer) and said.body == {"labels": {"a": "b", **WARD}}
