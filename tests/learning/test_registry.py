import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flctl.errors import TaskError, UnknownTask
from flctl.learning import ecg
from flctl.learning.package_files import folder_digest
from flctl.learning.registry import check_ref, covered, known_tasks, task_digest
from flctl.learning.task import load_task

OWN = '''
"""A task of the user's own."""
from torch import nn
from flctl.learning.classification import Classification

class Own(Classification):
    name = "own"
    classes = ("no", "yes")
    def model(self):
        return nn.Linear(2, 2)

class Nameless(Classification):
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


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of two modules, a nested one and a file of data, importable."""
    folder = tmp_path / "own_task_package"
    (folder / "nested").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "nested" / "__init__.py").touch()
    (folder / "nested" / "task.py").write_text(OWN)
    (folder / "helper.py").write_text("WIDTH = 2\n")
    (folder / "labels.json").write_text("[1]")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder
    for name in [name for name in sys.modules if name.startswith("own_task_package")]:
        del sys.modules[name]


@pytest.mark.parametrize("name", ["helper.py", "labels.json", "nested/__init__.py", "new.py"])
def test_the_digest_covers_the_whole_package(package, name):
    """A helper module that was changed is other code than the coordinator's."""
    ref = "own_task_package.nested.task:Own"
    before = task_digest(ref)
    assert before == task_digest(ref)
    assert covered(ref) == package
    with (package / name).open("a") as file:
        file.write("\n")
    assert task_digest(ref) != before


@pytest.mark.parametrize("name", ["helper.cpython-313.pyc", "fast.so", ".hidden", "__pycache__/a"])
def test_what_differs_between_two_computers_is_not_covered(package, name):
    """Compiled files of a Pi are not those of the coordinator's computer."""
    ref = "own_task_package.nested.task:Own"
    before = task_digest(ref)
    (package / name).parent.mkdir(exist_ok=True)
    (package / name).write_text("x")
    assert task_digest(ref) == before


def test_a_package_has_the_same_digest_wherever_it_lies(package, tmp_path):
    """And with whatever times its files have."""
    before = folder_digest(package)
    shutil.copytree(package, tmp_path / "elsewhere", copy_function=shutil.copy)
    assert folder_digest(tmp_path / "elsewhere") == before


def test_a_namespace_is_not_part_of_a_package(package):
    """Other distributions may add to it."""
    (package / "__init__.py").unlink()
    ref = "own_task_package.nested.task:Own"
    assert covered(ref) == package / "nested"


def test_flctls_own_tasks_are_covered_by_what_trains():
    """Another version of the command line is no other task."""
    assert covered("ecg") == Path(ecg.__file__).parent


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
        ("import own_task\n", "own_task_listed:Own", "needs the package 'own_task'"),
    ],
)
def test_a_broken_task_is_an_error_of_one_line(own, addition, ref, message):
    """It says what is wrong with the task."""
    own.write_text(OWN + addition)
    with pytest.raises(TaskError, match=message) as caught:
        load_task(ref)
    assert "\n" not in str(caught.value)
