"""A coordinator that dies at one point after another, and goes on each time."""

import random
from collections.abc import Callable, Iterator
from typing import Any

from bed import WITHIN_S, Bed, Died
from checker import broken, evidence
from power import Disk
from real_fleet import wait_for
from table import Result

from flctl.errors import CoordinatorAway

SETTINGS: dict[str, Any] = {
    "task": "boulder", "batch_size": 4, "lr": 0.01, "quorum": 1.0, "deadline_s": 120.0,
    "strategy": "fedadam", "evaluate": "agents",
}  # fmt: skip


class Dying:
    """`how` says what the disk holds after each death: None: all that was written."""

    def __init__(
        self, bed: Bed, row: Result, chance: random.Random, how: Iterator[str] | None = None
    ) -> None:
        self.bed, self._row, self._chance, self._how = bed, row, chance, how
        self._lives = 0
        self._seen: set[str] = set()
        row.times = 0

    def live(self, die: str | None = None, torn: bool = False) -> bool:
        """Start the coordinator; False when it dies before it is ready."""
        self._lives += 1
        self._names = self.bed.folder / "points" / str(self._lives)
        self._record = self.bed.folder / "record"
        self._names.parent.mkdir(exist_ok=True)
        faults: dict[str, Any] = {"count": str(self._names), "role": "coordinator"}
        self._record.unlink(missing_ok=True)
        if self._how is not None:
            self._disk = Disk(self.bed.state)
            faults |= {"record": str(self._record), "root": str(self.bed.state)}
        if die is not None:
            faults |= {"die": die, "torn": torn}
        before = self.bed.log("coordinator").count("server key ")
        self.bed.start_coordinator(faults, ready=False)
        ready = lambda: self.bed.log("coordinator").count("server key ") > before  # noqa: E731
        return self.until(ready, "the coordinator")

    @property
    def dead(self) -> bool:
        return self.bed.ended("coordinator")

    def until(self, what: Callable[[], Any], name: str) -> bool:
        """Wait for it; False when the coordinator died before."""
        wait_for(lambda: self.dead or what(), name, WITHIN_S)
        return not self.dead

    def begin(self, rounds: int, **more: Any) -> str | None:
        """A new run; None when the coordinator died before it answered."""
        given = {**SETTINGS, "agents": list(self.bed.agents), "rounds": rounds, **more}
        try:
            with self.bed.console() as console:
                return console.start(given, "the test")
        except (Died, CoordinatorAway):
            return None

    def all_ready(self) -> bool:
        """False when the coordinator died before they were."""
        try:
            self.bed.until_ready()
        except Died:
            return False
        return True

    @property
    def unsafe(self) -> int:
        """How many updates could be taken back by the power cuts so far."""
        return self._row.times * len(self.bed.agents) if self._how is not None else 0

    def died(self, run: str | None) -> None:
        """What the disk holds now, and what must be true all the same."""
        assert self.bed.kill("coordinator") == -9, self.bed.log("coordinator")[-2000:]
        self._row.times += 1
        if self._how is not None:
            if self._record.exists():
                self._disk.replay(self._record)
            self._disk.rebuild(next(self._how), self._chance)
        if run is not None:
            found = evidence(self.bed, run, replay=False, over=False)
            lines = broken(found, end=None, unsafe=self.unsafe)
            assert not lines, "\n".join(lines)

    def new_points(self) -> list[str]:
        """Those that the last life has passed as the first."""
        names = self._names.read_text().splitlines() if self._names.exists() else []
        new = [name for name in dict.fromkeys(names) if name not in self._seen]
        self._seen.update(new)
        return new
