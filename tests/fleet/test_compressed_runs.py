"""Runs with compressed updates: over sockets, in one process, interrupted, computed again."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flctl.coordinator.store.folder import RunFolder
from flctl.core.events import RoundCommitted
from flctl.core.stream import Published
from flctl.errors import SettingsError
from flctl.fleet.clients import first_model
from flctl.fleet.driving import drive_local
from flctl.fleet.replay import replay
from flctl.fleet.virtual import VirtualRun
from flctl.run_toml import from_toml, to_toml
from flctl.settings import parse

ROUNDS = 3


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    path = tmp_path_factory.mktemp("data") / "beats.npz"
    np.savez(
        path,
        X=rng.integers(-300, 300, (96, 187)).astype(np.int16),
        y=np.arange(96) % 3,
        split=np.tile([0, 0, 0, 1], 24),
    )
    return {"task": "ecg", "rounds": ROUNDS, "epochs": 1, "data": str(path), "batch_size": 8,
            "partition": "iid", "topk_share": 0.05}  # fmt: skip


def models(folder: RunFolder) -> list[str]:
    return [event.model for event in folder.history().rounds]


def virtual(state: Path, given: dict[str, Any], compression: str, **more: Any) -> RunFolder:
    made = VirtualRun.start(
        state, {"virtual": 2, **given, "compression": compression}, "the test", **more
    )
    try:
        made.run()
    except KeyboardInterrupt:
        made = VirtualRun(made.folder)
        made.run()
    return made.folder


class InterruptedAt:
    """Ctrl-C when round `round_id` is committed, once."""

    def __init__(self, round_id: int) -> None:
        self.round_id: int | None = round_id
        self.run = ""

    def __call__(self, told: Published) -> None:
        self.run = told.run
        if isinstance(told.event, RoundCommitted) and told.event.round == self.round_id:
            self.round_id = None
            raise KeyboardInterrupt


@pytest.mark.parametrize("compression", ["int8", "topk"])
def test_local_and_virtual_runs_are_the_same_bytes_also_after_an_interruption(
    tmp_path: Path, given: dict[str, Any], compression: str
):
    """What top-k has not sent goes on with the run, though the agents' processes are new."""
    expected = models(virtual(tmp_path / "virtual", given, compression))
    state, stop = tmp_path / "local", InterruptedAt(2)
    wanted = {**given, "local": 2, "compression": compression}
    with pytest.raises(KeyboardInterrupt):
        drive_local(state, wanted, "the test", stop)
    folder = RunFolder.find(state, stop.run)
    assert folder.history().state == "stopped"
    assert (folder.path / "residuals" / "pi-01").exists() == (compression == "topk")
    assert drive_local(state, {}, "the test", stop, resume=stop.run).state == "finished"
    assert models(folder) == expected
    assert not (folder.path / "residuals").exists()


def test_an_interrupted_virtual_run_goes_on_with_what_was_not_sent(
    tmp_path: Path, given: dict[str, Any]
):
    """To the same bytes as one that was not; and so does its replay."""
    whole = virtual(tmp_path / "whole", given, "topk")
    again = virtual(tmp_path / "cut", given, "topk", publish=InterruptedAt(1))
    assert [e.round for e in again.history().rounds] == [1, 2, 3]
    assert models(again) == models(whole)
    rows = replay(again, {})
    assert len(rows) == ROUNDS + 1 and all(row.same for row in rows)


def test_what_was_not_sent_matters(tmp_path: Path, given: dict[str, Any]):
    """Without it the run goes on, to another model: the test above would notice."""
    whole = virtual(tmp_path / "whole", given, "topk")
    made = VirtualRun.start(
        tmp_path / "cut",
        {**given, "virtual": 2, "compression": "topk"},
        "the test",
        InterruptedAt(1),
    )
    with pytest.raises(KeyboardInterrupt):
        made.run()
    shutil.rmtree(made.folder.path / "residuals")
    VirtualRun(made.folder).run()
    assert models(made.folder)[0] == models(whole)[0]
    assert models(made.folder)[1:] != models(whole)[1:]


@pytest.mark.parametrize(
    ("compression", "fewer", "errors"),
    [("none", 1, (0, 0)), ("fp16", 1.95, (0, 1e-3)), ("int8", 3.9, (1e-3, 0.05)),
     ("topk", 12, (0.1, 1))],
)  # fmt: skip
def test_the_record_of_a_round_says_what_was_saved_and_lost(
    tmp_path: Path, given: dict[str, Any], compression: str, fewer: float, errors
):
    """Bytes up of each participant beside the model's, and the relative error."""
    for event in virtual(tmp_path, given, compression).history().rounds:
        for part in event.participants.values():
            assert event.size / part.bytes_up >= fewer * 0.99
            assert errors[0] <= part.compression_error <= errors[1]


@pytest.mark.parametrize("strategy", ["median", "trimmed-mean"])
def test_ranks_and_sparse_updates_are_refused_before_anything_starts(
    tmp_path: Path, given: dict[str, Any], strategy: str
):
    """They lost 17 points of accuracy together. A run that exists is still read."""
    pair = {**given, "virtual": 3, "strategy": strategy, "compression": "topk"}
    with pytest.raises(SettingsError, match=f"topk does not go with strategy {strategy}") as raised:
        VirtualRun.start(tmp_path, pair, "the test")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "runs").exists()
    stored = tmp_path / "run.toml"
    stored.write_text(to_toml(parse(pair, "here")))
    assert from_toml(stored).strategy == strategy
    assert first_model(pair, "run.toml", stored=True).settings.compression == "topk"


@pytest.mark.parametrize("strategy", ["median", "multi-krum", "fedadam", "trimmed-mean"])
def test_strategies_do_not_notice(tmp_path: Path, given: dict[str, Any], strategy: str):
    """They see whole models, whatever has travelled."""
    more = {"strategy": strategy, "rounds": 1, "clip_norm": 1.0}
    if strategy == "multi-krum":
        more["strategy_args"] = {"byzantine": 0}
    for compression in ("int8",) if strategy in ("median", "trimmed-mean") else ("int8", "topk"):
        folder = virtual(tmp_path / compression, {**given, **more, "virtual": 3}, compression)
        assert folder.history().state == "finished", folder.history().reason
