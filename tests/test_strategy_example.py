"""The strategies in examples/, used as their reader would use them."""

import hashlib
import json
import re
import subprocess
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
from real_fleet import FLCTL, QUIET, RealFleet, flctl

from flctl.coordinator.store.folder import RunFolder

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
PAGE = ROOT / "docs/how-to/own-strategies.md"


def installed(folder: Path, example: str, entries: Mapping[str, str] = {}) -> dict[str, str]:
    """An environment in which the example's package is installed, also as other `entries`."""
    project = tomllib.loads((EXAMPLES / example / "pyproject.toml").read_text())["project"]
    entries = {**project["entry-points"]["flctl.strategies"], **entries}
    about = folder / f"{example}-{project['version']}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = "".join(f"{name} = {value}\n" for name, value in entries.items())
    (about / "entry_points.txt").write_text(f"[flctl.strategies]\n{lines}")
    return {**QUIET, "PYTHONPATH": f"{folder}:{EXAMPLES / example}"}


def run(*arguments: object, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*FLCTL, *map(str, arguments)],
        env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("example", "argument", "refused"),
    [
        ("winsorised_mean", "share=0.1", "share: must be a number < 0.5"),
        ("nesterov", "momentum=0.5", "momentum: must be a number < 1"),
    ],
)
def test_a_strategy_from_outside_is_one_file_and_an_entry_point(
    tmp_path: Path, example: str, argument: str, refused: str
):
    env, name = installed(tmp_path / "site", example), example.replace("_", "-")
    where = ("--state", tmp_path / "state")
    command = (
        "train", "--task", "ecg", "--virtual", 5, "--rounds", 2, "--federate-after-n-batches", 1,
        *where, "--strategy", name, "--strategy-args",
    )  # fmt: skip
    done = run(*command, argument, "--json", env=env)
    assert done.returncode == 0, done.stderr
    end = json.loads(done.stdout.splitlines()[-1])
    assert end["event"] == "finished"
    shown = run("runs", "show", end["run"], *where, env=QUIET)
    assert f"\nstrategy    {name} {argument}\n" in shown.stdout
    wrong = run(*command, f"{argument.partition('=')[0]}=1", env=env)
    assert wrong.returncode == 2
    assert f"strategy_args of {name}: {refused}" in wrong.stderr
    listed = run("train", "--help", env=env)
    assert re.search(rf"\b{name}\b", "".join(listed.stdout.split()))  # wrapped at a hyphen


def test_a_strategy_whose_code_has_changed_is_named(tmp_path: Path):
    """By a replay that gives other bytes, and by a resume, which continues with the new code."""
    env, file = installed(tmp_path / "site", "nesterov"), tmp_path / "code/nesterov.py"
    env["PYTHONPATH"] = f"{tmp_path / 'site'}:{file.parent}"
    file.parent.mkdir()
    code = (EXAMPLES / "nesterov/nesterov.py").read_text()
    broken = code.replace("        v =", "        raise ValueError(1)\n        v =")
    file.write_text(broken)
    where = ("--state", tmp_path / "state")
    command = (
        "train", "--task", "ecg", "--virtual", 2, "--rounds", 1, "--federate-after-n-batches", 1,
        "--strategy", "nesterov", *where, "--json",
    )  # fmt: skip
    paused = json.loads(run(*command, env=env).stdout.splitlines()[-1])
    assert (paused["event"], "ValueError: 1" in paused["reason"]) == ("paused", True)
    file.write_text(code)
    resumed, name = run("train", "--resume", paused["run"], *where, env=env), paused["run"]
    assert resumed.returncode == 0, resumed.stderr
    assert f"the strategy's code has changed since run {name} began: " in resumed.stderr
    history = RunFolder.find(tmp_path / "state", name).history()
    assert not history.reproducible
    assert history.started is not None
    assert history.started.strategy_digest == hashlib.sha256(broken.encode()).hexdigest()

    assert run("runs", "replay", name, *where, env=env).returncode == 0, "it has the same bytes"
    file.write_text(code.replace("return before + change", "return before - change"))
    replayed = run("runs", "replay", name, *where, env=env)
    assert replayed.returncode == 1
    why = "the code of strategy nesterov has changed since; install that of the run's beginning"
    assert f"run {name}: round 1 differs: {why}" in replayed.stderr


def test_a_package_cannot_replace_a_built_in_strategy(tmp_path: Path):
    env = installed(tmp_path / "site", "nesterov", {"fedavg": "nesterov:Nesterov"})
    done = run("train", "--task", "ecg", "--virtual", 2, "--state", tmp_path / "state", env=env)
    assert done.returncode == 2
    words = "strategy 'fedavg' is brought along by flctl and flctl-nesterov: uninstall one of them"
    assert words in done.stderr
    assert "".join(run("train", "-h", env=env).stdout.split()).count("fedavg,") == 1


def test_a_strategy_that_the_coordinator_lacks_is_missing_there(tmp_path: Path):
    fleet = RealFleet(tmp_path)
    try:
        fleet.start_coordinator()
        fleet.token()  # an agent could join
        done = flctl("train", "--task", "ecg", "--strategy", "nesterov", "--state", fleet.state)
    finally:
        fleet.close()
    assert done.returncode == 2
    assert "on the coordinator: unknown strategy 'nesterov'; installed: fedadagrad" in done.stderr


@pytest.mark.parametrize("example", ["winsorised_mean", "nesterov"])
def test_the_page_shows_the_example(example: str):
    code = (EXAMPLES / example / f"{example}.py").read_text()
    assert code.partition('"""\n\n')[2].strip() in PAGE.read_text()
