"""The folder of a run."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
from types import SimpleNamespace

import msgspec
import pytest

from flctl.coordinator.store import folder as runs
from flctl.coordinator.store.folder import RunFolder, all_runs
from flctl.coordinator.store.journal import Journal
from flctl.coordinator.store.resume import remove_unstarted
from flctl.coordinator.store.runs import summary
from flctl.core import events as happened
from flctl.core.events import Participant, Score
from flctl.errors import CheckpointError, FlctlError, StateError, UsageError
from flctl.settings import SCHEMA, RunSettings
from flctl.wire.messages import Metrics, RunId


def digest(round_id: int) -> str:
    return hashlib.sha256(b"model %d" % round_id).hexdigest()


def begin(state, task="ecg", kind="fleet", **settings) -> RunFolder:
    """A run that has started, with an empty spool."""
    folder = RunFolder.create(state, RunSettings(task=task, **settings)).appear()
    folder.round_path(0).mkdir()
    folder.model_path(0).write_bytes(b"model 0")
    record(
        folder,
        happened.RunStarted(
            at=1.0,
            schema=SCHEMA,
            run=folder.name,
            kind=kind,
            model=digest(0),
            size=7,
            task_digest=digest(0),
            version="1",
            machine="x86_64",
        ),
    )
    return folder


def record(folder: RunFolder, *events: happened.AnyEvent) -> None:
    journal = Journal(folder.journal_path)
    journal.append(events)
    journal.close()


def commit(
    folder: RunFolder, round_id: int, loss: float | None = None, keep=0
) -> happened.RoundCommitted:
    """One round, as the coordinator commits and settles it."""
    score = None
    if loss is not None:
        own = Metrics(values={"loss": loss}, examples=9)
        score = Score(values=own.values, examples=9, source="coordinator", validation=own)
    event = happened.RoundCommitted(
        at=float(round_id),
        round=round_id,
        attempt=1,
        model=digest(round_id),
        size=7,
        seconds=1.0,
        participants={
            "pi-01": Participant(examples=3, batches=4, loss=0.5, last_loss=0.4, seconds=1.0)
        },
        metrics=score,
    )
    folder.make_spool(round_id)
    folder.model_path(round_id).write_bytes(b"model %d" % round_id)
    record(folder, event)
    folder.settle(event, folder.history(), keep)
    return event


def models(folder: RunFolder) -> list[int]:
    return [n for n in range(20) if folder.model_path(n).exists()]


def test_a_new_run_has_its_settings_and_nobody_else_can_read_it(tmp_path):
    """run.toml is complete, so that a later version's defaults do not change an old run."""
    folder = RunFolder.create(tmp_path / "state", RunSettings(task="ecg", rounds=7))
    assert folder.settings() == RunSettings(task="ecg", rounds=7)
    assert "batch_size = 32" in (folder.path / "run.toml").read_text()
    for path in (tmp_path / "state", tmp_path / "state/runs", folder.path):
        assert path.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "task", ["ecg", "my_tasks.hearts:Heart2", "żółć", "-", "", "x" * 200, "a/../b", "UPPER Case"]
)
def test_every_run_has_a_name_that_can_travel(tmp_path, task):
    """It is a folder's name and a field of every message, whatever the task is called."""
    folder = RunFolder.create(tmp_path, RunSettings(task=task))
    assert msgspec.convert(folder.name, RunId) == folder.name
    assert folder.path.parent == tmp_path / "runs"


def test_runs_that_begin_in_the_same_second_have_names_of_their_own(tmp_path):
    """There is some chance in the name."""
    assert len({RunFolder.create(tmp_path, RunSettings(task="ecg")).name for _ in range(20)}) == 20


def test_a_run_is_found_by_the_beginning_of_its_name(tmp_path):
    """When that fits one run only; the error names the others, or the command that does."""
    one, two = begin(tmp_path, "ecg"), begin(tmp_path, "mnist")
    assert RunFolder.find(tmp_path, "ecg").name == one.name
    assert RunFolder.find(tmp_path, two.name).name == two.name
    assert RunFolder.find(tmp_path, two.name.rpartition("-")[2]).name == two.name
    other = begin(tmp_path, "ecg")
    with pytest.raises(UsageError, match=rf"'ecg' fits several runs: .*{other.name}"):
        RunFolder.find(tmp_path, "ecg")
    longer = tmp_path / "runs" / (one.name + "-2")
    one.path.with_name(longer.name).mkdir()
    (longer / "journal.jsonl").touch()
    assert RunFolder.find(tmp_path, one.name).name == one.name
    for absent in ("cifar", "../runs", "*"):
        with pytest.raises(UsageError, match="flctl runs list"):
            RunFolder.find(tmp_path, absent)


def test_runs_are_listed_oldest_first(tmp_path):
    """Folders that have no journal never started; one without settings does not hide the rest."""
    assert list(all_runs(tmp_path)) == []
    folders = [begin(tmp_path, task) for task in ("c", "a", "b")]
    for age, folder in enumerate(folders):
        os.utime(folder.path / "run.toml", (1000 + age, 1000 + age))
    half = RunFolder.create(tmp_path, RunSettings(task="never"))
    half.journal_path.touch()
    (tmp_path / "runs" / "a file").touch()
    assert [f.name for f in all_runs(tmp_path)] == [f.name for f in folders]
    (folders[2].path / "run.toml").unlink()
    assert [f.name for f in all_runs(tmp_path)] == [folders[n].name for n in (2, 0, 1)]
    with pytest.raises(FlctlError, match=r"run\.toml"):
        summary(folders[2])


def test_one_process_drives_a_run(tmp_path):
    """The lock names the run, and everybody can see that it is held."""
    folder = begin(tmp_path)
    assert not folder.driven
    lock = folder.lock()
    assert folder.driven
    with pytest.raises(StateError, match=f"run {folder.name} is driven by another process"):
        folder.lock()
    lock.release()
    assert not folder.driven


def test_a_committed_round_is_settled(tmp_path):
    """metrics.json for a person, last and best at the top, the spool removed."""
    folder = begin(tmp_path)
    (folder.make_spool(1) / "pi-01.safetensors").write_bytes(b"update")
    event = commit(folder, 1, loss=0.5)
    told = json.loads((folder.round_path(1) / "metrics.json").read_text())
    assert told["metrics"]["values"]["loss"] == 0.5 and told["model"] == event.model
    assert (folder.path / "last.safetensors").read_bytes() == b"model 1"
    assert (folder.path / "best.safetensors").read_bytes() == b"model 1"
    assert not folder.spool_path(1).exists()
    assert [p.name for p in folder.path.glob(".*")] == []


def test_best_is_the_round_with_the_smallest_loss(tmp_path):
    """And last the newest, whether it is good or not."""
    folder = begin(tmp_path)
    for round_id, loss in enumerate([0.9, 0.2, 0.4, None], start=1):
        commit(folder, round_id, loss)
    assert (folder.path / "best.safetensors").read_bytes() == b"model 2"
    assert (folder.path / "last.safetensors").read_bytes() == b"model 4"


@pytest.mark.parametrize(
    ("keep", "left"), [(0, [0, 1, 2, 3, 4, 5]), (1, [5]), (3, [3, 4, 5]), (9, [0, 1, 2, 3, 4, 5])]
)
def test_so_many_models_stay_as_the_settings_say(tmp_path, keep, left):
    """The disk of a run is bounded; best and last do not count, and stay readable."""
    folder = begin(tmp_path)
    for round_id, loss in enumerate([0.9, 0.2, 0.4, 0.5, 0.6], start=1):
        commit(folder, round_id, loss, keep)
    assert models(folder) == left
    assert (folder.path / "best.safetensors").read_bytes() == b"model 2"


def test_settling_again_changes_nothing(tmp_path):
    """A coordinator that was killed in the middle of it does it again at its next start."""
    folder = begin(tmp_path)
    for round_id in (1, 2, 3):
        event = commit(folder, round_id, 1.0 / round_id, keep=2)
    before = sorted(str(p) for p in folder.path.rglob("*"))
    folder.settle(event, folder.history(), 2)
    assert sorted(str(p) for p in folder.path.rglob("*")) == before


def names_of(folder: RunFolder) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.path.iterdir() if "safetensors" in p.name}


def test_what_a_power_cut_has_undone_is_done_again(tmp_path):
    """The names that were not on the disk yet, of a round before the last too; and what was
    removed and is back."""
    folder = begin(tmp_path)
    for round_id, loss in ((1, 0.9), (2, 0.1), (3, 0.5), (4, 0.6)):
        commit(folder, round_id, loss, keep=3)
    whole = names_of(folder)
    assert whole == {"best.safetensors": b"model 2", "last.safetensors": b"model 4"}
    for name in whole:
        (folder.path / f".{name}.tmp").hardlink_to(folder.model_path(3))
        (folder.path / name).unlink()
    (folder.path / "best.safetensors").write_bytes(b"model 1")
    (folder.make_spool(2) / "pi-01.safetensors").write_bytes(b"x")
    folder.mend(folder.history(lean=True), 3)
    assert names_of(folder) == whole and not list(folder.rounds_path.glob("*/updates"))
    (folder.path / ".best.safetensors.tmp").hardlink_to(folder.path / "best.safetensors")
    folder.mend(folder.history(lean=True), 3)
    assert names_of(folder) == whole, "half a link beside a whole one"


def test_what_withdrawn_rounds_have_left_is_not_best_nor_last(tmp_path, caplog):
    """Where the best model is not kept any more, that is said aloud; before the first round
    there is no such model."""
    folder = begin(tmp_path)
    for round_id, loss in ((1, 0.5), (2, 0.6), (3, 0.1)):
        commit(folder, round_id, loss, keep=2)
    record(folder, happened.RoundsWithdrawn(at=9.0, round=2, reason="damaged"))
    folder.mend(folder.history(lean=True), 2)
    assert names_of(folder) == {"last.safetensors": b"model 2"}
    assert "best.safetensors is not the model that the journal names" in caplog.text
    record(folder, happened.RoundsWithdrawn(at=9.0, round=0, reason="damaged"))
    folder.mend(folder.history(lean=True), 2)
    assert names_of(folder) == {}


def test_the_best_model_is_never_without_a_name_on_the_disk(tmp_path, monkeypatch):
    """Its round's own file goes when that of `best` is durable."""
    folder = begin(tmp_path)
    commit(folder, 1, 0.1, keep=1)
    done = []
    monkeypatch.setattr(runs, "sync_folder", lambda path: done.append(path.name))
    real = runs.Path.unlink

    def unlink(self, missing_ok=False):
        done.extend([self.parent.name] if self.name == "model.safetensors" else [])
        real(self, missing_ok)

    monkeypatch.setattr(runs.Path, "unlink", unlink)
    commit(folder, 2, 0.5, keep=1)
    assert done == [folder.name, "0001"]
    assert names_of(folder)["best.safetensors"] == b"model 1"


def test_a_link_that_was_left_half_made_harms_no_model(tmp_path):
    """The coordinator was killed before the rename: the file is still the model of round 1."""
    folder = begin(tmp_path)
    commit(folder, 1, 0.5)
    (folder.path / ".last.safetensors.tmp").hardlink_to(folder.model_path(1))
    commit(folder, 2, 0.4)
    assert folder.model_path(1).read_bytes() == b"model 1"
    assert (folder.path / "last.safetensors").samefile(folder.model_path(2))


def test_without_hard_links_the_models_are_copied(tmp_path, monkeypatch):
    """On a FAT-formatted stick."""

    def refuse(self, target):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(runs.Path, "hardlink_to", refuse)
    folder = begin(tmp_path)
    commit(folder, 1, 0.5)
    assert (folder.path / "last.safetensors").read_bytes() == b"model 1"


def test_a_model_is_compared_with_the_journal(tmp_path):
    """Before a round starts from it: a damaged or missing one is named."""
    folder = begin(tmp_path)
    sha = "b8e2f5b7a4e9b2c14d6ac8eba40ac2d4c6c1d2ba1ad5e0fd4cbd3dd6cc3b42e7"
    with pytest.raises(CheckpointError, match=r"0000/model\.safetensors: damaged"):
        folder.verify_model(0, sha)
    with pytest.raises(CheckpointError, match=r"0001/model\.safetensors: cannot be read"):
        folder.verify_model(1, sha)


def test_a_whole_model_is_handed_out(tmp_path):
    """With its path."""
    folder = begin(tmp_path)
    folder.model_path(0).write_bytes(b"abc")
    sha = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert folder.verify_model(0, sha) == folder.model_path(0)


def test_room_is_checked_before_a_round(tmp_path, monkeypatch):
    """In words, with what is needed and what there is."""
    folder = begin(tmp_path)
    free = 100 * 2**20
    monkeypatch.setattr(runs.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    folder.room_for(10 * 2**20, 6)
    with pytest.raises(StateError) as caught:
        folder.room_for(10 * 2**20, 7)
    assert "a round needs 106 MiB here for 7 updates, 100 MiB are free" in str(caught.value)


def test_the_newest_checkpoint_of_a_run_is_a_file(tmp_path):
    """The first model before round 1, then the last one; also when that link is lost."""
    folder = begin(tmp_path)
    assert folder.checkpoint(folder.history()) == folder.model_path(0)
    commit(folder, 1)
    assert folder.checkpoint(folder.history()) == folder.path / "last.safetensors"
    (folder.path / "last.safetensors").unlink()
    assert folder.checkpoint(folder.history()) == folder.model_path(1)


@pytest.mark.parametrize(
    ("kind", "state", "reason"),
    [
        ("fleet", "paused", "its coordinator is not running"),
        ("local", "stopped", "its process ended"),
        ("virtual", "stopped", "its process ended"),
    ],
)
def test_a_run_that_nobody_drives_does_not_run(tmp_path, kind, state, reason):
    """Its journal ends in the middle: the list says what became of it and what to do."""
    folder = begin(tmp_path, kind=kind)
    assert summary(folder)["state"] == state and reason in summary(folder)["reason"]
    lock = folder.lock()
    assert (summary(folder)["state"], summary(folder)["reason"]) == ("running", "")
    lock.release()
    record(folder, happened.RunFinished(at=9.0))
    assert summary(folder)["state"] == "finished"


def test_the_summary_of_a_run_is_plain_json(tmp_path):
    """Round, metrics, checkpoint, and who has delivered in the open round."""
    folder = begin(tmp_path, rounds=9)
    commit(folder, 1, 0.5)
    opened = happened.RoundOpened(
        at=5.0, round=2, attempt=3, base=digest(1), invited=("pi-01", "pi-02"), need=2
    )
    update = happened.UpdateStored(
        at=6.0,
        round=2,
        agent="pi-02",
        blob=digest(9),
        size=7,
        examples=3,
        batches=4,
        loss=0.5,
        last_loss=0.4,
        exhausted=False,
        seconds=1.0,
    )
    record(folder, opened, update)
    told = json.loads(json.dumps(summary(folder)))
    expected = {"run": folder.name, "task": "ecg", "round": 1, "rounds": 9, "attempt": 3}
    assert {key: told[key] for key in expected} == expected
    assert told["accepted"] == ["pi-02"] and told["metrics"]["values"]["loss"] == 0.5
    assert told["checkpoint"] == str(folder.path / "last.safetensors")
    assert (told["started"], told["updated"]) == (1.0, 6.0)


def test_what_was_left_of_a_run_that_never_began_is_removed(tmp_path):
    """By whoever comes next, unless some process is just making one."""
    begun = begin(tmp_path, "begun")
    half = RunFolder.create(tmp_path, RunSettings(task="half"))
    half.journal_path.write_bytes(b'{"event":"sta')
    with _held(tmp_path / "runs"):
        remove_unstarted(tmp_path)
        assert half.path.exists()
    remove_unstarted(tmp_path)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [begun.name]


def test_a_run_that_cannot_be_made_durable_does_not_appear(tmp_path, monkeypatch):
    """Whoever is told that it failed does not find it afterwards."""
    folder = RunFolder.create(tmp_path, RunSettings(task="ecg"))

    def fail(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(runs, "sync_folder", fail)
    with pytest.raises(StateError, match="cannot start the run"), folder.removed_unless_made():
        folder.appear()
    assert list((tmp_path / "runs").iterdir()) == []


@contextlib.contextmanager
def _held(folder):
    """As by a process that makes a run."""
    fd = os.open(folder, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_SH)
    yield
    os.close(fd)
