"""flctl without what only Linux has (tests/shims/mac.py): nothing here has seen a Mac."""

import json
from pathlib import Path

import pytest
from real_fleet import QUIET, RealFleet, beats, flctl

SHIMS = str(Path(__file__).resolve().parents[1] / "shims")


@pytest.fixture(autouse=True)
def mac(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for key, value in (
        ("PYTHONPATH", SHIMS),
        ("FLCTL_WITHOUT", "linux"),
        ("FLCTL_STATE", str(tmp_path / "s")),
    ):
        monkeypatch.setitem(QUIET, key, value)


def done(*words: object) -> str:
    outcome = flctl(*words)
    assert (outcome.returncode, outcome.stderr) == (0, ""), (words, outcome.stderr)
    return outcome.stdout


def test_the_shim_takes_away():
    """Else the other tests show nothing."""
    import subprocess
    import sys

    code = "import os; assert not hasattr(os, 'pipe2'); open('/proc/self/status')"
    shimmed = subprocess.run(
        [sys.executable, "-c", code], env=QUIET, capture_output=True, text=True, check=False
    )
    assert "FileNotFoundError" in shimmed.stderr


def test_a_simulation_and_what_follows_it(tmp_path: Path):
    """Train, look, repeat, measure, judge, export, all on this machine."""
    model, data = tmp_path / "m.safetensors", beats(tmp_path / "b.npz", [1, 2, 3])
    given = ("train", "--task", "ecg", "--rounds", 1, "--json", "--data", data)
    done(*given, "--virtual", 2, "--save-model", model)
    run = json.loads(done("runs", "list", "--json"))[0]["run"]
    for words in (
        ("runs", "show", run), ("runs", "verify", run), ("runs", "replay", run),
        ("runs", "export", run, "--format", "csv", "--out", tmp_path / "t.csv"),
        ("evaluate", model, "--data", data), ("data", "describe", data),
        ("tasks", "check", "ecg", "--data", data), ("keys", "new", tmp_path / "my.key"),
    ):  # fmt: skip
        done(*words)


def test_a_coordinator_and_its_agents(tmp_path: Path):
    """Processes of their own, a run, health, a stop in order."""
    (tmp_path / "f").mkdir()
    fleet = RealFleet(tmp_path / "f")
    try:
        fleet.start_coordinator()
        for name in ("pi-01", "pi-02"):
            fleet.start_agent(name, token=fleet.token())
        fleet.until_ready("pi-01", "pi-02")
        trained = fleet.train("--rounds", 1)
        assert trained.returncode == 0, trained.stderr
        done("status", "--state", fleet.state)
        for folder, what in ((fleet.state, "coordinator"), (fleet.folder / "pi-01", "agent")):
            assert flctl("health", "--state", folder).returncode == 0, what
        assert "Traceback" not in fleet.log("coordinator") + fleet.log("pi-01")
    finally:
        fleet.close()
    assert {process.returncode for process in fleet.processes.values()} == {0}
