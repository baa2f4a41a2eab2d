"""Figures, sizes, times and lists as people write them."""

import math
import sys
from collections.abc import Collection
from datetime import UTC, datetime


def figure(value: float | None, digits: int = 3) -> str:
    """Plain up to a million, from 10 on with fewer decimals, and as 1.8e+30 beyond it; of small
    ones two digits that count. "-" for none, and for the least that there is: what could not be
    computed; "∞" for the most: the loss of a model that has diverged."""
    if value is None or value == -sys.float_info.max:
        return "-"
    if value == sys.float_info.max:
        return "∞"
    small = 0 < abs(value) < 10 ** (1 - digits)
    if small or not abs(value) < 1e6:
        return f"{value:.1e}"
    return f"{value:.{max(0, digits + 1 - len(str(int(abs(value)))))}f}"


def number(value: float) -> str:
    """Whatever it is of, with six digits that count."""
    size = math.floor(math.log10(abs(value))) if value and math.isfinite(value) else 0
    return f"{value:.{max(0, 5 - size)}f}" if -4 <= size < 15 else f"{value:.5e}"


def counted(number: int, noun: str) -> str:
    """1 round, 2,000 rounds, 3 batches."""
    return f"{number:,} {noun}{'' if number == 1 else 'es' if noun[-1] in 'hs' else 's'}"


def size(count: float | None) -> str:
    """Bytes in the unit that fits."""
    if count is None:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def span(seconds: float | None) -> str:
    """A length of time as a person says it: 0.8 s, 42 s, 3:07, 2:15:40, 3 d."""
    if seconds is None:
        return "-"
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d}"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours < 48 else f"{hours // 24} d"


def moment(at: float | None) -> str:
    """A time in seconds since 1970, with its zone: 2026-11-28 00:20:11 UTC."""
    if at is None:
        return "-"
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):  # a clock of somebody else
        return "-"


def few(names: Collection[str], most: int = 5) -> str:
    """The first of `names`, sorted, and how many more there are."""
    listed = sorted(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
