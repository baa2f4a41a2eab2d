"""What flctl 0.1 has left: runs of schema 1, keys, enrolments; and its frames on the wire."""

import json
import shutil
from pathlib import Path

import pytest

from flctl.coordinator.store.folder import RunFolder
from flctl.coordinator.store.over import RunsOver
from flctl.errors import ProtocolMismatch, UsageError
from flctl.fleet.replay import replay
from flctl.fleet.virtual import VirtualRun
from flctl.transport.allowlist import read
from flctl.transport.gate import Gate
from flctl.wire import framing

OLD = Path(__file__).parents[1] / "data" / "flctl-0.1"
RUN = "old-1127-144759-e133"
FRAMES = {
    name: [bytes.fromhex(frame) for frame in frames]
    for name, frames in json.loads((OLD / "frames.json").read_text()).items()
}


@pytest.fixture
def state(tmp_path: Path) -> Path:
    shutil.copytree(OLD, tmp_path / "state")
    return tmp_path / "state"


def test_a_run_of_schema_1_is_read_by_every_command(flctl, state: Path, tmp_path: Path):
    """Listed, shown, drawn, exported, and its chain verified."""
    listed = flctl("runs", "list", "--json", "--state", state)
    rows = json.loads(listed.out)
    assert len(rows) == 1, rows
    row = rows[0]
    assert (row["run"], row["state"], row["round"]) == (RUN, "finished", 2)
    shown = flctl("runs", "show", RUN, "--json", "--state", state)
    assert shown.code == 0 and len(json.loads(shown.out)["events"]) == 12
    for words in (
        ("show", RUN),
        ("verify", RUN),
        ("plot", RUN, "--out", tmp_path / "run.png"),
        ("export", RUN, "--format", "csv", "--out", tmp_path / "tables"),
    ):
        done = flctl("runs", *words, "--state", state)
        assert done.code == 0, (words, done.err)
    assert (tmp_path / "run.png").stat().st_size > 1000


def test_a_run_of_schema_1_is_not_gone_on_with(state: Path):
    """One line that says who made it and how to begin another with its settings."""
    folder = RunFolder(state / "runs" / RUN)
    lines = folder.journal_path.read_bytes().splitlines(keepends=True)
    folder.journal_path.write_bytes(b"".join(lines[:-1]))
    assert folder.history().state == "running"
    with pytest.raises(UsageError, match=r"made by flctl 0\.1\.0 \(schema 1\).*flctl train .*toml"):
        VirtualRun(folder)
    with pytest.raises(UsageError, match="cannot be replayed"):
        replay(folder, {})
    assert RunsOver(state, Gate()).is_over(RUN, "pi-01")
    assert folder.journal_path.read_bytes() == b"".join(lines[:-1])


@pytest.mark.parametrize("name", ["Hello", "Heartbeat", "UpdateReady", "Join", "Ask"])
def test_frames_of_protocol_1_are_too_old(name: str):
    """Known by their first frame; the rest is not looked at."""
    with pytest.raises(ProtocolMismatch) as caught:
        framing.to_coordinator()(FRAMES[name])
    assert (caught.value.theirs, caught.value.age) == (1, "too old")


def test_the_notice_is_the_one_that_protocol_1_reads():
    """Its form is for ever."""
    ours = [bytes(frame) for frame in framing.notice("0.1.0", oldest=1, newest=1)]
    assert ours == FRAMES["notice"]


def test_enrolments_go_on_working(state: Path):
    """The list of keys has its own schema, which has not changed."""
    assert [(entry.name, entry.role) for entry in read(state / "keys" / "allowed.json").keys] == [
        ("pi-01", "agent")
    ]
