"""The public face: what a program of a user's own needs, and no more."""

import ast
import signal
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from real_fleet import RealFleet
from real_fleet import flctl as command

import flctl
from flctl.coordinator.store.folder import RunFolder

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "from_python.py"
QUICK: dict[str, Any] = {"task": "ecg", "virtual": 2, "federate_after_n_batches": 1}


def python(code: str, folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", *args, "-c", code] if code else [sys.executable, "-P", *args]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


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


INTERRUPTED = """
import os, signal, time, flctl
signal.signal(signal.SIGINT, signal.default_int_handler)
run = flctl.train(task="ecg", {kind}=2, rounds=500, federate_after_n_batches=1, state="state")
try:
    for done in run:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
except KeyboardInterrupt:
    print(run.name, run.ended, len([done.round for done in run]) == len(list(run)) > 0)
    raise
"""


@pytest.mark.parametrize("kind", ["virtual", "local"])
def test_ctrl_c_stops_a_run_on_this_machine(kind: str, tmp_path: Path):
    """Also in the body of the loop: the journal says so, and nothing is left of it."""
    done = python(INTERRUPTED.format(kind=kind), tmp_path)
    name, ended, whole = done.stdout.split()
    assert (done.returncode, ended, whole) == (-signal.SIGINT, "stopped", "True"), done.stderr
    folder = RunFolder.find(tmp_path / "state", name)
    assert folder.history().state == "stopped" and not folder.driven


def test_a_script_that_ends_early_stops_its_run(tmp_path: Path):
    """The agents of a local run end with it."""
    done = python(
        "import flctl\n"
        "run = flctl.train(task='ecg', local=2, federate_after_n_batches=1, rounds=99, state='s')\n"
        "print(next(iter(run)).round, run.name)",
        tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert RunFolder.find(tmp_path / "s", done.stdout.split()[1]).history().state == "stopped"


def test_local_agents_train_as_virtual_ones_do(tmp_path: Path):
    """The same bytes, over real sockets."""
    quick = {"task": "ecg", "rounds": 1, "federate_after_n_batches": 1}
    runs = [
        flctl.train(**quick, **kind, state=tmp_path).wait()
        for kind in ({"local": 2}, {"virtual": 2})
    ]
    models = [RunFolder.find(tmp_path, run.name).history().model_of(1) for run in runs]
    assert models[0] == models[1]


def test_a_fleet_is_trained_from_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """By its address and a key; a coordinator that was connected before is known by its key."""
    (tmp_path / "fleet").mkdir()
    fleet = RealFleet(tmp_path / "fleet")
    try:
        fleet.start_coordinator()
        for name in ("pi-01", "pi-02"):
            fleet.start_agent(name, token=fleet.token())
        monkeypatch.setenv("FLCTL_STATE", str(tmp_path / "laptop"))
        key = tmp_path / "my.key"
        public = command("keys", "new", key).stdout.split()[-1]
        command("keys", "add", "--state", fleet.state, "me", public, "--role", "admin")
        fleet.until_ready("pi-01", "pi-02")
        address = fleet.address.removeprefix("tcp://")
        with pytest.raises(flctl.FlctlError, match="server_key=…, which the coordinator prints"):
            flctl.connect(address, key=key)
        with flctl.connect(address, key=key, state=fleet.state) as beside:
            assert len(beside.status()["agents"]) == 2
            for wrong, says in (
                (lambda: beside.start(task="ecg", rounds=object()), "rounds: must be a whole"),
                (lambda: beside.log("pi-01", since_s="2h"), "'logs': since_s: must be a number"),
                (lambda: beside.label("pi-01", "a=b"), "label: changes: 'a=b': pass a dict"),
                (lambda: beside.run(5), "'run': run: must be text in quotation marks, not a"),
            ):
                with pytest.raises(flctl.FlctlError, match=says):
                    wrong()
        with flctl.connect(address, key=key, server_key=fleet.server_key) as there:
            run = there.start(task="ecg", rounds=2, federate_after_n_batches=1)
            assert [next(iter(run)).round for _ in range(2)] == [1, 1]  # it is taken up again
            assert [done.round for done in run] == [1, 2] == [done.round for done in run]
            assert run.ended == "finished" and run.model(1).training is False
            assert there.runs()[0]["run"] == run.name
        own = ("--state", tmp_path / "laptop", "--key", key)
        done = command("connect", address, f"--server-key={fleet.server_key}", *own)
        assert done.returncode == 0, done.stderr
        with flctl.connect(address, key=key) as there, flctl.connect() as saved:
            again = flctl.train(task="ecg", fleet=there, rounds=300, federate_after_n_batches=1)
            next(iter(again))
            again.pause()
            with pytest.raises(flctl.FlctlError, match="paused by an operator"):
                again.wait()
            again.resume()
            assert (again.ended, next(iter(again)).round) == ("", 1)
            again.stop()
            assert [again.wait().ended, saved.run(again.name).wait().ended] == ["stopped"] * 2
    finally:
        fleet.close()


class Shell:
    kernel = None


def test_a_notebook_shows_the_run_in_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A picture that is updated as the run goes on; the last one has all rounds."""
    pictures: list[str] = []

    def display(picture: str, display_id: bool) -> Any:
        assert display_id
        return types.SimpleNamespace(update=pictures.append)

    package = types.SimpleNamespace(get_ipython=Shell)
    monkeypatch.setitem(sys.modules, "IPython", package)
    module = types.SimpleNamespace(HTML=str, display=display)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    run = flctl.train(**QUICK, rounds=2, state=tmp_path).wait()
    assert pictures[-1].startswith("<pre") and run.name in pictures[-1]
    assert "round 2/2" in pictures[-1] and "\x1b" not in pictures[-1]


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


class NoTask:
    pass


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"task": 3, "virtual": 2}, "task: 3: pass its name or its class"),
        ({"task": NoTask(), "virtual": 2}, "task: <.*NoTask object .*: pass its name or its class"),
        ({"task": "nope", "virtual": 2}, "unknown task 'nope'"),
        ({"task": "ecg", "fleet": "SERVER:7700"}, "fleet: 'SERVER:7700': pass what flctl.connect"),
        ({"task": "ecg", "virtual": 2, "state": 5}, "state: 5: pass the path of a folder"),
        ({"task": "ecg", "virtual": 2, "strategy": "krum"}, "krum needs 5 agents"),
        ({"task": "ecg", "virtual": 2, "resume": "run"}, "resume: use flctl train --resume"),
        ({"task": "ecg"}, "say where to train: exactly one"),
    ],
)
def test_a_wrong_argument_is_one_line_at_once(given: dict[str, Any], says: str):
    with pytest.raises(flctl.FlctlError, match=says):
        flctl.train(**given)


def test_an_error_that_a_script_did_not_ask_for_is_shown_at_its_end(tmp_path: Path):
    done = python(
        "import flctl; flctl.train(task='ecg', virtual=2, data='/nope', state='state')", tmp_path
    )
    assert done.stderr == "flctl.train: data /nope: no such file or folder\n"
