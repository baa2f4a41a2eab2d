"""Where commands look, when a coordinator was connected and this machine has runs and keys too."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flctl.coordinator.store.runs import Found, LocalRuns
from flctl.errors import CoordinatorAway, UsageError
from flctl.files import Lock
from flctl.fleet import connecting
from flctl.fleet.connecting import connect, connect_coordinator
from flctl.fleet.console import RemoteRuns
from flctl.fleet.context import Context, load_context, save_context
from flctl.transport.addresses import LOCK
from flctl.transport.keypair import KeyPair

TRAIN = ("train", "--task", "ecg", "--virtual", 2, "--rounds", 1, "--federate-after-n-batches", 1)


class Far:
    """The console of a coordinator elsewhere, which remembers what it was asked."""

    where, here = "server:7700", False

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __enter__(self) -> "Far":
        return self

    def __exit__(self, *_: object) -> None: ...

    def __getattr__(self, name: str) -> Any:
        def ask(*args: Any, **_: Any) -> Any:
            self.asked.append(name)
            if name in ("about", "run", "stop", "resume", "start", "journal"):
                raise CoordinatorAway(f"server:7700 was asked for {name} {args[:1]}")
            keys = {"server_key": "k", "keys": [], "waiting": []}
            return {"keys": keys, "look": Found([], [])}.get(name)

        return ask


@pytest.fixture
def connected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Far]:
    pair = KeyPair.make()
    context = Context(coordinator=Far.where, server_key=pair.public, public_key=pair.public,
                      secret_key=pair.secret)  # fmt: skip
    save_context(tmp_path / "state", context)
    save_context(tmp_path / "state", context, "ward")
    far = Far()
    monkeypatch.setattr(connecting, "remote", lambda *_: far)
    return far


@pytest.fixture
def run(flctl, beats, tmp_path: Path) -> str:
    """A run of this machine, which has keys too."""
    done = flctl(*TRAIN, "--data", beats())
    assert done.code == 0, done.err
    (path,) = (tmp_path / "state" / "runs").iterdir()
    (tmp_path / "state" / "keys").mkdir()
    return path.name


def test_what_is_connected_is_asked_by_every_command(run, connected, flctl, tmp_path):
    """Also when this machine has runs and keys: stderr names those, and how to see them."""
    for command, beside in (("runs", "runs"), ("keys", "keys")):
        done = flctl(command, "list")
        assert (done.code, connected.asked) == (0, ["look" if command == "runs" else command])
        folder = tmp_path / "state" / beside
        assert (
            f"about the coordinator at server:7700; --context local is about {folder}" in done.err
        )
        connected.asked.clear()
    for command in (("show", "ecg-9"), ("stop", "ecg-9"), ("plot", "ecg-9"), ("verify", "ecg-9"),
                    ("export", "ecg-9", "--format", "csv")):  # fmt: skip
        assert "server:7700 was asked for" in flctl("runs", *command).err
    for command in (("--task", "ecg"), ("--resume", "ecg-9")):
        assert "server:7700 was asked for" in flctl("train", *command).err


def test_a_run_of_this_machine_is_found_by_its_name(run, connected, flctl):
    """So that what `train --local` has suggested works."""
    last = run.rsplit("-", 1)[1]
    for command in (
        ("show", run),
        ("show", last),
        ("export", run, "--format", "csv", "--out", "-"),
    ):
        done = flctl("runs", *command)
        assert (done.code, done.err) == (0, "")
    assert "is not in progress" in flctl("runs", "stop", run).complaint
    assert "nothing to resume" in flctl("train", "--resume", run).complaint
    assert connected.asked == []


def test_a_named_context_is_meant(run, connected, flctl, tmp_path):
    """A far one also for a run that is here too; `local` is none, and nobody may be called so."""
    assert "asked for" in flctl("runs", "show", run, "--context", "ward").err
    assert "asked for" in flctl("train", "--resume", run, "--context", "ward").err
    connected.asked.clear()
    done = flctl("runs", "list", "--context", "local")
    assert (done.code, done.err, run in done.out) == (0, "", True)
    assert flctl("keys", "list", "--context", "local").code == 0
    assert connected.asked == []
    context = load_context(tmp_path / "state")
    assert context is not None
    with pytest.raises(UsageError, match="this name means this machine"):
        save_context(tmp_path / "state", context, "local")


def test_a_coordinator_on_this_machine_goes_first(connected, tmp_path):
    """Its folder has the context of another one; without both the folder is all there is."""
    state = tmp_path / "state"
    assert connect(state) is connected
    lock = Lock(state / LOCK, "held")
    try:
        for context in (None, "local"):
            with connect(state, context) as there:
                assert isinstance(there, RemoteRuns) and there.here
        assert connect(state, "ward") is connected
    finally:
        lock.release()
    for found in (connect(state, "local"), connect(tmp_path / "other")):
        assert isinstance(found, LocalRuns) and found.here
    with pytest.raises(CoordinatorAway, match="no coordinator runs on"):
        connect_coordinator(state, "local")


def test_contexts_are_listed_chosen_and_removed(flctl, connected, tmp_path):
    """One that was chosen is asked by every command without --context."""
    state = tmp_path / "state"
    listed = json.loads(flctl("context", "list", "--json").out)
    assert [(row["name"], row["current"]) for row in listed] == [("default", True), ("ward", False)]
    assert listed[0]["coordinator"] == Far.where and listed[0]["server_key"].startswith("flk_")
    assert flctl("context", "use", "ward").code == 0
    (state / "contexts" / "default.json").unlink()
    assert connect(state, None) is connected
    assert flctl("context", "rm", "ward").code == 0
    assert isinstance(connect(state, None), LocalRuns)
    assert "no context is saved" in flctl("context", "list").out


def test_a_damaged_context_is_listed_and_can_be_removed(flctl, connected, tmp_path):
    (tmp_path / "state" / "contexts" / "ward.json").write_text("{")
    assert "damaged" in flctl("context", "list").out
    assert flctl("context", "rm", "ward").code == 0


@pytest.mark.parametrize("command", ["use", "rm"])
@pytest.mark.parametrize("name", ["nowhere", "../default", "local"])
def test_a_context_that_is_not_there(flctl, connected, command, name):
    done = flctl("context", command, name)
    assert done.code == 2 and name in done.complaint
