"""A run's events as lines: for a pipe, a file or a log."""

from collections.abc import Mapping
from typing import Any

from flctl.core.story import on_training_data
from flctl.formats import counted, figure, span

TROUBLE = ("rejected", "agent-lost", "agent-failed", "attempt", "withdrawn", "waiting")
"""Events that go to stderr when lines are asked for."""
_ENDS = ("finished", "paused", "failed", "stopped")


def round_line(event: Mapping[str, Any], rounds: int) -> str:
    """A committed round on one line."""
    width = len(str(rounds))
    parts = [f"round {event['round']:{width}d}/{rounds}"]
    metrics = event.get("metrics")
    if metrics:
        if on_training_data(metrics):
            parts.append("on training data:")
        parts.append(f"loss {figure(metrics['loss'], 4)}")
        parts.append(f"accuracy {figure(metrics['accuracy'], 4)}")
        parts.append(f"macro-F1 {figure(metrics['macro_f1'], 4)}")
    parts.append(counted(len(event.get("participants") or ()), "agent"))
    parts.append(span(event["seconds"]))
    missing = event.get("missing") or ()
    if missing:
        parts.append(f"without {_few(missing)}")
    return "  ".join(parts)


def measured_by(metrics: Mapping[str, Any]) -> str:
    """Who measured the model."""
    if on_training_data(metrics):
        return (
            "measured on data that it was trained on, which does not tell how good it is: name "
            "others with --test-data"
        )
    if metrics.get("source") != "agents":
        return f"measured by the coordinator, on its part '{metrics.get('part', 'test')}'"
    who = _few(metrics.get("beside") or ())
    return f"measured by agents: {who}" if who else "measured by agents"


def trouble_line(event: Mapping[str, Any]) -> str:
    """What went wrong, and with whom."""
    place = f"round {event['round']}: " if "round" in event else ""
    match event["event"]:
        case "rejected":
            return f"{place}{event['agent']}: update rejected: {event['reason']}"
        case "agent-lost":
            return f"{event['agent']} lost: {event.get('reason', '')}"
        case "agent-failed":
            again = "; it tries again" if event.get("retrying") else ""
            return f"{place}{event['agent']} failed: {event['kind']}: {event['message']}{again}"
        case "attempt":
            return f"{place}attempt {event['attempt']} failed: {event['reason']}"
        case "withdrawn":
            return f"{event['reason']}; the rounds after round {event['round']} are done again"
        case _:
            left_s = event.get("left_s")
            left = f", for {span(left_s)} at most" if left_s else ""
            text = f"{place}waiting for agents: {event.get('missing') or ''}".rstrip(": ")
            return text + left


def as_json_event(event: Mapping[str, Any], verbose: bool) -> dict[str, Any] | None:
    """The event as `--json` prints it; None for what it leaves out.

    Progress is left out unless `verbose`, the run's end because the last line says it.
    """
    kind = event.get("event")
    if kind in _ENDS or (kind == "progress" and not verbose):
        return None
    if kind != "round":
        return dict(event)
    updates = event.get("participants") or {}
    told = {key: event[key] for key in ("event", "round", "seconds")}
    rest = {key: value for key, value in event.items() if key not in (*told, "participants")}
    return {
        **told,
        "metrics": event.get("metrics"),
        "participants": sorted(updates),
        "updates": dict(updates),
        **{key: value for key, value in rest.items() if key != "metrics"},
    }


def _few(names: Any) -> str:
    listed = sorted(names)
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
