"""What an admin key on another machine may name: installed tasks, and data by their names."""

import sys
from pathlib import Path
from typing import Any

import pytest
from memory_fleet import MemoryFleet

from flctl.coordinator.front import remote_settings as far
from flctl.coordinator.front.operators import Control
from flctl.coordinator.store.folder import RunFolder
from flctl.errors import SettingsError, UsageError
from flctl.learning.registry import check_ref, known_tasks, task_digest
from flctl.transport.channel import LOCAL
from flctl.transport.keypair import KeyPair
from flctl.wire import framing
from flctl.wire.messages import Answer, Ask, Trouble


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Test data that the owner lists."""
    (tmp_path / "tests" / "january").mkdir(parents=True)
    (tmp_path / "tests" / "hospital.npz").write_bytes(b"data")
    (tmp_path / "secret.npz").write_bytes(b"data")
    return tmp_path / "tests"


def test_data_have_the_names_that_the_owners_folders_give_them(folder: Path):
    """Files, and folders in them; the first that has the name; or the path that it has there."""
    january = folder / "january"
    for listed, name, found in (
        (folder / "hospital.npz", "hospital.npz", folder / "hospital.npz"),
        (folder, str(folder), folder),
        (folder, str(january), january),
        (january, str(january), january),
    ):
        given = far.settings_from_afar({"task": "ecg", "data": name}, "the test", [listed])
        assert given["data"] == str(found)
    for name in ("hospital.npz", "january", "january/"):
        given = far.settings_from_afar(
            {"task": "ecg", "test-data": name}, "the test", [folder / "january", folder]
        )
        assert given == {"task": "ecg", "test_data": str(folder / name)}


def test_a_run_may_begin_with_one_of_the_coordinators_runs(folder: Path):
    """By its name; a file only as data go."""
    given = {"task": "ecg", "from": "ecg-1127"}
    assert far.settings_from_afar(given, "the test", [])["from_"] == "ecg-1127"
    listed = far.settings_from_afar({"task": "ecg", "from_": "hospital.npz"}, "the test", [folder])
    assert listed["from_"] == str(folder / "hospital.npz")


@pytest.mark.parametrize("key", ["data", "test_data", "test-data", "from"])
@pytest.mark.parametrize(
    "name",
    [
        "{}/secret.npz",
        "{}/tests2/hospital.npz",
        "{}/tests/../secret.npz",
        "/etc/passwd",
        "/nowhere",
        "../secret.npz",
        "",
        ".",
        "january/../../secret.npz",
        "a\0b",
        "x" * 201,
        7,
        ["hospital.npz"],
        "no.npz",
    ],
)
def test_a_path_tells_nothing_of_the_coordinators_machine(folder: Path, key: str, name: Any):
    """One that is there and one that is not are refused in the same words."""
    if isinstance(name, str):
        name = name.replace("{}", str(folder.parent))
    with pytest.raises(UsageError) as refused:
        far.settings_from_afar({"task": "ecg", key: name}, "the test", [folder])
    text = str(refused.value)
    assert text.isprintable() and text.endswith("(--test-data): hospital.npz, january")
    with pytest.raises(UsageError, match="none are listed: flctl coordinator --test-data PATH"):
        far.settings_from_afar({"task": "ecg", key: name}, "the test", [])


def test_a_module_that_nobody_has_installed_is_not_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its package would be imported where the coordinator runs."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "far_package").mkdir()
    (tmp_path / "far_package" / "__init__.py").write_text("raise SystemExit('imported')")
    (tmp_path / "far_package" / "own.py").write_text("class Own: pass")
    for task in ("far_package.own:Own", "flctl.learning.ecg:Ecg", "nope", "a\nb"):
        with pytest.raises(UsageError, match="takes an installed task") as refused:
            far.settings_from_afar({"task": task}, "the test", [])
        assert str(refused.value).isprintable() and "mnist" in str(refused.value)
    with pytest.raises(SettingsError, match="unknown key 'tsk'; did you mean 'task'"):
        far.settings_from_afar({"tsk": "ecg"}, "the test", [])


def test_the_digest_of_a_task_imports_nothing_of_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Coordinator and supervisor look at many tasks and run none."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "quiet_package").mkdir()
    (tmp_path / "quiet_package" / "__init__.py").write_text("raise SystemExit('imported')")
    (tmp_path / "quiet_package" / "own.py").write_text("class Own: pass")
    check_ref("quiet_package.own:Own")
    assert len(task_digest("quiet_package.own:Own")) == 64
    assert "quiet_package" not in sys.modules


@pytest.mark.parametrize("here", [False, True])
def test_only_the_control_socket_takes_paths_and_modules(
    fleet: MemoryFleet, folder: Path, here: bool, monkeypatch: pytest.MonkeyPatch
):
    """It belongs to the account that the coordinator runs as, which has those files anyway."""
    monkeypatch.setattr(far, "known_tasks", lambda: {**known_tasks(), "toy": "toys:Toy"})
    fleet.coordinator.control = Control(
        fleet.coordinator, "memory:1", fleet.clock, test_data=[folder]
    )
    key = LOCAL if here else KeyPair.make().public
    if not here:
        fleet.keyring.add("ana", key, "admin")
    link = fleet.network.link(key)

    def start(**given: Any) -> Answer | Trouble:
        order = {"given": {"rounds": 1, **given}, "where": "the test"}
        link.send(framing.encode(Ask(id=1, what="start", args=order)))
        fleet.until(lambda: bool(link.inbox))
        said = framing.to_operator()(link.inbox.popleft())[1]
        if fleet.coordinator.training is not None:
            fleet.finish()
        return said

    asked = [
        start(task="toy", test_data=str(folder.parent / "secret.npz")),
        start(task="toys:Toy"),
    ]
    assert all(isinstance(said, Answer if here else Trouble) for said in asked), asked
    if not here:
        assert isinstance(start(task="toy", test_data="hospital.npz"), Answer)
        run = RunFolder.find(fleet.state, fleet.history().started.run)
        assert run.settings().test_data == str(folder / "hospital.npz")
