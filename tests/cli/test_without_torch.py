"""flctl as it is installed without the extra `train`: torch cannot be imported."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_fleet import FLCTL, QUIET, RealFleet, flctl

SHIMS = str(Path(__file__).resolve().parents[1] / "shims")
WITHOUT = {"PYTHONPATH": SHIMS, "FLCTL_WITHOUT": "torch"}
EXTRA = "pip install 'flctl[train]'"


@pytest.fixture
def operator(tmp_path: Path):
    """Runs a command line of an operator on another machine."""
    environment = {**QUIET, **WITHOUT, "FLCTL_STATE": str(tmp_path / "laptop")}

    def call(*args: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*FLCTL, *map(str, args)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return call


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[RealFleet]:
    (tmp_path / "fleet").mkdir()
    fleet = RealFleet(tmp_path / "fleet")
    yield fleet
    fleet.close()


def connect(operator, fleet: RealFleet, folder: Path) -> None:
    public = operator("keys", "new", folder / "my.key").stdout.split()[-1]
    done = flctl("keys", "add", "--state", fleet.state, "me", public, "--role", "admin")
    assert done.returncode == 0, done.stderr
    address = fleet.address.removeprefix("tcp://")
    done = operator(
        "connect", address, f"--server-key={fleet.server_key}", "--key", folder / "my.key"
    )
    assert done.returncode == 0, done.stderr


def test_a_far_fleet_is_steered_and_trained(operator, fleet: RealFleet, tmp_path: Path):
    """Every command that steers; the run's checkpoint, figures and picture come home too."""
    fleet.start_coordinator()
    for name in ("pi-01", "pi-02"):
        fleet.start_agent(name, token=fleet.token())
    fleet.until_ready("pi-01", "pi-02")
    connect(operator, fleet, tmp_path)

    saved = tmp_path / "model.safetensors"
    done = operator("train", "--task", "ecg", "--rounds", 1, "--save-model", saved, "--json")
    assert done.returncode == 0, done.stderr
    assert saved.stat().st_size > 1000
    run = json.loads(operator("runs", "list", "--json").stdout)[0]["run"]
    for command in (
        ("status",), ("status", "--json"), ("keys", "list"), ("keys", "tokens"), ("audit",),
        ("cordon", "pi-01"), ("uncordon", "pi-01"), ("runs", "show", run), ("runs", "verify", run),
        ("runs", "export", run, "--format", "safetensors", "--out", "again.safetensors"),
        ("runs", "export", run, "--format", "csv"), ("runs", "plot", run, "--out", "run.png"),
        ("tasks", "list", "--help"), ("discover",), ("data", "describe", fleet.data),
        ("data", "split", fleet.data, "--agents", 2, "--out", "shares"),
    ):  # fmt: skip
        done = operator(*command)
        assert (done.returncode, done.stderr) == (0, ""), command
    for command in (
        ("runs", "export", run, "--format", "pt"), ("evaluate", saved), ("runs", "replay", run),
        ("train", "--task", "ecg", "--local", 2), ("train", "--task", "ecg", "--virtual", 2),
        ("predict", saved, fleet.data), ("tasks", "check", "ecg"),
    ):  # fmt: skip
        done = operator(*command)
        assert done.returncode == 2, command
        assert done.stderr.count("\n") == 1, command
        assert EXTRA in done.stderr, command


def test_a_coordinator_without_torch_answers_and_says_why_no_run_begins(
    operator, fleet: RealFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """It greets, enrols and reports; a run is refused in one line that names machine and extra."""
    for key, value in WITHOUT.items():
        monkeypatch.setitem(QUIET, key, value)
    fleet.start_coordinator()
    assert EXTRA in fleet.log("coordinator")
    connect(operator, fleet, tmp_path)
    assert operator("status").returncode == 0
    fleet.token()  # an agent could join
    done = operator("train", "--task", "ecg", "--rounds", 1)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"the worker on {os.uname().nodename} needs torch: {EXTRA}" in done.stderr


def test_an_agent_refuses_before_it_uses_its_token(operator, tmp_path: Path):
    token = tmp_path / "token"
    token.write_text("something")
    done = operator(
        "agent", "--coordinator", "127.0.0.1:1", "--server-key", "x" * 40, "--join-token-file",
        token, "--state", tmp_path / "agent",
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"an agent needs torch: {EXTRA}" in done.stderr
    assert not (tmp_path / "agent").exists()
