"""An agent is told that its update is safe only when it is."""

from typing import Any

from flctl.coordinator.run.accepting import Accepting


class Syncing:
    def __init__(self) -> None:
        self.waited = False

    def wait(self) -> None:
        self.waited = True


class Journal:
    def __init__(self) -> None:
        self.syncs = 0

    def sync(self) -> None:
        self.syncs += 1


def _accepting(told: list[str]) -> tuple[Any, Any]:
    journal: Any = Journal()
    return Accepting(journal, told.append), journal


def test_with_nothing_to_sync_it_is_told_at_once():
    told: list[str] = []
    accepting, journal = _accepting(told)
    accepting.accept("pi-01")
    accepting.wait()
    assert told == ["pi-01"]
    assert journal.syncs == 0


def test_it_is_told_only_after_the_sync_and_all_at_once():
    told: list[str] = []
    accepting, journal = _accepting(told)
    syncing: Any = Syncing()
    accepting.after(syncing)
    for agent in ("pi-01", "pi-02"):
        accepting.accept(agent)
    assert told == []
    accepting.wait()
    assert told == []
    assert syncing.waited and journal.syncs == 1
    accepting.safe()
    assert told == ["pi-01", "pi-02"]


def test_nobody_is_told_twice():
    told: list[str] = []
    accepting, _ = _accepting(told)
    syncing: Any = Syncing()
    accepting.after(syncing)
    accepting.accept("pi-01")
    accepting.safe()
    accepting.safe()
    accepting.accept("pi-02")
    assert told == ["pi-01", "pi-02"]
