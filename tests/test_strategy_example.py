"""What lies in examples/, used as its reader would."""

import json
import subprocess
from pathlib import Path

import pytest
from real_fleet import FLCTL, QUIET

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture
def with_strategy(tmp_path: Path) -> dict[str, str]:
    """An environment in which the example's package is installed."""
    about = tmp_path / "flctl_winsorised_mean-0.1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: flctl-winsorised-mean\nVersion: 0.1.0\n"
    )
    text = (EXAMPLES / "winsorised_mean" / "pyproject.toml").read_text()
    entry = next(line for line in text.splitlines() if "WinsorisedMean" in line)
    (about / "entry_points.txt").write_text(f"[flctl.strategies]\n{entry.replace(chr(34), '')}\n")
    return {**QUIET, "PYTHONPATH": f"{tmp_path}:{EXAMPLES / 'winsorised_mean'}"}


def test_a_strategy_from_outside_is_one_file_and_an_entry_point(
    tmp_path: Path, with_strategy: dict[str, str]
):
    command = [*FLCTL, "train", "--task", "ecg", "--virtual", "5", "--rounds", "1", "--json",
               "--federate-after-n-batches", "1", "--state", str(tmp_path / "state"),
               "--strategy", "winsorised-mean"]  # fmt: skip
    done = subprocess.run(
        command, env=with_strategy, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["event"] == "finished"
    wrong = subprocess.run(
        [*command, "--strategy-args", "share=0.7"],
        env=with_strategy, capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert wrong.returncode == 2
    assert "strategy_args of winsorised-mean: share: expected `float` < 0.5" in wrong.stderr
    listed = subprocess.run(
        [*FLCTL, "train", "--help"], env=with_strategy, capture_output=True, text=True, check=False
    )
    assert "trimmed-mean,winsorised-mean." in "".join(listed.stdout.split())  # wrapped at a hyphen
