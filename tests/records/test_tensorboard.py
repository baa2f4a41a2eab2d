"""TensorBoard events, read with TensorBoard's own reader."""

import contextlib
import math
import os
import sys

import pytest

from flctl.core.stream import Published
from flctl.errors import StateError, UsageError
from flctl.records.tensorboard import Events, Follower, export, points


def follow(folder, rounds):
    with contextlib.closing(Follower(folder)) as follower:
        for event in rounds:
            follower.on_event(Published("ecg-1", event))


def test_every_figure_has_a_tag(make_round):
    """Of the round, of its agents, and of each part that was measured."""
    found = points(make_round(1, 1, 3, missing=["pi-02"]))
    assert found == {
        "round/seconds": 1.5, "round/agents": 2.0, "round/missing": 1.0, "round/bytes_up": 200.0,
        "training/loss": 2.5, "agent_loss/pi-01": 1.0, "agent_loss/pi-03": 3.0,
        "agent_seconds/pi-01": 0.5, "agent_seconds/pi-03": 0.5,
        "agent_examples/pi-01": 10.0, "agent_examples/pi-03": 30.0,
        "test/loss": 0.5, "test/accuracy": 0.75, "test/macro_f1": 0.625,
        "unseen/loss": 2.0, "unseen/accuracy": 0.25, "unseen/macro_f1": 0.125,
    }  # fmt: skip
    assert points(make_round(1, source="agents"))["agent_held_out_accuracy/pi-01"] == 0.25


def test_a_round_is_there_once(tmp_path, make_round, scalars):
    """However often it is told, by one process or by the next one."""
    follow(tmp_path, [make_round(1, 1), make_round(2, 1), make_round(1, 1)])
    follow(tmp_path, [make_round(1, 1), make_round(2, 1), make_round(3, 1)])
    follow(tmp_path, [make_round(3, 1)])
    accuracy = scalars(tmp_path / "ecg-1")["test/accuracy"]
    assert accuracy == {1: [0.75], 2: [0.75], 3: [0.75]}
    assert len(list((tmp_path / "ecg-1").iterdir())) == 2  # none for nothing new


def test_what_was_torn_is_written_again(tmp_path, make_round, scalars):
    """The writer was killed in the middle of round 2: the rounds before it stay."""
    follow(tmp_path, [make_round(1, 1), make_round(2, 1)])
    (file,) = (tmp_path / "ecg-1").iterdir()
    os.truncate(file, file.stat().st_size - 9)
    follow(tmp_path, [make_round(1, 1), make_round(2, 1)])
    assert scalars(tmp_path / "ecg-1")["test/loss"] == {1: [0.5], 2: [0.5]}


def test_a_model_that_diverged(tmp_path, make_round, scalars):
    """Its loss is larger than TensorBoard's numbers."""
    follow(tmp_path, [make_round(1, 1, loss=sys.float_info.max)])
    assert scalars(tmp_path / "ecg-1")["test/loss"] == {1: [math.inf]}


def test_two_writers(tmp_path, make_round):
    """They would write each round twice: the second one is told, and cannot replace it either."""
    with contextlib.closing(Events(tmp_path / "ecg-1")):
        with pytest.raises(StateError, match="another flctl is writing"):
            Events(tmp_path / "ecg-1")
        with pytest.raises(StateError, match="another flctl is writing"):
            export([make_round(1, 1)], tmp_path / "ecg-1")
    export([make_round(1, 1)], tmp_path / "ecg-1")


def test_an_export_replaces_events_and_nothing_else(tmp_path, make_round, scalars):
    """A folder with any other thing in it, or no folder, is left as it is."""
    target = tmp_path / "new" / "ecg-1"
    for rounds in ([make_round(1, 1)], [make_round(1, 1), make_round(2, 1)]):
        export(rounds, target)
        assert set(scalars(target)["test/loss"]) == {event.round for event in rounds}
    (target / "thesis.txt").write_text("mine")
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("mine")
    link.symlink_to(tmp_path)
    for path in (target, file, link):
        with pytest.raises(UsageError, match="would be overwritten"):
            export([make_round(1, 1)], path)
    assert (target / "thesis.txt").read_text() == file.read_text() == "mine"


def test_a_place_where_nothing_can_be_written(tmp_path):
    """It is refused before the run begins."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is no folder"):
        Follower(tmp_path / "file")
    with pytest.raises(StateError, match="Not a directory"):
        Follower(tmp_path / "file" / "below")
