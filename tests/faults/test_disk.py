"""Disks that are full, fail, may only be read, tear a line, flip a bit; another machine's disk."""

import errno
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from bed import Bed
from dying import SETTINGS
from real_fleet import free_port, wait_for
from table import Result

from flctl.errors import FlctlError

pytestmark = pytest.mark.timeout(900)

MIB = 2**20
OF_READING = ("look ", "read ", "list ")
OF_A_DISK = (
    "write ", "open ", "mkdir ", "rename ", "link ", "fsync ", "fdatasync ", *OF_READING,
)  # fmt: skip


@pytest.fixture
def small_disk(bed: Bed) -> Iterator[Path]:
    """The coordinator's state on a file system of 40 MiB; skips where this user may mount none."""
    kept = bed.folder / "kept"
    bed.state.rename(kept)
    bed.state.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40m", "flctl-faults", bed.state]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may mount nothing")
    shutil.copytree(kept, bed.state, dirs_exist_ok=True)
    yield bed.state
    bed.destroy()
    subprocess.run(["umount", bed.state], check=True)


def fill(disk: Path, left: int = 0) -> Path:
    """A file that takes all room but `left` bytes."""
    path = disk / "filler"
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free - left)
    return path


def test_the_disk_is_full_while_updates_arrive(
    bed: Bed, row: Result, unbroken: Callable[..., None], small_disk: Path
):
    """The run pauses and says why; agents keep their updates, and the run goes on with them."""
    row.fault = "disk full during the spool (tmpfs)"
    bed.start_all()
    for name in bed.agents:
        bed.pace(name, 0.5)
    run = bed.begin(2, task="boulder", epochs=4)
    bed.until_training(*bed.agents)
    filler = fill(small_disk, left=MIB // 4)
    for name in bed.agents:
        bed.pace(name, 0)
    wait_for(lambda: status(bed, run)["state"] == "paused", "a pause", 60)
    assert "disk is full" in bed.log("coordinator")
    filler.unlink()
    began = time.monotonic()
    if bed.is_over(run) is None:  # there was no room even for the line that says so
        bed.kill("coordinator", signal.SIGTERM)
        bed.start_coordinator()
    else:
        bed.resume(run)
    bed.until_round(run, 1)
    row.recovered_s = time.monotonic() - began
    assert bed.until_over(run) == "finished"
    unbroken(bed, run)


def status(bed: Bed, run: str) -> dict[str, object]:
    with bed.console() as console:
        return console.about(run)


def test_without_room_for_a_round_none_is_opened(
    bed: Bed, row: Result, unbroken: Callable[..., None], small_disk: Path
):
    """Refused in words before anything is asked of the agents."""
    row.fault = "disk full before a round (tmpfs)"
    bed.start_all()
    filler = fill(small_disk, left=5 * MIB)
    run = bed.begin(2)
    assert bed.until_over(run) == "paused"
    assert "make room" in bed.events(run, "paused")[0]["reason"]
    assert not bed.events(run, "opened")
    filler.unlink()
    bed.resume(run)
    wait_for(lambda: bed.is_over(run) == "finished", "the end", 120)
    unbroken(bed, run)


@pytest.mark.parametrize("what", ["ENOSPC", "EIO"])
def test_the_disk_fails_once_at_every_point_of_a_round(
    bed: Bed, row: Result, chance: Random, unbroken: Callable[..., None], what: str
):
    """Spool, journal, checkpoint: the run goes on or pauses with the reason, and then goes on.

    Each point of writing has one of the two errors, with another seed the other one.
    """
    row.fault, row.times = f"disk fails ({what}) at each point of a round", 0
    names = bed.folder / "points"
    coordinators = {"role": "coordinator", "disk": str(bed.state)}
    bed.start_coordinator({**coordinators, "count": str(names)})
    for name in bed.agents:
        bed.start_agent(name)
    bed.until_ready()
    run = bed.begin(100_000, **SETTINGS)
    bed.until_round(run, 4)
    bed.kill("coordinator", signal.SIGTERM)
    passed = dict.fromkeys(names.read_text().splitlines())
    points = [p for p in passed if p.startswith(OF_A_DISK) and " runs/" not in p and in_round(p)]
    reading = [p for p in points if p.startswith(OF_READING)] if what == "EIO" else []
    writing = [p for p in points if not p.startswith(OF_READING)]
    share = [p for p in writing if (chance.random() < 0.5) == (what == "EIO")]
    pauses = 0
    for point in share + reading:
        once = bed.folder / "once"
        once.unlink(missing_ok=True)
        number = getattr(errno, what)
        bed.start_coordinator({**coordinators, "fail": point, "errno": number, "once": str(once)})
        begun = until_more(bed, run)
        if not once.exists() and not over(bed, run):  # as a new best model, which a new run has
            bed.stop(run)
            run = bed.begin(100_000, **SETTINGS)
            begun = until_more(bed, run)
        row.times += 1
        if over(bed, run):
            pauses += 1
            assert what == "EIO" or "full" in bed.log("coordinator")
            bed.resume(run)
            bed.until_round(run, begun + 1)
        assert bed.kill("coordinator", signal.SIGTERM) == 0, point
        assert once.exists(), f"never reached: {point}"
    bed.start_coordinator()
    bed.until_round(run, bed.committed(run) + 1)
    bed.stop(run)
    row.note(f"{pauses} of {row.times} times the run paused")
    unbroken(bed, run, end="stopped")


def test_the_disk_is_dead_for_a_while(
    bed: Bed, row: Result, chance: Random, unbroken: Callable[..., None]
):
    """Nothing can be read or written: the run pauses, the coordinator answers; then it goes on."""
    row.fault, row.times = "disk dead (EIO from everything)", 8
    dead = bed.folder / "dead"
    bed.start_coordinator({"role": "coordinator", "disk": str(bed.state), "dead": str(dead)})
    for name in bed.agents:
        bed.start_agent(name)
    bed.until_ready()
    run = bed.begin(100_000, **SETTINGS)
    for _ in range(row.times):
        begun = bed.committed(run)
        bed.until_round(run, begun + 1)
        time.sleep(chance.random() / 2)  # somewhere in a round
        dead.touch()
        began = time.monotonic()
        wait_for(lambda: over(bed, run), "a pause", 60)
        row.noticed_s = max(row.noticed_s or 0.0, time.monotonic() - began)
        with bed.console() as console, pytest.raises(FlctlError, match="Input/output error"):
            console.resume(run)
        dead.unlink()
        bed.resume(run)
    bed.until_round(run, bed.committed(run) + 1)
    bed.stop(run)
    unbroken(bed, run, end="stopped")


def test_the_card_of_an_agent_is_dead_for_a_while(
    bed: Bed, row: Result, unbroken: Callable[..., None]
):
    """It says so and stays; rounds go on without it, and with it again afterwards."""
    row.fault = "an agent's card dead (EIO from everything)"
    dead = bed.folder / "dead"
    bed.start_coordinator()
    bed.start_agent("pi-01", {"disk": str(bed.folder / "pi-01"), "dead": str(dead)})
    bed.start_agent("pi-02")
    bed.until_ready()
    run = bed.begin(100_000, **{**SETTINGS, "quorum": 0.5}, compression="topk")
    bed.until_round(run, 2)
    dead.touch()
    began = time.monotonic()
    wait_for(lambda: bed.events(run, "round")[-1]["missing"] == ["pi-01"], "a round without it", 60)
    row.noticed_s = time.monotonic() - began
    until_more(bed, run)
    assert "Input/output error" in bed.log("pi-01")
    began = time.monotonic()
    dead.unlink()
    wait_for(lambda: not bed.events(run, "round")[-1]["missing"], "a round with it", 60)
    row.recovered_s = time.monotonic() - began
    dead.touch()
    assert bed.kill("pi-01", signal.SIGTERM) == 0
    dead.unlink()
    assert "Traceback" not in bed.log("pi-01")
    bed.start_agent("pi-01")  # it could not tidy up; its next life does
    wait_for(lambda: bed.log("pi-01").count(" welcome ") == 2, "it is welcome")
    bed.stop(run)
    unbroken(bed, run, end="stopped", own_faults={"pi-01": 1})


def until_more(bed: Bed, run: str) -> int:
    """Three rounds more, or the end of the run; how many there were before."""
    begun = bed.committed(run)
    wait_for(lambda: bed.committed(run) >= begun + 3 or over(bed, run), f"{run} goes on", 240)
    return begun


def in_round(point: str) -> bool:
    return any(part in point for part in ("rounding", "training", "collection", "_sync_and_close"))


def over(bed: Bed, run: str) -> bool:
    """As far as the coordinator knows: its disk may know less."""
    return bed.training_status() is None


def test_a_state_folder_that_may_only_be_read(bed: Bed, row: Result, small_disk: Path):
    """Coordinator and agent each say it in one line that names the folder, and end with 1."""
    row.fault = "read-only state folder"
    subprocess.run(["mount", "-o", "remount,ro", bed.state], check=True)
    agent_state = bed.state / "agent"
    key = f"--server-key={bed.server_key}"
    for words in (
        ("coordinator", "--state", bed.state, "--bind", f"127.0.0.1:{bed.port}"),
        ("agent", "--state", agent_state, "--coordinator", bed.dialled, key),
    ):
        done = bed.flctl(*words)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert str(bed.state) in line and "read-only" in line, line
    row.noticed_s = 0.0


def test_a_torn_last_line_of_the_journal(bed: Bed, row: Result, unbroken: Callable[..., None]):
    """Half of it, and a whole one of zeros: cut off, and the run goes on."""
    row.fault, row.times = "torn last line of the journal", 2
    bed.start_all()
    for name in bed.agents:
        bed.pace(name, 0.1)
    run = bed.begin(3)
    journal = bed.state / "runs" / run / "journal.jsonl"
    for number, torn in enumerate((b'{"event":"round","at":17', b"\0" * 300 + b"\n"), start=1):
        bed.until_round(run, number)
        bed.kill("coordinator")
        with journal.open("ab") as file:
            file.write(torn)
        bed.start_coordinator()
    assert bed.until_over(run) == "finished"
    unbroken(bed, run)


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam"])
def test_a_bit_of_the_newest_checkpoint_is_flipped(
    bed: Bed, row: Result, chance: Random, unbroken: Callable[..., None], strategy: str
):
    """It is found by its digest, the one before is used, and that is said aloud."""
    row.fault = f"a bit flipped in the newest checkpoint ({strategy})"
    bed.start_all()
    for name in bed.agents:
        bed.pace(name, 0.3)
    run = bed.begin(5, strategy=strategy)
    bed.until_round(run, 3)
    bed.kill("coordinator")
    newest = bed.committed(run)
    path = bed.state / "runs" / run / "rounds" / f"{newest:04d}" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)
    began = time.monotonic()
    bed.start_coordinator()
    aloud = f"it continues with the model of round {newest - 1}"
    wait_for(lambda: aloud in bed.log("coordinator"), aloud, 60)
    row.noticed_s = time.monotonic() - began
    assert f"{path}: damaged" in bed.log("coordinator")
    for name in bed.agents:
        bed.pace(name, 0)
    assert bed.until_over(run) == "finished"
    # The round that was lost is trained again, and so may be one that was open upon it.
    unbroken(bed, run, lost_rounds=2)


def test_the_state_folder_goes_on_on_another_machine(
    bed: Bed, row: Result, unbroken: Callable[..., None]
):
    """Copied in the middle of a round: the same keys, the same round, the updates it had."""
    row.fault = "state folder copied elsewhere and resumed there"
    bed.start_all()
    bed.pace("pi-02", 0.5)
    run = bed.begin(2, epochs=5)
    wait_for(lambda: bed.events(run, "update"), "an update", 120)
    bed.kill("coordinator")
    old, bed.state = bed.state, bed.folder / "elsewhere"
    shutil.copytree(old, bed.state, ignore=shutil.ignore_patterns("*.sock"))
    shutil.rmtree(old)
    bed.port = free_port()
    bed.dialled = f"127.0.0.1:{bed.port}"
    for name in bed.agents:  # their owners name the new address
        bed.kill(name, signal.SIGTERM)
    bed.pace("pi-02", 0)
    began = time.monotonic()
    bed.start_coordinator()
    for name in bed.agents:
        bed.start_agent(name)
    bed.until_round(run, 1)
    row.recovered_s = time.monotonic() - began
    assert bed.until_over(run) == "finished"
    assert json.loads(bed.flctl("runs", "list", "--state", bed.state, "--json").stdout)
    unbroken(bed, run, own_faults={"pi-02": 1})
