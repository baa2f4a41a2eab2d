"""Rounds as a journal has them, and TensorBoard's own reading of events."""

from collections.abc import Callable
from pathlib import Path

import pytest

from flctl.core.events import Participant, RoundCommitted, Score
from flctl.wire.messages import Metrics

Scalars = dict[str, dict[int, list[float]]]


def made(round_id, *agents, source="coordinator", missing=(), **score):
    """Agent n has 10 n examples and a loss of n."""
    values = {"loss": 0.5, "accuracy": 0.75, "macro_f1": 0.625, **score}
    figures = {"values": values, "examples": 40}
    other = Metrics(values={"loss": 2.0, "accuracy": 0.25, "macro_f1": 0.125}, examples=7)
    return RoundCommitted(
        at=1e9 + round_id,
        round=round_id,
        attempt=1,
        model=f"{round_id:064d}",
        size=100,
        seconds=1.5,
        participants={
            f"pi-{n:02d}": Participant(
                examples=10 * n, batches=n, loss=float(n), last_loss=0.0, seconds=0.5, bytes_up=100
            )
            for n in agents
        },
        missing=tuple(missing),
        metrics=Score(
            **figures, source=source, beside={"pi-01" if source == "agents" else "unseen": other}
        ),
    )


@pytest.fixture
def make_round() -> Callable[..., RoundCommitted]:
    return made


@pytest.fixture(scope="session")
def scalars() -> Callable[[Path], Scalars]:
    """Tag → step → every value that a folder of events has for it."""

    def read(folder: Path) -> Scalars:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        found = EventAccumulator(str(folder), size_guidance={"scalars": 0})
        found.Reload()
        tags: Scalars = {}
        for tag in found.Tags()["scalars"]:
            for point in found.Scalars(tag):
                tags.setdefault(tag, {}).setdefault(point.step, []).append(point.value)
        return tags

    return read
