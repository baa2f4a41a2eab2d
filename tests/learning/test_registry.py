import hashlib
import subprocess
import sys

import pytest

from flctl.errors import TaskError, UnknownTask
from flctl.learning import ecg
from flctl.learning.registry import check_ref, known_tasks, task_digest
from flctl.learning.task import load_task

OWN = '''
"""A task of the user's own."""
from torch import nn
from flctl.learning.task import Task

class Own(Task):
    name = "own"
    classes = ("no", "yes")
    def model(self):
        return nn.Linear(2, 2)

class Nameless(Task):
    classes = ("no", "yes")

class NotATask:
    pass
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module `own_task_listed` in the current folder; its path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    file = tmp_path / "own_task_listed.py"
    file.write_text(OWN)
    yield file
    sys.modules.pop("own_task_listed", None)


def test_the_built_in_tasks_are_found_by_name():
    """With the entry point that stands for each."""
    assert known_tasks()["ecg"] == "flctl.learning.ecg:Ecg"
    assert type(load_task("ecg")) is ecg.Ecg


def test_a_task_of_the_users_own_is_found_in_the_current_folder(own):
    """As module:Class, also by a console script that does not look there."""
    check_ref("own_task_listed:Own")
    assert load_task("own_task_listed:Own").name == "own"


def test_the_digest_is_that_of_the_modules_source(own):
    """It changes with the source and with nothing else, and needs no import."""
    digest = task_digest("own_task_listed:Own")
    assert digest == hashlib.sha256(OWN.encode()).hexdigest() == task_digest("own_task_listed:Own")
    assert "own_task_listed" not in sys.modules
    own.write_text(OWN + "# changed\n")
    assert task_digest("own_task_listed:Own") != digest


def test_names_and_digests_are_found_without_torch():
    """The agent's supervisor and `flctl --help` must stay light."""
    code = (
        "import sys; from flctl.learning.registry import check_ref, known_tasks, task_digest;"
        "check_ref('ecg'); task_digest('ecg'); known_tasks(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("find", [check_ref, task_digest, load_task])
@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("ecq", r"unknown task 'ecq' \(did you mean 'ecg'\?\); installed: .*ecg.*mnist"),
        ("poetry", "unknown task 'poetry'; installed: .*ecg"),
        ("no_such_module:Own", "there is no module 'no_such_module'"),
        ("no_such.module:Own", "no module|cannot import"),
        ("own-task:Own", "neither a name nor of the form module:Class"),
        ("own_task_listed:", "neither a name nor of the form module:Class"),
        (":Own", "neither a name nor of the form module:Class"),
        ("../own_task_listed:Own", "neither a name nor of the form module:Class"),
    ],
)
def test_an_unknown_task_is_wrong_usage(own, find, ref, message):
    """The message lists what there is and what was probably meant; exit code 2."""
    with pytest.raises(UnknownTask, match=message) as caught:
        find(ref)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("ref", ["own_task_listed:NotATask", "os:getcwd"])
def test_what_is_no_task_is_wrong_usage(own, ref):
    """It can be imported, but is not a task."""
    with pytest.raises(UnknownTask, match="is not a subclass of flctl's Task") as caught:
        load_task(ref)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("addition", "ref", "message"),
    [
        ("", "own_task_listed:Nameless", "does not say its 'name'"),
        ("1/0\n", "own_task_listed:Own", "cannot be imported: ZeroDivisionError: division by zero"),
        ("import no_such_package\n", "own_task_listed:Own", "needs the package 'no_such_package'"),
    ],
)
def test_a_broken_task_is_an_error_of_one_line(own, addition, ref, message):
    """It says what is wrong with the task."""
    own.write_text(OWN + addition)
    with pytest.raises(TaskError, match=message) as caught:
        load_task(ref)
    assert "\n" not in str(caught.value)
