"""What the class of a task declares, checked before it is used."""

from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from flctl.core.metrics import DEFINED, LOSS, MOST_SCORED, SPREAD, tables
from flctl.errors import TaskError, one_line
from flctl.learning.guard import kind
from flctl.learning.unread import unread
from flctl.wire.messages import MOST_NAMED, Measures

if TYPE_CHECKING:
    from flctl.learning.task import Task


def check_attributes(ref: str, found: "type[Task]") -> None:
    """Raises TaskError."""
    said = f"task '{ref}': {found.__name__}"
    from_args = hasattr(found.args, "classes")
    named = ["name"] if found.says in ("number", "score") or from_args else ["name", "classes"]
    for attribute in named:
        if not getattr(found, attribute, None):
            raise TaskError(f"{said} does not say its '{attribute}'")
    if found.says == "number" and found.classes:
        raise TaskError(
            f"{said} has 'classes': derive it from flctl.Classification, or "
            "MultiLabel where an example can be of several"
        )
    of = f"task '{ref}': the '{{}}' of {found.__name__}"
    if not isinstance(found.name, str):
        raise TaskError(f"{of.format('name')} is {kind(found.name)}, no text")
    if not _are_names(found.classes):
        raise TaskError(f"{of.format('classes')} are no tuple of texts")
    if wrong := wrong_measures(found) or wrong_threshold(found):
        raise TaskError(f"{said}: {wrong}")
    for name, near in unread(ref, found).items():
        if near:
            raise TaskError(
                f"{said}: its '{name}' is read by nothing; did you mean '{near}'? Begin a name of "
                "your own that only other programs read with _"
            )


def wrong_measures(found: "type[Task]") -> str:
    """Problem with the metrics of a task, or its other numbers and names; an empty string if there
    is none."""
    if not _are_names(found.private):
        return "its 'private' is no tuple of texts"
    if not 0 <= found.validation_share < 1:
        return f"its validation_share is {found.validation_share}, not from 0 to below 1"
    try:
        measures = msgspec.convert(msgspec.to_builtins(measures_of(found)), Measures)
    except (msgspec.ValidationError, TypeError, AttributeError) as error:
        return f"its metrics: {one_line(error)}"
    return _wrong_names(measures, [metric.name for metric in measures.metrics])


def wrong_threshold(found: "Task | type[Task]") -> str:
    """Problem with the threshold of a task with labels; an empty string if there is none."""
    given = getattr(found, "threshold", None)
    if found.says != "labels" or not isinstance(given, int | float | str | tuple | list):
        return ""  # one that is a property is looked at when it is known
    each = given if isinstance(given, tuple | list) else [given] * len(found.classes)
    numbers = all(isinstance(n, int | float) and 0 < n <= 1 for n in each)
    if numbers and len(each) == len(found.classes):
        return ""
    return f"its threshold is {given!r}: a number above 0 up to 1, or one for each label"


def _wrong_names(measures: Measures, names: list[str]) -> str:
    if measures.primary not in names or len(set(names)) < len(names):
        return f"its metrics are {names}: name each once, and one of them as primary"
    if f"{LOSS.name}{SPREAD}" in names:
        return "the loss is known of each batch, not of each example: it has no spread"
    if "auroc" in names and measures.classes > MOST_SCORED:
        return f"auroc is measured for {MOST_SCORED} classes at most, it has {measures.classes}"
    there = tables(measures).keys()
    for name in names:
        if name in DEFINED and DEFINED[name].tables and not there & {*DEFINED[name].tables}:
            return f"its models say of an example its {measures.says}: {name} is not for that"
    return ""


def measures_of(found: "Task | type[Task]") -> Measures:
    """The errors of numbers are in the task's own unit."""
    metrics = tuple(
        replace(m, unit=m.unit or found.unit) if m.name in ("mae", "rmse") else m
        for m in found.metrics
    )
    of = len(found.classes)
    names = tuple(name[:200] for name in found.classes) if of <= MOST_NAMED else ()
    return Measures(
        metrics=metrics, primary=found.primary, classes=of, says=found.says, names=names
    )


def _are_names(classes: object) -> bool:
    return isinstance(classes, tuple | list) and all(isinstance(name, str) for name in classes)
