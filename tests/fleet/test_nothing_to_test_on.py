"""Data of which none are for testing: no figure, or one that is called what it is."""

from pathlib import Path

import numpy as np
import pytest

from flctl.coordinator.store.folder import BEST
from flctl.core.events import RoundCommitted
from flctl.core.stream import Published
from flctl.fleet.driving import drive_virtual
from flctl.fleet.virtual import VirtualRun
from flctl.learning.source import evaluation_parts
from flctl.learning.task import load_task
from flctl.settings import parse
from flctl.terminal.lines import measured_by, round_line
from flctl.worker.jobs import DataSource, shards_of

GIVEN = {"task": "ecg", "virtual": 2, "rounds": 2, "partition": "iid", "batch_size": 8}


def beats(path: Path, split: int | None, rows: int = 40, seed: int = 1) -> Path:
    rng = np.random.default_rng(seed)
    more = {} if split is None else {"split": np.full(rows, split)}
    x = rng.integers(-300, 300, (rows, 187)).astype(np.int16)
    np.savez(path, X=x, y=np.arange(rows) % 5, **more)
    return path


@pytest.fixture
def train_only(tmp_path: Path) -> Path:
    """All are for training, as the file itself says."""
    return beats(tmp_path / "train.npz", 0)


def table(path: Path) -> Path:
    """Four rows: a fifth of them is none."""
    rows = [",".join(["0.5"] * 186 + [str(n / 8), str(n % 2)]) for n in range(4)]
    path.write_text("\n".join(rows) + "\n")
    return path


def simulate(tmp_path: Path, data: Path, **more: object) -> VirtualRun:
    run = VirtualRun.start(tmp_path / "state", {**GIVEN, "data": str(data), **more}, "the test")
    run.run()
    assert run.history.state == "finished", run.history.reason
    return run


def test_what_all_was_trained_on_tests_nothing(tmp_path: Path) -> None:
    """No figures on it: those of the validation part are called that, and choose the best round."""
    run = simulate(tmp_path, beats(tmp_path / "t.npz", 0))
    scores = [event.metrics for event in run.folder.history().rounds]
    assert [score and score.part for score in scores] == ["validation", "validation"]
    assert run.history.best is not None and (run.folder.path / BEST).exists()
    told = {"part": "validation", "validation": {}}
    assert "no test data" in measured_by(told) and "--test-data" in measured_by(told)


def test_too_little_for_a_validation_part_is_no_best_round(tmp_path: Path) -> None:
    """All of it is trained on."""
    run = simulate(tmp_path, table(tmp_path / "t.csv"))
    assert [event.metrics for event in run.folder.history().rounds] == [None, None]
    assert run.history.best is None and not (run.folder.path / BEST).exists()


def test_a_figure_on_training_data_is_called_that(tmp_path: Path, train_only: Path) -> None:
    """Where somebody names them for testing; the best round is chosen by the validation part."""
    run = simulate(tmp_path, train_only, test_data=str(train_only))
    score = run.folder.history().rounds[-1].metrics
    assert score is not None and score.part == "training data"
    own = score.validation
    assert own is not None and own.examples < score.examples
    line = round_line(run.folder.history().rounds[-1], 2)
    assert "  on training data:  loss " in line and "  on validation: macro-F1 " in line
    told = {"part": score.part}
    assert "own training data" in measured_by(told) and "--test-data" in measured_by(told)


def test_a_copy_of_what_was_trained_on_is_noticed(tmp_path: Path) -> None:
    """In another file, and only some of it; other beats are a test."""
    data, other = beats(tmp_path / "data.npz", 0), beats(tmp_path / "other.npz", None, seed=2)
    some = tmp_path / "some.npz"
    arrays = np.load(data)
    np.savez(some, **{name: arrays[name][:10] for name in ("X", "y")})
    ecg = load_task("ecg")
    for path, name in ((some, "training data: test"), (other, "test")):
        found = evaluation_parts(ecg, DataSource(path=str(path), beside=str(data)))
        assert list(found) == [name]


def test_a_fleet_is_not_measured_on_invented_data() -> None:
    """The coordinator leaves it to the agents, which have data of their own; a virtual run learns
    from the invented ones."""
    for name in ("sensors", "images"):
        task = load_task(name)
        task.settle(None)
        assert evaluation_parts(task, DataSource(path=None, trained_on=True)) == {}
        every = shards_of(parse({"task": name, "virtual": 2}, "the test"))[0]
        there = evaluation_parts(task, DataSource(path=None, trained_on=True, all=every))
        assert there.keys() == {"test", "validation"} or there.keys() == {"held out", "validation"}
    assert evaluation_parts(load_task("ecg"), DataSource(path=None, trained_on=True))


def test_a_part_for_testing_is_one(tmp_path: Path) -> None:
    """The later beats of a file that says which they are count as before."""
    path = tmp_path / "both.npz"
    arrays = dict(np.load(beats(path, 0)))
    np.savez(path, **{**arrays, "split": np.tile([0, 0, 0, 1], 10)})
    run = simulate(tmp_path, path)
    score = run.folder.history().rounds[-1].metrics
    assert score is not None and (score.part, score.examples) == ("later", 10)
    assert score.chosen is not None
    assert (run.folder.path / BEST).exists()


def test_a_simulated_run_goes_on_with_another_evaluation(tmp_path: Path) -> None:
    """After its first rounds were measured, those that follow are not."""
    state = tmp_path / "state"

    def stop(told: Published) -> None:
        if isinstance(told.event, RoundCommitted) and told.event.round == 1:
            raise KeyboardInterrupt

    path = tmp_path / "both.npz"
    arrays = dict(np.load(beats(path, 0)))
    np.savez(path, **{**arrays, "split": np.tile([0, 0, 0, 1], 10)})
    run = VirtualRun.start(state, {**GIVEN, "data": str(path)}, "the test", stop)
    with pytest.raises(KeyboardInterrupt):
        run.run()
    result = drive_virtual(state, {"evaluate": "none"}, "here", lambda _: None, run.folder.name)
    assert (result.state, result.rounds) == ("finished", 2)
    scores = [event.metrics for event in run.folder.history().rounds]
    assert scores[0] is not None and scores[1] is None
