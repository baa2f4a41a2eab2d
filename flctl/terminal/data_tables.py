"""The tables of `flctl data`."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from flctl import formats
from flctl.terminal import output

if TYPE_CHECKING:
    from flctl.learning.manifest import Counts, Manifest, Share
    from flctl.learning.origin import Origin

COLUMNS = 12
"""Maximum number of classes with a column of their own."""
ROWS = 60
"""Maximum number of records listed; more are only counted."""


def show_data(title: str, noun: str, classes: Sequence[str], parts: "Mapping[str, Counts]") -> None:
    """Classes, or what `noun` calls them, by part, then records by part and class."""
    total = sum(part.examples for part in parts.values())
    output.print_line(f"{title}: {formats.counted(total, 'example')}\n")
    made = output.table(noun, *(f">{part}" for part in parts), ">all", ">share")
    for name in classes:
        counts = [part.classes[name] for part in parts.values()]
        made.add_row(name, *_cells([*counts, sum(counts)]), f"{sum(counts) / total:.1%}")
    made.add_row("all", *_cells([part.examples for part in parts.values()]), f"{total:,}", "")
    output.show(made)
    whole = _by_record(parts.values())
    if whole:
        output.print_line("")
        _show_records(classes, parts, whole)


def show_origins(origins: "Sequence[Origin]") -> None:
    """How the files were read, and what was left out."""
    from flctl.learning.origin import summary

    lines = summary(origins)
    if lines:
        output.print_line("")
    for line in lines:
        output.print_line(f"Read: {line}")


def show_shares(manifest: "Manifest") -> None:
    """Table of the shares; classes are those of the training data."""
    agents = {n: s for n, s in manifest.shares.items() if "train" in s.parts}
    tests = sorted({part for share in agents.values() for part in share.parts} - {"train"})
    classes = _columns(manifest.classes)
    mixed = f", alpha {manifest.alpha:g}" if manifest.partition == "dirichlet" else ""
    output.print_line(
        f"task {manifest.task} dealt to {formats.counted(manifest.agents, 'agent')}: "
        f"partition {manifest.partition}{mixed}, seed {manifest.seed}\n"
    )
    recorded = any(share.parts["train"].records for share in agents.values())
    made = output.table(
        "agent", ">train", *(f">{name}" for name in (*classes, *tests)), ">size",
        *(["records"] if recorded else []),
    )  # fmt: skip
    for name, share in agents.items():
        train = share.parts["train"]
        held_out = [share.parts[t].examples if t in share.parts else 0 for t in tests]
        made.add_row(
            name,
            *_cells([train.examples, *(train.classes[c] for c in classes), *held_out]),
            formats.size(share.size),
            *([formats.few(train.records, 8)] if recorded else []),
        )
    output.show(made)
    for name, share in manifest.shares.items():
        if name not in agents:
            output.print_line(
                f"\n{name}, for 'flctl train --test-data': {_contents(share)}, "
                f"{formats.size(share.size)}"
            )


def _show_records(
    classes: Sequence[str], parts: "Mapping[str, Counts]", whole: Mapping[str, Mapping[str, int]]
) -> None:
    """The largest of them, in order of their names."""
    columns = _columns(classes)
    made = output.table("record", *(f">{name}" for name in (*parts, *columns)), ">all")
    largest = sorted(whole, key=lambda record: -sum(whole[record].values()))[:ROWS]
    for record in sorted(largest):
        in_parts = [sum(part.records.get(record, {}).values()) for part in parts.values()]
        by_class = [whole[record].get(name, 0) for name in columns]
        made.add_row(record, *_cells([*in_parts, *by_class, sum(whole[record].values())]))
    output.show(made)
    if len(whole) > ROWS:
        more = formats.counted(len(whole) - ROWS, "smaller record")
        output.print_line(f"… and {more}; --json has them all")


def _by_record(parts: "Iterable[Counts]") -> dict[str, Counter[str]]:
    """Examples of each class in all parts together, by record."""
    whole: dict[str, Counter[str]] = {}
    for part in parts:
        for record, classes in part.records.items():
            whole.setdefault(record, Counter()).update(classes)
    return whole


def _columns(classes: Sequence[str]) -> Sequence[str]:
    return classes if len(classes) <= COLUMNS else ()


def _cells(counts: Iterable[int]) -> list[str]:
    return [f"{count:,}" if count else "·" for count in counts]


def _contents(share: "Share") -> str:
    """How many examples, of which part if there are several."""
    parts = share.parts.items()
    if len(parts) == 1:
        return formats.counted(sum(part.examples for _, part in parts), "example")
    return ", ".join(f"{part.examples:,} {name}" for name, part in parts)
