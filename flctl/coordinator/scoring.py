"""The score of a round from the metrics of those who evaluated its model."""

import msgspec

from flctl.core.history import Score
from flctl.core.metrics import merge
from flctl.errors import RunError
from flctl.wire.messages import Metrics


def by_coordinator(parts: dict[str, Metrics]) -> Score:
    """The first part counts, the others stand beside it. Raises RunError without any."""
    if not parts:
        raise RunError("the coordinator has no test data; name some with --test-data")
    (name, main), *others = parts.items()
    return _score(main, "coordinator", name, dict(others))


def by_agents(answers: dict[str, Metrics]) -> Score | None:
    """Over the examples of all agents that answered; each agent's own stand beside.

    None when nobody answered. Raises RunError when they do not have the same classes.
    """
    if not answers:
        return None
    try:
        merged = merge([answers[agent] for agent in sorted(answers)])
    except ValueError as error:
        raise RunError(f"the agents' metrics cannot be merged: {error}") from error
    plain = {a: msgspec.structs.replace(m, confusion=()) for a, m in sorted(answers.items())}
    return _score(merged, "agents", "held out", plain)


def _score(main: Metrics, source: str, part: str, beside: dict[str, Metrics]) -> Score:
    return Score(
        loss=main.loss,
        accuracy=main.accuracy,
        macro_f1=main.macro_f1,
        examples=main.examples,
        source=source,
        part=part,
        confusion=main.confusion,
        beside=beside,
    )
