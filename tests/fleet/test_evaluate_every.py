"""--evaluate-every N: only every Nth round's model is measured, and the last one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import flctl
from flctl.core.events import RoundCommitted
from flctl.core.stream import Published
from flctl.errors import SettingsError
from flctl.fleet.replay import replay
from flctl.fleet.virtual import VirtualRun
from flctl.learning.classification import Classification
from flctl.learning.examples import Examples
from flctl.records.tables import round_rows


class Small(Classification):
    name = "small"
    classes = ("a", "b")
    defaults = {"batch_size": 8, "lr": 0.1}  # noqa: RUF012

    def model(self) -> nn.Module:
        return nn.Linear(3, 2)

    def train_data(self, path: Path | None) -> Examples:
        draw = torch.Generator().manual_seed(1)
        return Examples(torch.randn((64, 3), generator=draw), torch.arange(64) % 2, classes=2)


def run(
    state: Path, publish: Callable[[Published], None] = lambda _: None, **given: Any
) -> VirtualRun:
    wanted = {"task": f"{__name__}:Small", "virtual": 4, "rounds": 5, **given}
    return VirtualRun.start(state, wanted, "the test", publish)


def measured(run: VirtualRun) -> list[int]:
    return [event.round for event in run.history.rounds if event.metrics is not None]


def test_measures_those_rounds_and_the_last(tmp_path: Path):
    """The models are the same as of a run that measures all of them; so is their replay."""
    every, some = run(tmp_path / "every"), run(tmp_path / "some", evaluate_every=2)
    every.run(), some.run()
    assert measured(every) == [1, 2, 3, 4, 5]
    assert measured(some) == [2, 4, 5]
    assert [e.model for e in some.history.rounds] == [e.model for e in every.history.rounds]
    best = some.history.best
    assert best is not None and best.round in (2, 4, 5)
    assert some.folder.best(some.history) is not None
    assert all(row.same for row in replay(some.folder, {}))
    rows = round_rows(some.folder.history().rounds)
    assert [row["loss"] is not None for row in rows] == [False, True, False, True, True]


def test_the_round_that_uses_up_the_data_is_the_last(tmp_path: Path):
    ended = run(tmp_path, evaluate_every=4, on_exhausted="stop")
    ended.run()
    assert (ended.history.state, ended.history.round) == ("finished", 1)
    assert measured(ended) == [1]


def test_may_be_another_when_the_run_goes_on(tmp_path: Path):
    def publish(told: Published) -> None:
        if isinstance(told.event, RoundCommitted) and told.event.round == 2:
            raise KeyboardInterrupt

    begun = run(tmp_path, publish, evaluate_every=5)
    with pytest.raises(KeyboardInterrupt):
        begun.run()
    assert measured(begun) == []
    again = VirtualRun(begun.folder, changes={"evaluate-every": 3})
    again.run()
    assert measured(again) == [3, 5]


def test_is_a_setting_of_the_library_too(tmp_path: Path):
    given: dict[str, Any] = {"virtual": 2, "rounds": 3, "state": tmp_path}
    rounds = list(flctl.train(task=Small, evaluate_every=3, **given))
    assert [bool(each.metrics) for each in rounds] == [False, False, True]
    with pytest.raises(SettingsError, match="evaluate_every: must be a whole number >= 1"):
        flctl.train(task=Small, evaluate_every=0, **given)
