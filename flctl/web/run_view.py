"""One run as the page shows it: what it does now, its figures, and curves as numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from flctl.core.events import HELD
from flctl.core.metrics import computed, confusion_of, label, labels, named
from flctl.core.spread import spread, worst_first
from flctl.core.story import Doing
from flctl.fleet.answers import InProgress
from flctl.formats import counted, figure, size
from flctl.terminal.agents import lower_of, rows_of
from flctl.web import words
from flctl.web.feed import FleetSeen
from flctl.web.picture import RoundFigures, RunPicture
from flctl.web.shelf import Shown

MOST_AGENTS, MOST_ROUNDS, MOST_CLASSES, WORST = 100, 20, 25, 8
THEN = {"waiting to try again": "the round is tried again", "personalising": "it ends without them"}
"""What happens at the end of a wait, by phase."""


class Wait(Struct, frozen=True):
    """Who is waited for, and until when."""

    who: tuple[str, ...]
    why: str
    until: float | None
    """In seconds since 1970."""
    quorum: str
    """How many updates or agents it needs and has, in a sentence without its dot; or ""."""
    then: str
    """What happens at that time."""


def state_of(shown: Shown, fleet: FleetSeen | None) -> tuple[str, str]:
    """Its state, and what there is to say about it."""
    story, about = shown.picture.story, shown.about
    run = fleet.status.coordinator.run if fleet is not None else None
    if run is not None and run.run == shown.picture.name:
        return "paused" if run.phase.startswith("paused") else "running", at_work(run)
    if story.ended and not story.personalising:
        return story.ended, story.message
    return str(about["state"]), str(about["reason"] or "")


def at_work(run: InProgress) -> str:
    """What it does, from the same status as all else that is said of it."""
    if run.phase.startswith(("paused", "personalising")):
        return f"{run.phase}; {run.why}" if run.phase == HELD and run.why else run.phase
    begun = not run.phase.startswith("waiting")
    is_ = {"waiting for agents": "has not begun", "failed": "has failed"}.get(run.phase)
    pauses = f"; it pauses {'after this round' if begun else 'now'}" if run.pausing else ""
    return f"round {min(run.round + 1, run.rounds)} {is_ or f'is {run.phase}'}{pauses}"


def standing(shown: Shown, fleet: FleetSeen | None) -> str:
    """For its buttons: over, open, pausing, or held by an operator."""
    run = fleet.status.coordinator.run if fleet is not None else None
    if run is None or run.run != shown.picture.name:
        return "over"
    return "open" if not run.pausing else "held" if run.phase == HELD else "pausing"


def progress(picture: RunPicture) -> tuple[list[tuple[str, Doing]], int]:
    """The agents of the open round, those that are not done first; and how many are left out."""
    found = sorted(
        picture.story.agents.items(), key=lambda each: (each[1].state == "done", each[0])
    )
    return found[:MOST_AGENTS], max(0, len(found) - MOST_AGENTS)


def wait_of(picture: RunPicture, fleet: FleetSeen | None) -> Wait | None:
    """None while nothing is waited for."""
    run = fleet.status.coordinator.run if fleet is not None else None
    if run is None or run.run != picture.name:
        return None
    if not (run.waiting_for or run.why) or run.phase == HELD:
        return None
    assert fleet is not None
    until = None if run.time_left_s is None else fleet.at + run.time_left_s
    if run.phase in THEN:
        return Wait(run.waiting_for, run.why, until, "", THEN[run.phase])
    if not run.phase.startswith(("waiting for", "paused")):
        agents = picture.story.agents  # their events may be newer than the status
        who = (n for n in run.waiting_for if n not in agents or agents[n].state != "done")
        return Wait(tuple(who), run.why, until, *_quorum(picture))
    awaited, begins = picture.awaited, ""
    if awaited is not None and awaited.needed is not None and awaited.missing == run.why:
        begins = (
            f"{counted(awaited.needed, 'agent')} must be ready for the round to begin; "
            f"{len(awaited.ready)} {'is' if len(awaited.ready) == 1 else 'are'}"
        )
    then = "the round begins if enough are ready; else the run pauses until they are"
    return Wait(run.waiting_for, run.why, until, begins, then)


def _quorum(picture: RunPicture) -> tuple[str, str]:
    """Of the open round: the state of its quorum, and what happens at its deadline."""
    if picture.need is None or not picture.story.agents:
        return "", "the wait ends"
    of, need = len(picture.story.agents), picture.need
    done = sum(doing.state == "done" for doing in picture.story.agents.values())
    have = f"{done} of {counted(of, 'agent')} {'is' if done == 1 else 'are'} done"
    if done >= need:
        return f"{have}, and the quorum of {need} is reached", "the round goes on without the rest"
    return f"{have}; the quorum is {need}", (
        "the round closes if the quorum is reached; else this attempt fails and is made again"
    )


def left(picture: RunPicture, fleet: FleetSeen | None, now: float) -> float | None:
    """Seconds until its last round, if it goes on as it does; `now` is by the feed's clock."""
    run = fleet.status.coordinator.run if fleet is not None else None
    if run is None or run.run != picture.name or run.pausing:
        return None
    if run.phase.startswith(("waiting", "paused")):
        return None
    picture.story.rounds = run.rounds  # the event that says so is not in the journal
    return picture.story.time_left(now)


class MeasuredAgents(Struct, frozen=True):
    """What agents have measured after the last round."""

    heads: dict[str, str]
    spread: list[tuple[str, list[str]]]
    worst: list[tuple[str, list[str]]]
    """The worst agents first, by the metric that counts."""
    of: int


def measured(picture: RunPicture) -> MeasuredAgents | None:
    score = picture.last.metrics if picture.last is not None else None
    if score is None or not score.by_agent:
        return None
    rows = rows_of(score.by_agent)
    lower = lower_of(picture.measures)
    names = [
        name for name in named(score.by_agent.values()) if any(name in r for r in rows.values())
    ]
    of = spread(rows, lower)
    kinds = {"mean": "mean", "median": "median", "tenth": "10th percentile", "worst": "worst"}
    summary = [
        (text, [figure(getattr(of[name], field)) if name in of else "-" for name in names])
        for field, text in kinds.items()
    ]
    order = worst_first(rows, picture.measures.primary, lower)[:WORST]
    cells = [(agent, [figure(rows[agent].get(name)) for name in names]) for agent in order]
    all_labels = labels(score.by_agent.values())
    heads = {name: all_labels.get(name, label(name)) for name in names}
    return MeasuredAgents(heads, summary, cells, len(rows))


def confusion(picture: RunPicture) -> tuple[tuple[int, ...], ...]:
    """[target][prediction] after the last round; empty where there is none, or a very large one."""
    score = picture.last.metrics if picture.last is not None else None
    found = confusion_of(score.counts) if score is not None else ()
    return found if len(found) <= MOST_CLASSES else ()


def class_names(picture: RunPicture, count: int) -> tuple[str, ...]:
    """As the run's record has them; the numbers of the classes where it has none."""
    names = picture.measures.names
    return names if len(names) == count else tuple(map(str, range(count)))


def metric_names(rounds: Sequence[RoundFigures]) -> list[str]:
    return list(dict.fromkeys(name for each in rounds for name in (*each.values, *each.validation)))


def round_shown(picture: RunPicture) -> int | None:
    """The best round; where none was measured to be chosen, the last."""
    return picture.best or (picture.rounds[-1].round if picture.rounds else None)


def values_of(picture: RunPicture, round_id: int | None) -> dict[str, str]:
    """The figures of a round, by the metric's label."""
    found = picture.figures_of(round_id)
    return {label(k): figure(v, 4) for k, v in found.values.items()} if found is not None else {}


def part_of(picture: RunPicture, round_id: int | None) -> str:
    found = picture.figures_of(round_id)
    return found.part if found is not None else ""


def curves(picture: RunPicture) -> list[dict[str, Any]]:
    """A chart for each metric, and for bytes and seconds; numbers that could not be computed are
    None."""
    rounds = picture.rounds
    if not rounds:
        return []
    x = [each.round for each in rounds]
    primary, found = picture.measures.primary, []
    for name in metric_names(rounds):
        series = {
            _part(rounds): [each.values.get(name) for each in rounds],
            "validation": [each.validation.get(name) for each in rounds],
        }
        if name == "loss":
            series["training"] = [each.training_loss for each in rounds]
        if name == primary:
            series["mean agent"] = [each.mean for each in rounds]
            series["worst agent"] = [each.worst for each in rounds]
        found.append(chart(label(name), x, series, "round"))
    sent: list[float | None] = [each.bytes_up / 2**20 for each in rounds]
    took: list[float | None] = [each.seconds for each in rounds]
    found.append(chart("received in a round, MiB", x, {"updates": sent}, "round"))
    found.append(chart("seconds of a round", x, {"round": took}, "round"))
    return found


def compared(shown: Sequence[Shown]) -> list[dict[str, Any]]:
    """A chart for each metric and part of the data, with a line for each run."""
    last = max((each.picture.rounds[-1].round for each in shown if each.picture.rounds), default=0)
    x = list(range(1, last + 1))
    names = dict.fromkeys(n for each in shown for n in metric_names(each.picture.rounds))
    found = []
    for name in names:
        for part in ("values", "validation"):
            series = {each.picture.name: _by_round(each.picture, part, name, x) for each in shown}
            if any(value is not None for line in series.values() for value in line):
                parts = {_part(each.picture.rounds) for each in shown}
                on = part if part == "validation" else " or ".join(sorted(parts))
                title = f"{label(name)} on {on} data"
                found.append(chart(title, x, series, "round"))
    return found


def _by_round(picture: RunPicture, part: str, name: str, x: Sequence[int]) -> list[float | None]:
    by_round = {each.round: getattr(each, part).get(name) for each in picture.rounds}
    return [by_round.get(at) for at in x]


def chart(
    title: str,
    x: Sequence[float],
    series: dict[str, list[float | None]],
    of: str,
    time: bool = False,
) -> dict[str, Any]:
    """`x` are round numbers, or with `time` seconds since 1970. Empty series are left out."""
    there = {
        name: list(computed_or_none(values))
        for name, values in series.items()
        if any(value is not None for value in values)
    }
    last = {
        name: next(v for v in reversed(values) if v is not None) for name, values in there.items()
        if any(v is not None for v in values)
    }  # fmt: skip
    said = ", ".join(f"{name} {figure(value)}" for name, value in last.items())
    return {
        "title": title, "of": of, "time": time, "x": list(x),
        "words": f"{title}: {counted(len(x), 'point')}; at the end {said}",
        "series": [{"label": name, "values": values} for name, values in there.items()],
    }  # fmt: skip


def computed_or_none(values: Sequence[float | None]) -> list[float | None]:
    return [
        computed({"v": v}).get("v") if v is not None and abs(v) < 1e300 else None for v in values
    ]


def side_by_side(shown: Sequence[Shown], judged: Mapping[str, str]) -> list[tuple[str, list[str]]]:
    """What there is to compare: its name, and the value of each run. `judged`: by what, by run."""
    pictures = [each.picture for each in shown]
    best = [f"{round_shown(each) or 0} of {len(each.rounds)}" for each in pictures]
    found = [
        ("State", [str(each.about["state"]) for each in shown]),
        ("Best round, or the last if none is chosen", best),
    ]
    if judged:
        found.append(("What it is judged by", [judged.get(each.name, "-") for each in pictures]))
    parts = [part_of(each, round_shown(each)) or "-" for each in pictures]
    found.append(("Measured on", [f"{part} data" for part in parts]))
    figures = [values_of(each, round_shown(each)) for each in pictures]
    for name in dict.fromkeys(name for each in figures for name in each):
        found.append((f"{name} in this round", [each.get(name, "-") for each in figures]))
    return [*found, ("Updates received", [size(each.bytes_up) for each in pictures])]


def labels_of(shown: Sequence[Shown]) -> set[str]:
    return {label(name) for each in shown for name in metric_names(each.picture.rounds)}


def differing(shown: Sequence[Shown]) -> list[tuple[str, list[str]]]:
    """Settings in which the runs differ: name, and the value in each."""
    every = [each.about["settings"] for each in shown]
    names = sorted({name for settings in every for name in settings})
    rows = [(name, [_value(settings.get(name)) for settings in every]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def settings_of(shown: Shown) -> list[tuple[str, str]]:
    return [(name, _value(value)) for name, value in sorted(shown.about["settings"].items())]


def _value(value: Any) -> str:
    if value in (None, "", [], {}, ()):
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{key}={_value(item)}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _part(rounds: Sequence[RoundFigures]) -> str:
    return next((each.part for each in reversed(rounds) if each.part), "test")


def last_rounds(picture: RunPicture) -> list[RoundFigures]:
    """The newest first."""
    return list(reversed(picture.rounds[-MOST_ROUNDS:]))


def mishaps(picture: RunPicture) -> list[Any]:
    return list(reversed(picture.mishaps.values()))[:MOST_ROUNDS]


def run_mark(state: str) -> tuple[str, str]:
    return words.RUN_SYMBOLS.get(state, "!"), words.RUN_TONES.get(state, "bad")


def rounds_of(picture: RunPicture, agent: str, is_open: bool) -> list[str]:
    """What the agent does in the run, in a few words; what it has done, once that is over."""
    found = []
    if is_open and (doing := picture.story.agents.get(agent)) is not None:
        text = f"Round {picture.story.open_round}: {doing.state}"
        if doing.steps:
            text += f", {doing.step} of {counted(doing.steps, 'batch')}"
        found.append(text + (f"; {doing.note}" if doing.note else ""))
    if sent := picture.sent.get(agent):
        found.append(f"{size(sent)} of updates sent in committed rounds")
    missed = [each.round for each in picture.rounds if agent in each.missing]
    if missed:
        found.append(f"Late or missing in {counted(len(missed), 'round')}, last in {missed[-1]}")
    return found
