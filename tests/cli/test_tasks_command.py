"""`flctl tasks` and users' own tasks on the command line, with the example of `examples/`."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flctl.agent.state import AgentState
from flctl.coordinator.front.views import agent_status
from flctl.core.roster import Member
from flctl.errors import TaskError
from flctl.learning.registry import check_ref, installed_tasks, task_digest
from flctl.terminal.output import terminal
from flctl.terminal.status import picture
from flctl.wire.messages import DatasetInfo, Device, Hello

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "machines"
MACHINES = "flctl_machines.task:Machines"
OWN = """
import torch
from torch import nn
from flctl.learning.classification import Classification
from flctl.learning.examples import Examples

class Own(Classification):
    name = "own"
    classes = ("a", "b")
    defaults = {"batch_size": 8}
    def model(self):
        return nn.Linear(4, 2)
    def train_data(self, path):
        return Examples(torch.ones(32, 4), torch.arange(32) % 2, classes=2)
    def held_out(self, path):
        return Examples(torch.zeros(8, 4), torch.arange(8) % 2, classes=2)
"""


@pytest.fixture
def example(monkeypatch):
    """The example can be imported, but is not installed."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    yield MACHINES
    for name in [name for name in sys.modules if name.startswith("flctl_machines")]:
        del sys.modules[name]


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Writes `own_task_told.py` with `more` at the end of its class, into the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(more=""):
        sys.modules.pop("own_task_told", None)
        (tmp_path / "own_task_told.py").write_text(f"{OWN}    {more}\n")
        return "own_task_told:Own"

    yield write
    sys.modules.pop("own_task_told", None)


def installed(folder, name, entry, version="1.0"):
    """What pip leaves of a package that brings along a task."""
    about = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (about / "entry_points.txt").write_text(f"[flctl.tasks]\n{entry}\n")


def test_the_example_is_fit_for_a_fleet(flctl, example):
    """Every check is one line that says ok; the last line is the verdict."""
    done = flctl("tasks", "check", example)
    assert (done.code, done.err) == (0, "")
    *checks, verdict = done.out.splitlines()
    assert {line[12:].split()[0] for line in checks} == {"ok"}, done.out
    assert "sends 788 bytes a round: 4 tensors, F32" in done.out
    assert verdict == f"task '{example}' is fit for a fleet"


def test_check_tells_programs_all_of_it(flctl, example, tmp_path):
    """--json: the digest, and what each check has found; a problem is exit code 1."""
    found = json.loads(flctl("tasks", "check", example, "--json").out)
    assert found["ok"] and found["digest"] == task_digest(example)
    checks = {check["check"]: check for check in found["checks"]}
    assert checks["data"]["figures"]["records"] == 8
    assert checks["state"]["figures"]["bytes_per_round"] == 788
    bad = tmp_path / "bad.csv"
    bad.write_text("machine,part\nm01,train\n")
    done = flctl("tasks", "check", example, "--data", bad, "--json")
    assert done.code == 1
    assert done.complaint == f"task '{example}': not fit for a fleet yet: data"
    found = json.loads(done.out)
    (problem,) = [check for check in found["checks"] if check["verdict"] == "problem"]
    assert not found["ok"]
    assert problem["text"].startswith(f"task 'machines', train_data: {bad}: not a file of readings")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("check", "machnes"), "unknown task 'machnes'"),
        (("check", "no_such:Task"), "there is no module 'no_such'"),
        (("check", "ecg", "--data", "/none"), "--data /none: no such file"),
        (("check", "ecg", "--data", ""), "it is empty"),
        (("check",), "Missing argument 'TASK'"),
    ],
)
def test_wrong_usage(flctl, args, words):
    """Exit code 2 and one line."""
    done = flctl("tasks", *args)
    assert (done.code, done.out) == (2, "")
    assert words in done.complaint


def test_what_a_task_prints_does_not_stand_in_the_result(flctl, own):
    """It goes to stderr, so that --json stays JSON."""
    ref = own("def model(self):\n        print('hello')\n        return None")
    done = flctl("tasks", "check", ref, "--json")
    assert json.loads(done.out)["checks"][2]["verdict"] == "problem"
    assert "hello" in done.err


def test_a_traceback_is_shown_when_it_is_asked_for(flctl, own):
    """With --verbose the user sees where in the own code it was; else never."""
    ref = own("def model(self):\n        return {}['layers']")
    for command in (("tasks", "check", ref), ("train", "--task", ref, "--virtual", 2)):
        plain, verbose = flctl(*command), flctl(*command, "--verbose")
        assert (plain.code, verbose.code) == (1, 1)
        assert "Traceback" not in plain.err + plain.out
        assert "return {}['layers']" in verbose.err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("def train_data(self, path):\n        return 1 / 0", "train_data: ZeroDivisionError"),
        ("def train_data(self, path):\n        pass", "train_data: returns None"),
        ("def model(self):\n        pass", "model: returns None"),
        ("def model(self):\n        return nn.Linear(3, 2)", "the model's forward: RuntimeError"),
        ("def model(self):\n        return nn.Linear(4, 3)", "forward: returns a tensor of shape"),
        ("def loss(self, o, t):\n        return 1.0", "loss: returns an object of type float"),
        ("def inputs(self, x, *, training):\n        pass", "inputs: returns None"),
        ("def held_out(self, path):\n        raise KeyError(1)", "held_out: KeyError: 1"),
        (
            "def loss(self, o, t):\n        return o.sum() * float('nan')",
            "agent pi-01, round 1, step 1 of 2: the loss is nan",
        ),
    ],
)
def test_a_broken_task_ends_a_run_with_one_line(flctl, own, more, words):
    """It names the task, the method and the reason."""
    done = flctl("train", "--task", own(more), "--virtual", 2, "--rounds", 1)
    assert done.code == 1
    assert "Traceback" not in done.err + done.out
    assert "task 'own', " in done.complaint and words in done.complaint


def test_list_names_every_installed_task(flctl, tmp_path, monkeypatch, example):
    """Where it is from, its digest, whether it is enabled; a broken one with the reason."""
    (tmp_path / "broken_task.py").write_text("import no_such_package\n")
    installed(tmp_path, "flctl-machines", f"machines = {example}", "1.2.3")
    installed(tmp_path, "flctl-broken", "broken = broken_task:Broken")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = {task["name"]: task for task in json.loads(flctl("tasks", "list", "--json").out)}
    assert list(found) == ["broken", "ecg", "images", "machines", "mnist", "sensors"]
    machines = found["machines"]
    assert (machines["package"], machines["version"]) == ("flctl-machines", "1.2.3")
    assert machines["digest"] == task_digest(example) and machines["enabled"]
    assert found["broken"]["problem"] == "task 'broken' needs the package 'no_such_package'"
    assert not found["broken"]["enabled"]
    done = flctl("tasks", "list")
    assert (done.code, done.err) == (0, "")
    assert "broken: task 'broken' needs the package 'no_such_package'" in done.out


def test_list_shows_what_the_agent_of_a_folder_has_enabled(flctl, tmp_path):
    """As it was started last; one whose code has changed since is to be started again."""
    state = AgentState(tmp_path / "agent")
    state.save_tasks({"ecg": "0" * 64})
    state.close()
    found = json.loads(flctl("tasks", "list", "--state", state.folder, "--json").out)
    tasks = {task["name"]: task for task in found}
    assert (tasks["ecg"]["enabled"], tasks["mnist"]["enabled"]) == (True, False)
    assert tasks["ecg"]["note"] == "its agent still has 000000000000: start it again"


def test_a_name_of_two_packages_is_refused(tmp_path, monkeypatch):
    """Nobody can take the place of a built-in task unnoticed."""
    installed(tmp_path, "flctl-evil", "ecg = evil:Ecg")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert [t.package for t in installed_tasks() if t.name == "ecg"] == ["flctl", "flctl-evil"]
    with pytest.raises(TaskError, match="brought along by flctl and flctl-evil: uninstall one"):
        check_ref("ecg")


def test_the_readings_of_the_example_are_made_by_its_program(tmp_path):
    """Byte for byte, so that everybody can see how they were invented."""
    shutil.copy(EXAMPLE / "make_readings.py", tmp_path)
    (tmp_path / "flctl_machines").mkdir()
    spec = importlib.util.spec_from_file_location("make_readings", tmp_path / "make_readings.py")
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    program.main()
    made = (tmp_path / "flctl_machines" / "readings.csv").read_bytes()
    assert made == (EXAMPLE / "flctl_machines" / "readings.csv").read_bytes()


def test_the_example_learns(flctl, example, tmp_path):
    """Four virtual clients, each with machines of its own, reach 85 % on later readings."""
    done = flctl("train", "--task", example, "--virtual", 4, "--partition", "record", "--json")
    assert done.code == 0, done.err
    last = json.loads(done.out.splitlines()[-1])
    assert last["metrics"]["values"]["accuracy"] > 0.85


def test_local_agents_of_a_task_that_is_not_installed(tmp_path):
    """module:Class, from the current folder, in all the processes of a local fleet."""
    done = subprocess.run(
        [
            sys.executable, "-m", "flctl", "train", "--task", MACHINES, "--local", "2",
            "--rounds", "1", "--state", str(tmp_path), "--json",
        ],
        cwd=EXAMPLE, env={**os.environ, "NO_COLOR": "1"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["event"] == "finished"


def member(name, **tasks):
    found = Member(name)
    found.hello = Hello(
        session="0" * 32,
        version="1",
        role="train",
        device=Device(kind="Pi", arch="aarch64", cores=4, memory_bytes=1),
        tasks=tasks,
        datasets=(DatasetInfo(name="icu", task="machines", examples=75, held_out=25),),
    )
    found.state = "ready"
    return found


def test_a_long_note_is_whole_in_a_pipe_and_pads_no_other_row(capsys):
    """On a terminal it is cut (test_screens)."""
    one, two = member("pi-01"), member("pi-02")
    one.note = "word " * 100
    head = {"endpoint": "h:1", "version": "1", "uptime_s": 1.0, "run": None}
    agents = [agent_status(one, 0.0), agent_status(two, 0.0)]
    terminal().print(picture({"coordinator": head, "agents": agents, "waiting": []}))
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("pi-")]
    assert rows[0].endswith(one.note.rstrip()) and len(rows[1]) < 120


def test_status_shows_the_digests_of_tasks(capsys):
    """--wide has a row for each agent and task; different code of one task is always told."""
    one, two = member("pi-01", machines="a" * 64, ecg="e" * 64), member("pi-02", machines="b" * 64)
    agents = [agent_status(one, 0.0), agent_status(two, 0.0)]
    assert agents[0]["tasks"] == {"machines": "a" * 64, "ecg": "e" * 64}
    head = {"endpoint": "h:1", "version": "1", "uptime_s": 1.0, "run": None}
    found = {"coordinator": head, "agents": agents, "waiting": []}
    terminal().print(picture(found))
    plain = capsys.readouterr().out
    told = "task machines differs between agents: aaaaaaaaaaaa on pi-01; bbbbbbbbbbbb on pi-02"
    assert told in plain and "eeeeeeeeeeee" not in plain
    terminal().print(picture(found, wide=True))
    wide = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["pi-01", "ecg", "eeeeeeeeeeee", "none", "-", "-", "-"] in wide
    assert ["machines", "aaaaaaaaaaaa", "icu", "75", "0", "25"] in wide
    assert ["pi-02", "machines", "bbbbbbbbbbbb", "icu", "75", "0", "25"] in wide


def test_a_thread_that_a_task_leaves_behind_does_not_keep_the_command_from_ending(own, tmp_path):
    """The verdict is there, and with it the end."""
    ref = own(
        "def collate(self, items):\n"
        "        import threading, time\n"
        "        threading.Thread(target=time.sleep, args=(10_000,)).start()\n"
        "        return super().collate(items)"
    )
    done = subprocess.run(
        [sys.executable, "-m", "flctl", "tasks", "check", ref],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(f"task '{ref}' is fit for a fleet\n")


@pytest.mark.parametrize("words", [("train", "--tensorboard"), ("runs", "export", "x", "--format")])
def test_an_option_without_its_argument_names_the_help_to_read(flctl, words):
    """That of the command, though the parser does not know which it is."""
    command = " ".join(word for word in words[:-1] if word != "x")
    done = flctl(*words)
    assert (done.code, f"(see: flctl {command} --help)" in done.complaint) == (2, True), done.err


def test_a_task_whose_collate_makes_the_inputs_is_fit(own, flctl):
    """What is stored is not what the model takes: only collate knows."""
    ref = own(
        "def collate(self, items):\n"
        "        x, y = super().collate(items)\n"
        "        return x[:, :2].repeat(1, 3), y\n"
        "    def model(self):\n"
        "        return nn.Linear(6, 2)"
    )
    done = flctl("tasks", "check", ref)
    assert done.code == 0, done.out
