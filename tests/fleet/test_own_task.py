"""A user's own task on a real fleet: installed on each device, asked for by its name."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import real_fleet
from real_fleet import RealFleet, flctl, json_lines

from flctl.learning.registry import task_digest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "machines"


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealFleet]:
    """A coordinator that has the example installed."""
    monkeypatch.setitem(real_fleet.QUIET, "PYTHONPATH", str(install(tmp_path / "site")))
    fleet = RealFleet(tmp_path)
    try:
        fleet.start_coordinator()
        yield fleet
    finally:
        fleet.close()


def install(target: Path) -> Path:
    """`pip install` the example into a folder for PYTHONPATH; no network is needed."""
    subprocess.run(
        [
            sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps",
            "--no-build-isolation", "--disable-pip-version-check", "--target", target, EXAMPLE,
        ],
        check=True,
    )  # fmt: skip
    return target


def test_agents_train_an_own_task_by_its_name(fleet, tmp_path, monkeypatch):
    """Enabled with --task; `status` has its digest; other code of it is told, and not trained."""
    token = fleet.token("--ttl", "10m", "--uses", 2)
    fleet.start_agent("pi-01", "--shard", "1/2", task="machines", token=token)
    changed = install(tmp_path / "changed")
    with (changed / "flctl_machines" / "task.py").open("a") as file:
        file.write("# changed\n")
    monkeypatch.setitem(real_fleet.QUIET, "PYTHONPATH", str(changed))
    fleet.start_agent("pi-02", "--shard", "2/2", task="machines", token=token)
    fleet.until_ready("pi-01", "pi-02")

    monkeypatch.syspath_prepend(str(EXAMPLE))
    digest = task_digest("flctl_machines.task:Machines")
    status = fleet.status()
    assert status["pi-01"]["tasks"] == {"machines": digest}
    assert status["pi-02"]["tasks"]["machines"] not in ("", digest)
    wide = flctl("status", "--state", fleet.state, "--wide").stdout
    assert f"task machines differs between agents: {digest[:12]} on pi-01" in wide

    train = "train", "--state", fleet.state, "--task", "machines", "--rounds", 2, "--json"
    done = flctl(*train, "--agents", "pi-01")
    assert done.returncode == 0, done.stderr
    assert json_lines(done.stdout)[-1]["metrics"]["values"]["accuracy"] > 0.7
    done = flctl(*train, "--agents", "pi-01,pi-02", "--wait", "1s")
    assert done.returncode == 1
    assert "pi-02: its task machines differs from the run's" in done.stdout
