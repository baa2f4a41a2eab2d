"""The score of a round from the metrics of those who evaluated its model."""

import math
import sys
from collections import Counter

import msgspec

from flctl.core.history import Score
from flctl.core.metrics import classes_of, merge, without_counts
from flctl.errors import RunError
from flctl.wire.messages import Metrics

CLASSES = 20
"""With more of them, the journal keeps no counts by class of each agent's own."""


def by_coordinator(parts: dict[str, Metrics]) -> Score:
    """The first part counts, the others stand beside it. Raises RunError without any."""
    if not parts:
        raise RunError("the coordinator has no test data; go on with --evaluate agents")
    (name, main), *others = parts.items()
    return _score(main, "coordinator", name, dict(others))


def by_agents(answers: dict[str, Metrics]) -> Score | None:
    """Over the examples of all agents that answered; each agent's own stand beside.

    Those that are `outvoted` are left out, so that one agent cannot stop a run. None when no
    agent answered.
    """
    if not answers:
        return None
    others = outvoted(answers)
    alike = {a: m for a, m in sorted(answers.items()) if a not in others}
    classes = classes_of(next(iter(alike.values())))
    plain = {a: m if classes <= CLASSES else without_counts(m) for a, m in alike.items()}
    return _score(merge(list(alike.values())), "agents", "held out", plain)


def outvoted(answers: dict[str, Metrics]) -> list[str]:
    """Agents whose number of classes is not that of most."""
    sizes = Counter(classes_of(metrics) for metrics in answers.values())
    classes = min(sizes, key=lambda size: (-sizes[size], size), default=0)
    return sorted(a for a, metrics in answers.items() if classes_of(metrics) != classes)


def _score(main: Metrics, source: str, part: str, beside: dict[str, Metrics]) -> Score:
    return Score(
        loss=_finite(main.loss),
        accuracy=main.accuracy,
        macro_f1=main.macro_f1,
        examples=main.examples,
        source=source,
        part=part,
        confusion=main.confusion,
        per_class=main.per_class,
        beside={n: msgspec.structs.replace(m, loss=_finite(m.loss)) for n, m in beside.items()},
    )


def _finite(loss: float) -> float:
    """The loss of a model that has diverged as the largest number: JSON has no other."""
    return loss if math.isfinite(loss) else sys.float_info.max
