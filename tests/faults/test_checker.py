"""The checker itself: it sees each promise that is broken, and nothing else."""

import copy
import fcntl
import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bed import MARK, Bed
from checker import Evidence, broken, digest, left_over, read_log, spools, unsealed

pytestmark = pytest.mark.smoke


def update(number: int, agent: str, **more: Any) -> dict[str, Any]:
    line = {"event": "update", "round": number, "agent": agent, "examples": 7, "batches": 2}
    return {**line, **more}


def committed(number: int, *agents: str) -> dict[str, Any]:
    parts = {agent: {"examples": 7, "batches": 2} for agent in agents}
    score = {"validation": {"values": {"loss": 1 / number}}}
    model = f"model-{number}"
    return {
        "event": "round", "round": number, "model": model, "participants": parts, "metrics": score,
    }  # fmt: skip


def opened(number: int) -> dict[str, Any]:
    return {"event": "opened", "round": number, "base": f"model-{number - 1}"}


@pytest.fixture
def good() -> Evidence:
    """Two rounds of two agents, as they should be."""
    agents = ("pi-01", "pi-02")
    found = Evidence("a-run", [{"event": "started", "model": "model-0"}])
    for number in (1, 2):
        found.journal.append(opened(number))
        found.journal += [update(number, agent) for agent in agents]
        found.journal.append(committed(number, *agents))
        found.models[number] = f"model-{number}"
        for agent in agents:
            for what in ("train begins", "trained examples=7", "update accepted"):
                read_log(found, f"INFO round={number} agent={agent} run=a-run {what}\n")
    found.journal.append({"event": "finished"})
    found.last = found.best = "model-2"
    found.replayed = True
    return found


def test_a_good_run_breaks_nothing(good: Evidence):
    assert broken(good) == []


def swap(found: Evidence) -> None:
    lines = found.journal
    lines[4], lines[8] = lines[8], lines[4]


def another_base(found: Evidence) -> None:
    found.journal[5]["base"] = "model-7"


def twice(found: Evidence) -> None:
    found.journal.insert(5, copy.deepcopy(found.journal[4]))


def unfinished(found: Evidence) -> None:
    found.journal.pop()


def torn(found: Evidence) -> None:
    found.torn = True


def unchained(found: Evidence) -> None:
    found.unsealed = [3]


def counted_unaccepted(found: Evidence) -> None:
    del found.journal[2]


def accepted_lost(found: Evidence) -> None:
    del found.journal[4]["participants"]["pi-01"]
    found.told_safe.discard(("pi-01", 1))


def told_and_lost(found: Evidence) -> None:
    del found.journal[2]
    del found.journal[3]["participants"]["pi-01"]


def told_and_not_counted(found: Evidence) -> None:
    found.journal[4]["participants"].pop("pi-02")


def accepted_twice(found: Evidence) -> None:
    found.journal.insert(3, update(1, "pi-01"))


def other_weight(found: Evidence) -> None:
    found.journal[4]["participants"]["pi-01"]["examples"] = 8


def flipped(found: Evidence) -> None:
    found.models[1] = "something else"


def missing_checkpoint(found: Evidence) -> None:
    del found.models[2]


def old_last(found: Evidence) -> None:
    found.last = "model-1"


def no_best(found: Evidence) -> None:
    found.best = None


def other_bytes(found: Evidence) -> None:
    found.replayed = False


def trained_twice(found: Evidence) -> None:
    found.trained["pi-01", 2] += 1


def began_twice(found: Evidence) -> None:
    found.began["pi-02", 1] += 1


def never_trained(found: Evidence) -> None:
    del found.trained["pi-01", 1]


def left(found: Evidence) -> None:
    found.left.append("process 12 flctl agent")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (swap, "committed in the order [2, 1]"),
        (another_base, "round 2 began with another model"),
        (twice, "committed in the order [1, 1, 2]"),
        (unfinished, "the run ended with"),
        (torn, "half a line"),
        (unchained, "the chain of the journal breaks at line 3"),
        (counted_unaccepted, "round 1 counts an update of pi-01 that was never accepted"),
        (accepted_lost, "round 1 lost the accepted update of pi-01"),
        (told_and_lost, "pi-01 was told that its update of round 1 is safe; it is not there"),
        (told_and_not_counted, "pi-02 was told that its update of round 1 is safe; it did not"),
        (accepted_twice, "1 updates were accepted a second time"),
        (other_weight, "counts pi-01 with other examples"),
        (flipped, "the checkpoint of round 1 is not the one of the journal"),
        (missing_checkpoint, "the checkpoint of round 2 is missing"),
        (old_last, "last.safetensors is not the last round's model"),
        (no_best, "best.safetensors is not the best round's model"),
        (other_bytes, "computed again without faults gives another model"),
        (trained_twice, "pi-01 trained 1 times in vain (rounds [2])"),
        (began_twice, "pi-02 began to train 1 times in vain (rounds [1])"),
        (never_trained, "pi-01 says that it never trained round 1"),
        (left, "left behind: process 12"),
    ],
)
def test_each_broken_promise_is_seen(good: Evidence, spoil: Callable[[Evidence], None], says: str):
    spoil(good)
    assert any(says in line for line in broken(good)), broken(good)


def test_faults_of_its_own_excuse_an_agent_as_often_as_they_befell_it(good: Evidence):
    """One kill of pi-01 excuses one more training of pi-01: not two, and none of pi-02."""
    trained_twice(good)
    assert broken(good, own_faults={"pi-01": 1}) == []
    assert broken(good, own_faults={"pi-02": 1}) != []
    trained_twice(good)
    assert broken(good, own_faults={"pi-01": 1}) != []


def test_what_is_left_over_is_found(tmp_path: Path):
    """A process by its mark, files by their names, a lock only while somebody holds it."""
    bed = Bed(tmp_path)
    rounds = bed.state / "runs" / "a-run" / "rounds" / "0001"
    rounds.mkdir(parents=True)
    lock = bed.state / "coordinator.lock"
    lock.touch()
    for good in (rounds / "model.safetensors", bed.folder / "pi-01" / "name"):
        good.touch()
    assert left_over(bed) == []
    (rounds / "updates").mkdir()
    assert spools(rounds.parents[1], [opened(1)]) == []
    assert spools(rounds.parents[1], [committed(1)]) == ["spool rounds/0001/updates"]
    assert digest(rounds / "model.safetensors") != digest(bed.data("pi-01"))
    (rounds / ".model.safetensors.tmp").touch()
    (bed.folder / "tmp" / "flctl-local-1").mkdir()
    (bed.folder / "pi-02" / ".part").touch()
    sleeper = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], env={MARK: bed.mark}
    )
    try:
        with lock.open() as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            found = "\n".join(left_over(bed))
        assert len(found.splitlines()) == 5, found
        for what in (
            f"process {sleeper.pid}",
            "temporary file state/runs/a-run/rounds/0001/.model.safetensors.tmp",
            "temporary file pi-02/.part", "lock state/coordinator.lock", "tmp/flctl-local-1",
        ):  # fmt: skip
            assert what in found
    finally:
        sleeper.kill()
        sleeper.wait()


def test_the_chain_is_checked_line_by_line():
    """With sha256 alone; a torn last line does not count."""
    lines, chain = [], ""
    for body in (b'{"n":1}', b'{"n":2}', b'{"n":3}'):
        chain = hashlib.sha256(chain.encode() + body).hexdigest()
        lines.append(body[:-1] + f',"chain":"{chain}"}}'.encode())
    whole = b"\n".join(lines) + b"\n"
    assert unsealed(whole) == [] == unsealed(whole[:-1]) == unsealed(whole + b"half")
    assert unsealed(whole.replace(b'"n":2', b'"n":7'))[0] == 2


@pytest.mark.parametrize(("restarted", "unsafe", "fine"), [
    (True, 1, True), (True, 0, False), (False, 1, False),
])  # fmt: skip
def test_only_a_power_cut_takes_an_update_that_was_not_safe(good, restarted, unsafe, fine):
    """It comes once more after the next start, and never twice within one life."""
    at = good.journal.index(update(1, "pi-01"))
    resumed = [{"event": "resumed"}] if restarted else []
    good.journal[at + 1 : at + 1] = [*resumed, update(1, "pi-01")]
    lines = broken(good, unsafe=unsafe)
    assert lines == ([] if fine else ["1 updates were accepted a second time"])
