"""The score of a round from the sums of those who evaluated its model."""

from collections.abc import Collection, Mapping
from typing import get_args

from msgspec.structs import replace

from flctl.core.events import Score
from flctl.core.metrics import Derive, merge, metrics_of
from flctl.errors import RunError
from flctl.wire.messages import VALIDATION, MeasuredPart, Measures, Sums

AGENTS = 1000
"""Most agents whose own figures a journal holds: the first ones by name."""
CLASSES = 20
"""With more of them, and of scores, the journal keeps no counts of other parts and agents."""
Answers = Mapping[MeasuredPart, Mapping[str, Sums]]
"""By part, and by agent."""


def parts_to_ask_for(
    how: str, found: Collection[str], last: bool = False
) -> tuple[MeasuredPart, ...]:
    """Parts to ask the agents for, besides those that the coordinator has `found`; in the `last`
    round of a run each measures its own test part anyway. Raises RunError if only the coordinator
    may measure and it has no test data."""
    here = {"validation" if name == VALIDATION else "test" for name in found}
    here -= {"test"} if last else set()
    if how != "coordinator":
        return tuple(part for part in get_args(MeasuredPart) if part not in here)
    if {*found} <= {VALIDATION}:
        raise RunError("the coordinator has no test data; use --evaluate agents")
    return ()


def scored(
    found: Mapping[str, Sums],
    answers: Answers,
    measures: Measures,
    derive: Derive = lambda _: {},
) -> Score | None:
    """The first part for testing of those that the coordinator has `found` counts, or what agents
    hold out, all together; others are reported with it. Without any, the validation part does."""
    tests = {name: sums for name, sums in found.items() if name != VALIDATION}
    given = {part: dict(sorted(own.items())) for part, own in answers.items() if own}
    together = {part: merge(list(own.values())) for part, own in given.items()}
    validation, chooser = together.get("validation"), "agents"
    if VALIDATION in found:
        validation, chooser = found[VALIDATION], "coordinator"
    if tests:
        (part, main), *others = tests.items()
        source, beside = "coordinator", dict(others)
    elif "test" in together:
        part, main, source, beside = "held out", together["test"], "agents", given["test"]
    elif validation is not None:
        part, main, source, beside = VALIDATION, validation, chooser, {}
        beside = given["validation"] if chooser == "agents" else {}
    else:
        return None
    figures, others_ = metrics_of(main, measures, derive), {}
    for name, sums in beside.items():
        own = metrics_of(sums, measures, derive)
        few = measures.classes <= CLASSES and measures.says != "score"
        others_[name] = own if few else replace(own, counts={})
    chosen = None if validation is None else metrics_of(validation, measures, derive)
    if chosen is not None and not (measures.says == "class" and measures.classes <= CLASSES):
        chosen = replace(chosen, counts={})  # of others a correction is fitted to them
    return Score(
        examples=figures.examples,
        values=figures.values,
        source=source,
        part=part,
        counts=figures.counts,
        units=figures.units,
        constant=figures.constant,
        beside=others_,
        own={
            name: replace(metrics_of(sums, measures, derive), counts={})
            for name, sums in list(given.get("test", {}).items())[:AGENTS]
            if tests
        },
        validation=chosen,
        validated_by=chooser,
        primary=measures.chooses,
    )
