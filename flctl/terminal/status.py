"""The picture of a fleet: the coordinator, its run, and a row for each agent."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from rich.console import Group
from rich.live import Live
from rich.text import Text

from flctl.fleet.discovery import not_heard, too_many
from flctl.formats import few, figure, size, span
from flctl.labels import written
from flctl.terminal.alerts import firing
from flctl.terminal.keys import key_rotation, open_tokens
from flctl.terminal.output import print_json, show, table, terminal
from flctl.transport.keypair import shown

if TYPE_CHECKING:
    from rich.console import RenderableType

    from flctl.fleet.discovery import Presence
    from flctl.terminal.tables import Table

STYLES = {
    "ready": "green",
    "training": "cyan",
    "evaluating": "cyan",
    "offering": "cyan",
    "starting": "dim",
    "stopped": "dim",
    "no data": "yellow",
}
EXPECTED = {"ready": "green", "starting": "cyan"} | dict.fromkeys(
    ("stopped", "extra", "waiting key", "cordoned"), "yellow"
)
"""Styles of what `flctl discover` compares."""
AWAY = ("lost", "stopped")
LIVE = (
    "rtt_ms",
    "temperature_c",
    "memory_used_bytes",
    "memory_total_bytes",
    "load_1m",
    "throttled",
)
"""Fields that an agent reports with every heartbeat."""
DIGEST_SHOWN = 12
"""Characters of a task's digest: enough to compare by eye."""


def follow(
    ask: Callable[[], Mapping[str, Any]], every_s: float, wide: bool, options: str, json: bool
) -> NoReturn:
    """What `ask` finds again and again, in place on a terminal; ended from outside."""
    screen = terminal()
    while json or not screen.is_terminal:
        found = ask()
        print_json(found["agents"], False) if json else show(picture(found, wide, options))
        time.sleep(every_s)
    with Live(console=screen, screen=True, auto_refresh=False) as live:
        while True:
            live.update(picture(ask(), wide, options), refresh=True)
            time.sleep(every_s)


def picture(found: Mapping[str, Any], wide: bool = False, options: str = "") -> "RenderableType":
    """The coordinator, its run, and a row for each agent; if `wide`, what each can work on.

    `options` follow a suggested command.
    """
    coordinator = found["coordinator"]
    head = [
        Text.assemble(
            ("coordinator ", "bold"), coordinator["endpoint"],
            ("  version ", "dim"), coordinator["version"],
            ("  up ", "dim"), span(coordinator["uptime_s"]),
        ),
        _run_line(coordinator["run"]),
    ]  # fmt: skip
    if not found["agents"]:
        hint = f"no agent is enrolled; create a token for new ones with: flctl keys token{options}"
        head.append(Text(hint, style="yellow"))
    # An older coordinator does not know labels.
    labels = ("labels",) if any(agent.get("labels") for agent in found["agents"]) else ()
    made = table(
        "agent", "state", ">round", ">examples", ">link", ">temp", "memory", ">load", "device",
        "version", *labels, "~note",
        yields=(
            "device", "load", "memory", "version", "link", "temp", "examples", "round", "labels",
        ),
    )  # fmt: skip
    for agent in found["agents"]:
        *cells, note = _row(agent, coordinator.get("lost_after_s", 30.0))
        made.add_row(*cells, *(written(agent["labels"]) or "-" for _ in labels), note)
    tables: list[RenderableType] = [made]
    if wide:
        tables += [Text(), _abilities(found["agents"]), Text(), _limits(found["agents"])]

    line = firing(found.get("alerts"), options)
    rest = [Text(line, style="red")] if line else []
    rest += [Text(line, style="yellow") for line in filter(None, [too_many(found)])]
    rest += [
        Text(
            f"an unknown key is waiting: flctl keys add NAME {shown(key)}{options}", style="yellow"
        )
        for key in (waiting["public_key"] for waiting in found["waiting"])
    ]
    if rotation := coordinator.get("rotation"):
        rest.append(Text(key_rotation(rotation, options), style="yellow"))
    # An older coordinator does not tell its tokens.
    if line := open_tokens(found.get("tokens", ()), options):
        rest.append(Text(line, style="yellow"))
    rest += [Text(line, style="yellow") for line in _disagreements(found["agents"])]
    return Group(*head, Text(), *tables, *rest) if found["agents"] else Group(*head, *rest)


def presence_table(rows: "Iterable[Presence]") -> "Table":
    """Table of expected and present agents."""
    made = table(
        "agent", "host", "state", "version", "~what to do",
        yields=("version", "host"), note_lines=None,
    )  # fmt: skip
    for row in rows:
        state = Text(row.state, style=EXPECTED.get(row.state, "red"))
        made.add_row(row.name or "?", row.host or "-", state, row.version or "-", row.advice)
    return made


def _run_line(run: Mapping[str, Any] | None) -> Any:
    if run is None:
        return Text("no run is in progress", style="dim")
    line = f"{run['run']}  round {run['round'] + 1}/{run['rounds']}, {run['phase']}"
    if run.get("pausing") and not run["phase"].startswith("paused"):
        line += ", pauses after this round"
    waits = run["phase"].startswith(("waiting", "paused"))
    waiting = run.get("waiting_for", ())  # an older coordinator leaves it out between rounds
    why = run.get("why", "")
    if waits and why:
        line += f": {why}"
    elif waiting:
        line += f"{': ' if waits else ', waiting for '}{few(waiting)}"
    if why and not waits:
        line += f"; away but needed: {why}"
    if (left_s := run.get("time_left_s")) is not None and (waiting or why):
        line += f"; for {span(left_s)} at most"
    return Text.assemble(("run ", "bold"), line)


def _device(kind: str | None, arch: str | None) -> str:
    named = kind and arch and arch in kind
    return " ".join(filter(None, (kind, None if named else arch))) or "-"


def _row(agent: Mapping[str, Any], lost_after_s: float) -> list[Any]:
    state = agent["state"]
    if state in AWAY:  # its last report is out of date
        agent = {**agent, **dict.fromkeys(LIVE)}
    progress = agent["progress"]
    shown = f"{state} {progress[0]}/{progress[1]}" if progress and progress[1] else state
    if state == "lost" and agent["last_seen_s"] is None and not agent.get("expected"):
        shown = "not seen"
    cordoned = agent.get("cordoned", False)  # an older coordinator does not know it
    if cordoned:
        shown += ", cordoned"
    memory = agent["memory_used_bytes"], agent["memory_total_bytes"]
    note = agent["note"] or agent["last_error"] or _silence(agent, lost_after_s)
    held_back = agent["throttled"]
    if held_back:
        note = ", ".join(held_back) + (f"; {note}" if note else "")
    rtt = agent["rtt_ms"]
    return [
        agent["name"],
        Text(shown, style="yellow" if cordoned else STYLES.get(state, "red")),
        "-" if agent["last_round"] is None else str(agent["last_round"]),
        str(agent["examples"]) if agent["version"] else "-",
        "-" if rtt is None else f"{rtt:.1f} ms",
        "-" if agent["temperature_c"] is None else f"{agent['temperature_c']:.0f} °C",
        "-" if None in memory else f"{size(memory[0])} of {size(memory[1])}",
        figure(agent["load_1m"], 2),
        _device(agent["kind"], agent["arch"]),
        agent["version"] or "-",
        Text(note, style="yellow"),
    ]


def _silence(agent: Mapping[str, Any], lost_after_s: float) -> str:
    """For how long nothing has been heard of it, where that is worth a word."""
    silent_s = agent["last_seen_s"]
    if silent_s is None:
        known = agent.get("expected")
        return not_heard(agent) if known else "not seen since the coordinator started"
    if agent["state"] in AWAY:
        return f"last seen {span(silent_s)} ago"
    if silent_s > lost_after_s / 3:
        return f"silent for {span(silent_s)}, lost after {span(lost_after_s)}"
    return ""


def _abilities(agents: Sequence[Mapping[str, Any]]) -> Any:
    """A row for each agent and task: the digest of its code, and the data it can use."""
    made = table(
        "agent", "task", "digest", "data set", ">examples", ">validation", ">held out",
        yields=("validation", "held out", "examples", "data set"),
    )  # fmt: skip
    for agent in agents:
        name = agent["name"]
        for task, digest in sorted(agent["tasks"].items()):
            usable = [info for info in agent["datasets"] if info["task"] == task]
            for info in usable or [
                {"name": "none", "examples": "-", "validation": "-", "held_out": "-"}
            ]:
                made.add_row(
                    name, task, digest[:DIGEST_SHOWN], info["name"], str(info["examples"]),
                    str(info.get("validation", 0)), str(info.get("held_out", 0)),
                )  # fmt: skip
                name = ""
        if not agent["tasks"]:
            made.add_row(name, "none", "-", "-", "-", "-", "-")
    return made


def _limits(agents: Sequence[Mapping[str, Any]]) -> Any:
    """A row for each agent: what its owner allows."""
    made = table(
        "agent", ">min examples", ">min batch size", ">min batches", ">max model",
        ">max rounds per hour", "brought weights",
        yields=("min batches", "min batch size", "max rounds per hour"),
    )  # fmt: skip
    for agent in agents:
        limits = agent.get("limits")  # an older agent has none, an older coordinator cannot tell
        if limits is None:
            made.add_row(agent["name"], *("-" for _ in range(6)))
            continue
        made.add_row(
            agent["name"], str(limits["min_examples"]), str(limits["min_batch_size"]),
            str(limits["min_batches"]), f"{limits['max_model_mb']} MiB",
            str(limits["max_rounds_per_hour"] or "no limit"),
            "accepted" if limits.get("accept_weights") else "refused",
        )  # fmt: skip
    return made


def _disagreements(agents: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A line for each task of which agents that are here have different code."""
    holders: dict[str, dict[str, list[str]]] = {}
    for agent in agents:
        for task, digest in (agent["tasks"] if agent["state"] not in AWAY else {}).items():
            holders.setdefault(task, {}).setdefault(digest, []).append(agent["name"])
    for task, versions in sorted(holders.items()):
        if len(versions) > 1:
            each = "; ".join(f"{d[:DIGEST_SHOWN]} on {few(n)}" for d, n in versions.items())
            yield f"task {task} differs between agents: {each}; install one version"
