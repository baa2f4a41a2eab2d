"""A run computed again from its journal has the same bytes, or the difference is named."""

import re
from pathlib import Path

import numpy as np
import pytest

from flctl.core import strategies
from flctl.errors import RunError, UsageError
from flctl.fleet.replay import replay
from flctl.fleet.virtual import VirtualRun
from flctl.learning.package_files import folder_digest

ROUNDS = 3


@pytest.fixture
def beats(tmp_path):
    rng = np.random.default_rng(1)
    path = tmp_path / "beats.npz"
    np.savez(
        path,
        X=rng.integers(-300, 300, (96, 187)).astype(np.int16),
        y=np.arange(96) % 3,
        record=np.repeat(["101", "102", "103", "104"], 24),
        split=np.tile([0, 0, 0, 1], 24),
    )
    return path


@pytest.fixture
def run(tmp_path, beats):
    given = {"task": "ecg", "virtual": 4, "rounds": ROUNDS, "epochs": 1, "fraction": 0.5,
             "data": str(beats), "batch_size": 8, "federate_after_n_batches": 2}  # fmt: skip
    made = VirtualRun.start(tmp_path / "state", given, "the test")
    made.run()
    return made.folder


def test_a_replay_has_the_same_bytes(run):
    """With half the agents a round, who go on in their data where they were."""
    seen = []
    rows = replay(run, {}, seen.append)
    assert rows == seen
    assert [row.round for row in rows] == [0, 1, 2, 3]
    assert all(row.same for row in rows)


def test_a_run_has_the_digest_of_its_strategys_code(run):
    """Of a built-in one that of all strategies; a run of an older version is without it."""
    started, journal = run.history().started, run.journal_path
    digest = folder_digest(Path(strategies.__file__).parent)
    assert started.strategy_digest == digest
    journal.write_text(journal.read_text().replace(f'"strategy_digest":"{digest}",', ""))
    assert run.history().started.strategy_digest is None
    assert all(row.same for row in replay(run, {}))


def test_other_data_are_noticed(run, beats):
    """Changed inputs are not what the journal has a digest of; the replay stops there."""
    arrays = dict(np.load(beats))
    np.savez(beats, **{**arrays, "X": arrays["X"] + 1})
    rows = replay(run, {})
    assert [row.same for row in rows] == [True, False]
    assert rows[-1].replayed is None and "are missing or have changed" in rows[-1].why


def test_fewer_data_are_noticed_before_they_are_averaged(run, beats):
    """An agent that trained on more than there is is named."""
    arrays = dict(np.load(beats))
    np.savez(beats, **{name: array[::3] for name, array in arrays.items()})
    last = replay(run, {})[-1]
    assert last.replayed is None
    assert "not its data" in last.why


def as_fleet(run):
    """The same journal, as if its agents had been elsewhere."""
    text = run.journal_path.read_text()
    run.journal_path.write_text(text.replace('"kind":"virtual"', '"kind":"fleet"'))


def test_agents_of_their_own_have_to_be_named(run, tmp_path, beats):
    """Their data are not here; copies of all who took part are asked for by name."""
    as_fleet(run)
    people = sorted({agent for event in run.history().rounds for agent in event.participants})
    with pytest.raises(UsageError, match=f"--data {people[0]}=PATH"):
        replay(run, {})
    arrays = dict(np.load(beats))
    copies: dict[str, Path] = {}
    for name, record in zip(("pi-01", "pi-02", "pi-03", "pi-04"), np.unique(arrays["record"]),
                            strict=True):  # fmt: skip
        rows = arrays["record"] == record
        copies[name] = tmp_path / f"{name}.npz"
        np.savez(copies[name], **{key: array[rows] for key, array in arrays.items()})
    rows = replay(run, {name: copies[name] for name in people})
    assert all(row.same for row in rows)
    with pytest.raises(UsageError, match="took no part"):
        replay(run, {**copies, "pi-99": beats})


@pytest.mark.parametrize(
    ("sources", "says"),
    [
        ({"pi-01": "absent"}, "--data pi-01=absent: no such file or folder"),
        ({"pi-01": "."}, "also name the data of .*, or none at all"),
        ({"default": "."}, "--data default=…: took no part in the run; pi-01, .* did"),
    ],
)
def test_copies_that_are_not_those_of_the_run(run, sources, says):
    """What is missing or too much is named; of local and virtual runs none is needed."""
    with pytest.raises(UsageError, match=says):
        replay(run, {name: Path(path) for name, path in sources.items()})


def test_a_run_without_rounds_cannot_be_replayed(run):
    """There is nothing to compare with."""
    lines = run.journal_path.read_text().splitlines(keepends=True)
    run.journal_path.write_text(lines[0])
    with pytest.raises(RunError, match="no committed round"):
        replay(run, {})


def test_what_a_floor_has_left_out_is_left_out_in_the_replay(tmp_path, beats):
    """Of 16 examples in batches of seven the last two make a batch below the owner's floor."""
    given = {"task": "ecg", "virtual": 4, "rounds": 2, "data": str(beats), "batch_size": 7,
             "drop_last": True, "epochs": 1}  # fmt: skip
    made = VirtualRun.start(tmp_path / "state", given, "the test")
    made.run()
    path, settings = made.folder.journal_path, made.folder.path / "run.toml"
    settings.write_text(settings.read_text().replace("drop_last = true", "drop_last = false"))
    text = re.sub(r'"settings":"[0-9a-f]{64}"', '"settings":null', path.read_text())
    path.write_text(text)
    assert "not its data" in replay(made.folder, {})[-1].why
    path.write_text(text.replace('"left_out":0', '"left_out":2'))
    rows = replay(made.folder, {})
    assert len(rows) == 3 and all(row.same for row in rows)
