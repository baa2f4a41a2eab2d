"""The fleet as rows of cells: rendered once for all viewers, and sent as what has changed."""

from collections.abc import Mapping

from markupsafe import Markup, escape
from msgspec import Struct

from flctl.errors import printable
from flctl.fleet.answers import AgentStatus
from flctl.fleet.discovery import WORKING
from flctl.formats import size
from flctl.web import words
from flctl.web.feed import FleetSeen

COLUMNS = {
    "state": "State", "since": "Since", "heat": "Temperature",
    "trouble": "What is wrong, and what to do", "memory": "Memory", "disk": "Card", "link": "Link",
    "round": "Round", "version": "Version",
}  # fmt: skip
"""Of the table, after the agent's name and device."""
ALL = COLUMNS | {"device": "Device", "written": "Written", "sent": "Sent"}
"""On the agent's own page."""


class AgentRow(Struct, frozen=True):
    name: str
    cells: dict[str, Markup]
    state: str
    """For the filter."""
    labels: tuple[str, ...]
    search: str
    """All that a text may be looked for in."""
    heat: float
    """For sorting."""
    bad: int
    """How much attention it needs, for sorting: 0 none."""
    cordoned: bool


def rows(fleet: FleetSeen) -> list[AgentRow]:
    return [row(agent, fleet) for agent in fleet.status.agents]


def changed(before: Mapping[str, AgentRow], now: list[AgentRow]) -> dict[str, dict[str, str]]:
    """Cells that are others than before, by agent."""
    found: dict[str, dict[str, str]] = {}
    for row in now:
        old = before.get(row.name)
        if old is None or old == row:
            continue
        cells = {
            key: str(row.cells[key])
            for key in (*COLUMNS, "device")
            if old.cells[key] != row.cells[key]
        }
        found[row.name] = cells | {
            "data-state": row.state, "data-search": row.search, "data-labels": "|".join(row.labels),
            "data-heat": f"{row.heat:.1f}", "data-bad": str(row.bad),
            "data-cordoned": "yes" if row.cordoned else "no",
        }  # fmt: skip
    return found


def summary(fleet: FleetSeen) -> list[tuple[str, int]]:
    """How many agents are in each state, most first; the cordoned ones separately."""
    counts: dict[str, int] = {}
    for agent in fleet.status.agents:
        counts[agent.state] = counts.get(agent.state, 0) + 1
    found = sorted(counts.items(), key=lambda each: (-each[1], each[0]))
    cordoned = sum(agent.cordoned for agent in fleet.status.agents)
    return [*found, *([("cordoned", cordoned)] if cordoned else [])]


def hottest(fleet: FleetSeen) -> AgentStatus | None:
    known = [a for a in fleet.status.agents if _live(a) and a.temperature_c is not None]
    return max(known, key=lambda agent: agent.temperature_c or 0.0, default=None)


def firing(fleet: FleetSeen) -> list[tuple[str, int]]:
    """Kinds of alerts that are firing, and how many."""
    found = fleet.status.alerts.firing if fleet.status.alerts is not None else {}
    return [(words.alert(kind), count) for kind, count in sorted(found.items())]


def _live(agent: AgentStatus) -> bool:
    return agent.state not in words.AWAY


def row(agent: AgentStatus, fleet: FleetSeen) -> AgentRow:
    live = _live(agent)
    # Its page has a button; the advice names a command.
    held = agent.cordoned and agent.state in WORKING
    known = "" if held else fleet.advice.get(agent.name, "")
    advice = words.what_to_do(agent, known)
    trouble = agent.note or agent.last_error or ""
    if trouble and trouble in advice:
        trouble = ""
    hot, warns = words.heat(agent) if live else ("-", False)
    low = live and agent.disk_free_bytes is not None and (
        agent.disk_free_bytes < words.LOW_DISK_BYTES
    )  # fmt: skip
    disk = (
        "-" if agent.disk_free_bytes is None or not live else f"{size(agent.disk_free_bytes)} free"
    )
    labels = tuple(f"{key}={value}" for key, value in sorted(agent.labels.items()))
    named = agent.kind and agent.arch and agent.arch in agent.kind
    kind = " ".join(filter(None, (agent.kind, None if named else agent.arch))) or "-"
    cells = {
        "state": _state(agent),
        "since": _since(fleet, agent.name),
        "heat": _marked(hot, warns),
        "memory": escape(words.memory(agent) if live else "-"),
        "disk": _marked(disk, low),
        "link": escape("-" if agent.rtt_ms is None or not live else f"{agent.rtt_ms:.0f} ms"),
        "round": escape("-" if agent.last_round is None else agent.last_round),
        "written": escape(size(agent.written_bytes) if live else "-"),
        "sent": escape(size(agent.sent_bytes) if live else "-"),
        "device": _text(kind),
        "version": _text(agent.version or "-"),
        "trouble": _trouble(trouble, advice),
    }
    bad = words.tone(agent.state) in ("bad", "warn")
    texts = (
        agent.name, agent.state, "cordoned" if agent.cordoned else "", *labels, kind,
        agent.version or "", hot, trouble, advice,
    )  # fmt: skip
    return AgentRow(
        name=agent.name,
        cells=cells,
        state=agent.state,
        labels=labels,
        search=" ".join(texts).lower(),
        heat=agent.temperature_c if live and agent.temperature_c is not None else -1.0,
        bad=2 * bad + (warns or low or bool(advice or trouble)),
        cordoned=agent.cordoned,
    )


def _state(agent: AgentStatus) -> Markup:
    unseen = agent.state == "lost" and agent.last_seen_s is None and not agent.expected
    text = "not seen" if unseen else agent.state
    if agent.progress and agent.progress[1]:
        text += f" {agent.progress[0]}/{agent.progress[1]}"
    held = Markup(' <span class="warn">❚❚ cordoned</span>') if agent.cordoned else Markup("")
    mark = words.symbol(agent.state)
    return Markup('<span class="{}"><span aria-hidden="true">{}</span> {}</span>{}').format(
        words.tone(agent.state), mark, printable(text), held
    )


def _since(fleet: FleetSeen, name: str) -> Markup:
    since = fleet.since[name]
    text = words.clock(since.at, fleet.at)
    return escape(text if since.exact else f"before {text}")


def _marked(text: str, warns: bool) -> Markup:
    if not warns:
        return _text(text)
    return Markup('<span class="bad"><span aria-hidden="true">▲</span> {}</span>').format(
        printable(text)
    )


def _text(text: str) -> Markup:
    return escape(printable(text))


def _trouble(trouble: str, advice: str) -> Markup:
    if not trouble:
        return _text(advice)
    then = Markup('<span class="advice">{}</span>').format(printable(advice)) if advice else ""
    return Markup('<span class="said">{}</span> {}').format(printable(trouble), then)
