"""What the page says: states in words and symbols, sizes, times with their zone."""

from datetime import datetime
from typing import Any

from flctl.fleet.answers import AgentStatus
from flctl.formats import moment, size

HOT_C = 80.0
"""A Raspberry Pi slows itself down from here on."""
LOW_DISK_BYTES = 512 * 2**20
SYMBOLS = {
    "ready": "●", "training": "▶", "evaluating": "◆", "offering": "▲", "starting": "…",
    "stopped": "■", "lost": "✕", "conflict": "‼", "no data": "∅",
}  # fmt: skip
TONES = dict.fromkeys(("ready",), "good") | dict.fromkeys(
    ("training", "evaluating", "offering"), "busy"
)
TONES |= {"starting": "dim", "stopped": "dim", "no data": "warn"}
AWAY = ("lost", "stopped", "conflict", "too old", "too new")
"""States of agents that are not connected: what they said of themselves is no longer so."""
RUN_SYMBOLS = {"running": "▶", "paused": "❚❚", "finished": "✓", "stopped": "■", "failed": "✕"}
DOING = {
    "waiting": ("…", "dim"), "training": ("▶", "busy"), "done": ("✓", "good"),
    "retrying": ("↻", "warn"),
}  # fmt: skip
"""Mark and tone of an agent in a round; all else has gone wrong."""
RUN_TONES = {"running": "busy", "paused": "warn", "finished": "good", "stopped": "dim"}
PARTS = {
    "later": "the latest part of each recording, which no agent trains on",
    "unseen": "recordings that no agent trains on",
    "test": "data that no agent trains on",
    "validation": "data that agents hold back to choose the best round",
}
"""Of the data that a round is measured on."""
ALERTS = {"card_full": "card nearly full", "undervoltage": "under-voltage"}
ALERT_ADVICE = {
    "agent_lost": "check its power, its network and its log",
    "throttled": "cool it: a heat sink, a fan, or a place with more air",
    "undervoltage": "give it a power supply and a cable that are strong enough",
    "card_full": "make room on its card",
    "no_round": "see what the run waits for",
    "conflict": "two machines use its key: stop one, or give it a key of its own",
    "open_token": "close it with the command on the page Security once all agents have joined",
}


def alert(kind: str) -> str:
    return ALERTS.get(kind, kind.replace("_", " "))


def sentence(text: str) -> str:
    """With a capital, if it begins with a word: a setting or a name stays as it is."""
    first = text.partition(" ")[0]
    return text[:1].upper() + text[1:] if first.isalpha() and " " in text else text


def symbol(state: str) -> str:
    return SYMBOLS.get(state, "!")


def tone(state: str) -> str:
    """Name of a colour; whatever is not known is bad."""
    return TONES.get(state, "bad")


def stamp(at: str) -> str:
    """A time of the audit file, as all others are written."""
    try:
        return moment(datetime.fromisoformat(at).timestamp())
    except ValueError:
        return at


def pairs(value: Any) -> str:
    """Settings and arguments, as key=value."""
    if value in (None, "", [], {}, ()):
        return ""
    if isinstance(value, dict):
        return ", ".join(f"{key}={pairs(item)}" for key, item in value.items())
    return ", ".join(map(pairs, value)) if isinstance(value, list | tuple) else str(value)


def clock(at: float, now: float) -> str:
    """The same, without the date if that is today's."""
    whole = moment(at)
    today = moment(now)[:11]
    return whole.removeprefix(today) if whole.startswith(today) else whole


def memory(agent: AgentStatus) -> str:
    used, total = agent.memory_used_bytes, agent.memory_total_bytes
    return "-" if used is None or total is None else f"{size(used)} of {size(total)}"


def heat(agent: AgentStatus) -> tuple[str, bool]:
    """Temperature and throttling, and whether they ask for attention."""
    words = [] if agent.temperature_c is None else [f"{agent.temperature_c:.0f} °C"]
    hot = agent.temperature_c is not None and agent.temperature_c >= HOT_C
    if hot:
        words.append("hot")
    words += agent.throttled or ()
    return ", ".join(words) or "-", hot or bool(agent.throttled)


def what_to_do(agent: AgentStatus, advice: str) -> str:
    """`advice` about its state, and about what its machine reports."""
    parts = [advice] if advice else []
    throttled = " ".join(agent.throttled or ())
    if "under-voltage" in throttled or "under voltage" in throttled:
        parts.append("give it a power supply and a cable that are strong enough")
    elif agent.throttled or heat(agent)[1]:
        parts.append("cool it: a heat sink, a fan, or a place with more air")
    if agent.disk_free_bytes is not None and agent.disk_free_bytes < LOW_DISK_BYTES:
        parts.append("its card is nearly full: make room there")
    return "; ".join(parts)
