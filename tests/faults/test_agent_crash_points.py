"""An agent dies once at every point where it writes, syncs, renames or sends; so does its worker.

Also with power lost: then its card holds what was synced. Everything else is as in
`test_crash_points`. Updates are compressed with top-k: what was not sent yet is on the card, and
so are the private tensors of a model that has some.
"""

from collections import deque
from collections.abc import Callable
from random import Random

import pytest
from bed import WITHIN_S, Bed
from power import Disk, modes
from real_fleet import wait_for
from table import Result

pytestmark = pytest.mark.timeout(3000)

VICTIM = "pi-01"
PATIENCE = 4
SETTINGS = {
    "lr": 0.01, "compression": "topk", "topk_share": 0.01, "epochs": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("who", "task"),
    [
        ("supervisor", "boulder"),
        ("supervisor-power", "boulder"),
        ("worker", "boulder"),
        ("supervisor-power", "hermit"),
        ("worker", "hermit"),
    ],
)
def test_an_agent_dies_at_every_point(
    bed: Bed, row: Result, chance: Random, unbroken: Callable[..., None], who: str, task: str
):
    """Its round is trained again by its next life, and comes out the same."""
    private = " with private tensors" if task == "hermit" else ""
    row.fault, row.times = f"{who}{private} dies at each of its points", 0
    bed.start_coordinator()
    bed.start_agent("pi-02")
    victims = Victims(bed, chance, "worker" if who == "worker" else "agent", "power" in who)
    victims.live(None)
    bed.until_ready()
    run = bed.begin(100_000, **SETTINGS, task=task)
    bed.until_round(run, PATIENCE)
    pending = deque(victims.new_deaths())
    missed = []
    bed.kill(VICTIM)
    killed = 1
    while pending:
        point, torn = pending.popleft()
        from_round = bed.committed(run)
        victims.live(point, torn)
        if victims.dies(lambda a=from_round: bed.committed(run) >= a + PATIENCE):
            row.times += 1
        else:
            missed.append(point)
        killed += victims.bury()
        pending.extend(victims.new_deaths())
    welcomes = bed.log(VICTIM).count(" welcome ")
    victims.live(None)
    # Else its life before may have done all for the round, and it is ended while it starts.
    wait_for(lambda: bed.log(VICTIM).count(" welcome ") > welcomes, "its last life", WITHIN_S)
    bed.until_round(run, bed.committed(run) + 1)
    bed.stop(run)
    row.note(f"{len(missed)} points did not come again: {'; '.join(missed)}")
    assert not any(line.get("private_lost") for line in bed.events(run, "update"))
    unbroken(bed, run, end="stopped", own_faults={VICTIM: killed + row.times})


class Victims:
    """One life of the victim after the other."""

    def __init__(self, bed: Bed, chance: Random, role: str, power: bool) -> None:
        self._bed, self._chance, self._role = bed, chance, role
        self._how = modes(chance) if power else None
        self._folder = bed.folder / "points"
        self._folder.mkdir()
        self._lives = 0
        self._seen: set[str] = set()

    def live(self, die: str | None, torn: bool = False) -> None:
        self._lives += 1
        self._names, self._once = self._file("names"), self._file("once")
        self._record = self._file("record")
        faults = {"count": str(self._names), "role": self._role, "once": str(self._once)}
        if die is not None:
            faults |= {"die": die, "torn": torn}
        card = self._bed.folder / VICTIM
        if self._how is not None:
            self._disk = Disk(card)
            # Its worker writes to the card too, and loses power with it.
            faults |= {"record": str(self._record), "root": str(card)}
            del faults["role"]
        self._bed.start_agent(VICTIM, faults)

    def dies(self, give_up: Callable[[], bool]) -> bool:
        """Wait for it. A worker's death must not be its supervisor's."""
        wait_for(lambda: self._once.exists() or give_up(), "the death", WITHIN_S)
        if not self._once.exists():
            return False
        if self._role == "worker":
            round_id = self._bed.committed(self._bed.runs()[-1])
            self._bed.until_round(self._bed.runs()[-1], round_id + 1)
            assert not self._bed.ended(VICTIM)
        elif self._how is None:
            assert self._bed.bury(VICTIM) == -9
        return True

    def bury(self) -> int:
        """End this life, if it has not ended; how many there were to end."""
        there = VICTIM in self._bed.processes
        if there:
            worker = self._bed.worker_of(VICTIM)
            self._bed.kill(VICTIM)
            if worker is not None:
                worker.wait(10)
        if self._how is not None:
            if self._record.exists():
                self._disk.replay(self._record)
            self._disk.rebuild(next(self._how), self._chance)
        return int(there)

    def new_deaths(self) -> list[tuple[str, bool]]:
        names = self._names.read_text().splitlines() if self._names.exists() else []
        new = [name for name in dict.fromkeys(names) if name not in self._seen]
        self._seen.update(new)
        return [(name, torn) for name in new for torn in {False, name.startswith("write ")}]

    def _file(self, what: str):
        return self._folder / f"{what}-{self._lives}"
