"""The agents of the next round hear of its model before the last one is committed."""

from collections.abc import Callable, Sequence

import pytest
from memory_fleet import MemoryFleet
from memory_network import Fate

from flctl.coordinator.run import aggregation
from flctl.transport.channel import Frame
from flctl.wire import framing
from flctl.wire.messages import Fetch, NextModel, Train

Heard = list[tuple[str, str]]
"""Agent, and the model that was named to it or ordered."""


def listen(fleet: MemoryFleet) -> tuple[Heard, Heard, set[str]]:
    """Models that agents hear of, those of their orders, and those that they fetch."""
    named: Heard = []
    ordered: Heard = []
    fetched: set[str] = set()
    down, up = framing.to_agent(), framing.to_coordinator()
    names = {agent.keys.public: name for name, agent in fleet.agents.items()}

    def fault(key: str, frames: Sequence[Frame]) -> Fate:
        for decode in (down, up):
            try:
                _, message, _ = decode(frames)
            except Exception:
                continue
            match message:
                case NextModel(model=model):
                    named.append((names[key], model.blob))
                case Train(key=work):
                    ordered.append((names[key], work.base))
                case Fetch(blob=blob):
                    fetched.add(blob)
        return Fate()

    fleet.network.fault = fault
    return named, ordered, fetched


def test_the_model_of_each_round_but_the_last_is_named_to_the_agents_of_the_next(
    fleet: MemoryFleet,
):
    named, ordered, _ = listen(fleet)
    fleet.start_run(rounds=3, evaluate="none")
    history = fleet.finish()
    models = [event.model for event in history.rounds]
    assert named == [(agent, model) for model in models[:2] for agent in sorted(fleet.agents)]
    assert sorted(ordered[3:]) == sorted(named)


def test_only_those_that_are_drawn_hear_of_it(make_fleet: Callable[[int], MemoryFleet]):
    fleet = make_fleet(6)
    named, ordered, _ = listen(fleet)
    fleet.start_run(rounds=4, fraction=0.5, evaluate="none")
    fleet.finish()
    assert len(named) == 9 and sorted(named) == sorted(ordered[3:])


def test_it_is_named_before_it_is_on_disk_and_ordered_after_the_commit(
    fleet: MemoryFleet, monkeypatch: pytest.MonkeyPatch
):
    waits: list[tuple[int, int, int]] = []

    class Watched(aggregation.Syncing):
        def wait(self) -> None:
            waits.append((fleet.history().round, len(named), len(ordered)))
            super().wait()

    monkeypatch.setattr(aggregation, "Syncing", Watched)
    named, ordered, fetched = listen(fleet)
    fleet.start_run(rounds=2, evaluate="none")
    fleet.finish()
    assert waits == [(0, 3, 3), (1, 3, 6)]
    assert named[0][1] in fetched
