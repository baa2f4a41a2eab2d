"""A run's events as lines: for a pipe, a file or a log."""

from collections.abc import Mapping
from typing import Any

import msgspec

from flctl.core.events import (
    AttemptFailed,
    PauseOrdered,
    RoundCommitted,
    RoundsWithdrawn,
    RunResumed,
    Score,
    UpdateRejected,
    UpdateStored,
)
from flctl.core.history import why_no_best
from flctl.core.metrics import each_figure, is_defined, label
from flctl.core.stream import ENDS, AgentFailed, AgentLost, AgentsAwaited, BatchTrained, Published
from flctl.formats import counted, few, figure, span
from flctl.wire.messages import TRAINING, VALIDATION


def round_line(event: RoundCommitted, rounds: int) -> str:
    """A committed round on one line."""
    parts = [f"round {event.round:{len(str(rounds))}d}/{rounds}"]
    score = event.metrics
    if score is not None:
        parts.append(f"on {score.part}:")
        parts += each_figure(score)
        if score.chosen is not None and score.chosen_on != score.part:
            name, unit = label(score.primary.name), (score.units or {}).get(score.primary.name, "")
            chosen = f"{name} {figure(score.chosen, 4)} {unit}".rstrip()
            parts.append(f"on {score.chosen_on}: {chosen}")
    parts.append(counted(len(event.participants), "agent"))
    parts.append(span(event.seconds))
    if event.missing:
        parts.append(f"without {few(event.missing)}")
    return "  ".join(parts)


def measured_by(metrics: Mapping[str, Any]) -> str:
    """Who measured the model."""
    part = str(metrics.get("part", "test"))
    if part.startswith(TRAINING):
        return (
            "measured on its own training data, which says nothing about quality: name other "
            "data with --test-data"
        )
    if part == VALIDATION:
        return (
            "measured on the validation part alone: no test data; name some with --test-data, or "
            "have agents hold some out"
        )
    best = (
        "" if metrics.get("validation") else "; no round is the best: there is no validation part"
    )
    if metrics.get("source") != "agents":
        return f"measured by the coordinator, on its part '{part}'{best}"
    who = few(metrics.get("beside") or ())
    return (f"measured by agents: {who}" if who else "measured by agents") + best


def without_best(metrics: Mapping[str, Any]) -> str:
    """Why no round is the best, where a validation part was measured; else an empty string."""
    score = msgspec.convert(metrics, Score) if metrics else None
    if score is None or score.chosen is None or is_defined(score.chosen):
        return ""
    return f"no round is the best: {why_no_best([score])}; choose another 'primary', or other data"


def trouble_line(told: Published) -> str:
    """What went wrong, and with which agent; empty for other events."""
    event, text = told.event, ""
    match event:
        case UpdateRejected():
            text = f"{event.agent}: update rejected: {event.reason}"
        case UpdateStored(private_lost=True):
            text = f"{event.agent} lost its private tensors: it started again from the initial ones"
        case AgentLost():
            text = f"{event.agent} lost: {event.reason}"
        case AgentFailed():
            how = "" if event.kind == "owner" else f" failed: {event.kind}"
            again = "; it tries again" if event.retrying and how else ""
            text = f"{event.agent}{how}: {event.message}{again}"
        case AttemptFailed():
            text = f"attempt {event.attempt} failed: {event.reason}"
        case RoundsWithdrawn():
            return f"{event.reason}; the rounds after round {event.round} are repeated"
        case RunResumed() if event.other_code:
            return (
                f"the {event.other_code}'s code has changed since run {told.run} began: a replay "
                "differs from here on; to avoid this, stop the run, install the earlier code, and "
                "resume it"
            )
        case RoundCommitted() if event.changed_data:
            text = f"the data of {few(event.changed_data)} have changed: a replay ends here"
        case PauseOrdered():
            return (
                "an operator resumes the run"
                if event.withdrawn
                else ("an operator pauses the run: no round follows the one that is open")
            )
        case AgentsAwaited():
            text = f"waiting for agents: {event.missing or ''}".rstrip(": ")
            if event.needed:
                text += f"; {len(event.ready)} of {event.needed} needed are ready"
            if event.left_s:
                text += f", for {span(event.left_s)} at most"
    round_id = getattr(event, "round", None)
    return text if round_id is None or not text else f"round {round_id}: {text}"


def as_json_event(told: Published, verbose: bool) -> dict[str, Any] | None:
    """The event as `--json` prints it; None for what it leaves out.

    Progress is left out unless `verbose`, the run's end because the last line says it.
    """
    event, plain = told.event, told.plain()
    if isinstance(event, ENDS) or (isinstance(event, BatchTrained) and not verbose):
        return None
    if not isinstance(event, RoundCommitted):
        return plain
    updates = plain.pop("participants")
    first = {key: plain.pop(key) for key in ("event", "round", "seconds", "metrics")}
    return {**first, "participants": sorted(updates), "updates": updates, **plain}
