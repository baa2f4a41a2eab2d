"""The public face: what a program of a user's own needs, and no more."""

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import flctl

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "from_python.py"
QUICK: dict[str, Any] = {"task": "ecg", "virtual": 2, "federate_after_n_batches": 1}


def python(code: str, folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", *args, "-c", code] if code else [sys.executable, "-P", *args]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=100, check=False
    )


def test_the_example_uses_the_public_names_only():
    """It imports flctl and nothing of it, and takes from it only what `__all__` lists."""
    tree = ast.parse(EXAMPLE.read_text())
    imported = [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
    assert imported == ["flctl"]
    assert not [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    used = {
        n.attr for n in ast.walk(tree)
        if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == "flctl"
    }  # fmt: skip
    assert used and used <= set(flctl.__all__)


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    done = python("", tmp_path, str(EXAMPLE))
    assert done.returncode == 0, done.stderr
    first, second, last = done.stdout.splitlines()
    assert first.startswith("round 1: macro-F1 0.") and second.endswith("4 clients")
    assert "finished" in last and (tmp_path / "flctl" / "runs").is_dir()


def test_importing_it_loads_nothing_heavy(tmp_path: Path):
    """Neither torch nor the network; every public name is there, and in the stub."""
    done = python(
        "import sys, flctl; assert not {'torch', 'zmq', 'numpy', 'msgspec'} & set(sys.modules)",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    for name in flctl.__all__:
        assert getattr(flctl, name).__doc__
    stub = Path(flctl.__file__).with_suffix(".pyi").read_text()
    assert sorted(flctl.__all__) == sorted(
        n.asname for s in ast.parse(stub).body if isinstance(s, ast.ImportFrom) for n in s.names
        if n.asname
    )  # fmt: skip
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = flctl.trian


def test_a_run_is_iterated_for_its_rounds(tmp_path: Path):
    """As often as wanted; its models are torch modules."""
    run = flctl.train(**QUICK, rounds=2, state=tmp_path)
    rounds = list(run)
    assert [done.round for done in rounds] == [1, 2] == [done.round for done in run]
    assert len(rounds[0].agents) == 2
    assert 0 <= rounds[-1].metrics["macro_f1"] <= 1
    assert (run.ended, run.wait()) == ("finished", run)
    first, last = (run.model(which).state_dict() for which in (1, "last"))
    assert first.keys() == last.keys()


def test_a_run_that_is_stopped_can_be_resumed(tmp_path: Path):
    """Its journal says so; nothing of it goes on."""
    run = flctl.train(**QUICK, rounds=500, state=tmp_path)
    for _ in run:
        run.stop()
    assert run.ended == "stopped"
    journal = (tmp_path / "runs" / run.name / "journal.jsonl").read_text()
    assert '"event":"stopped"' in journal.splitlines()[-1]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"task": "ecg", "rounds": 1}, "say where to train"),
        ({"task": "ecg", "virtual": 2, "local": 2}, "local"),
        ({"task": "ecg", "virtual": 2, "round": 1}, "did you mean 'rounds'"),
        ({"task": "no_such_task", "virtual": 2, "rounds": 1}, "no_such_task"),
    ],
)
def test_what_is_wrong_is_one_error(tmp_path: Path, given: dict[str, Any], says: str):
    """At once, or when the run is iterated."""
    with pytest.raises(flctl.FlctlError, match=says):
        flctl.train(**given, state=tmp_path).wait()
