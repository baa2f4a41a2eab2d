"""Labels of agents: short facts such as site=ward-3, and the requirements that choose by them.

Keys and values have the syntax of Kubernetes' labels (kubernetes.io/docs/concepts/overview/
working-with-objects/labels), without a prefix and never empty. An agent brings labels of its own,
from its settings; what an operator has set or taken away on the coordinator counts more.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

from flctl.errors import UsageError, one_line

MOST = 16
"""Labels of an agent, and requirements of a choice."""
_WORD = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
# \Z, because $ also matches before a newline at the end.
Label = Annotated[str, Meta(pattern=rf"^{_WORD}\Z")]
"""A key, or a value."""
Labels = Annotated[dict[Label, Label], Meta(max_length=MOST)]
Changes = Annotated[dict[Label, Label | None], Meta(max_length=2 * MOST)]
"""None takes a label away that the agent brings."""
Requirement = Annotated[str, Meta(pattern=rf"^{_WORD}(?:!?={_WORD})?\Z")]
Where: TypeAlias = Annotated[tuple[Requirement, ...], Meta(max_length=MOST)]
"""All of them have to hold; none: every agent is chosen."""
SYNTAX = "up to 63 letters, digits and . _ - with a letter or digit at both ends"
WRITE = "site=ward-3, site!=ward-3 or site"


def matches(where: Iterable[str], labels: Mapping[str, str]) -> bool:
    """Whether an agent with these labels is chosen; key!=value also chooses one without the key."""
    return all(_holds(requirement, labels) for requirement in where)


def _holds(requirement: str, labels: Mapping[str, str]) -> bool:
    key, equals, value = requirement.partition("=")
    if not equals:
        return key in labels
    if key.endswith("!"):
        return labels.get(key[:-1]) != value
    return labels.get(key) == value


def requirements(text: str, flag: str) -> tuple[str, ...]:
    """`site=ward-3,model!=pi3`. Raises UsageError."""
    found = tuple(part.strip() for part in text.split(","))
    for part in found:
        try:
            msgspec.convert(part, Requirement)
        except msgspec.ValidationError:
            raise UsageError(
                f"{flag} '{one_line(part, 140)}': write {WRITE}; a key and a value have {SYNTAX}"
            ) from None
    if len(found) > MOST:
        raise UsageError(f"{flag}: {len(found)} requirements, at most {MOST}")
    return found


def wanted(where: Sequence[str] | None) -> tuple[str, ...]:
    """Requirements as --where gives them, several times. Raises UsageError."""
    return requirements(",".join(where), "--where") if where else ()


def changes(texts: Sequence[str], flag: str, may_remove: bool = False) -> dict[str, str | None]:
    """`site=ward-3` and, if they `may_remove`, `site-`. Raises UsageError."""
    found: dict[str, str | None] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        removes = may_remove and not equals and text.endswith("-")
        key = text[:-1] if removes else key
        for word in (key,) if removes else (key, value):
            try:
                msgspec.convert(word, Label)
            except msgspec.ValidationError:
                also = ", or KEY- to remove it" if may_remove else ""
                raise UsageError(
                    f"{flag} '{one_line(text, 140)}': write KEY=VALUE{also}, each of {SYNTAX}"
                ) from None
        if key in found:
            raise UsageError(f"{flag}: the label '{key}' is given twice")
        found[key] = None if removes else value
    if len(found) > MOST:
        raise UsageError(f"{flag}: {len(found)} labels, at most {MOST}")
    return found


def counting(own: Mapping[str, str], changed: Mapping[str, str | None]) -> dict[str, str]:
    """The labels that count, of an agent's own ones and what an operator has changed of them."""
    found = {key: value for key, value in changed.items() if value is not None}
    found |= {key: value for key, value in sorted(own.items()) if key not in changed}
    return dict(sorted([*found.items()][:MOST]))


def written(labels: Mapping[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in labels.items())


def none_chosen(where: Sequence[str], every: Iterable[Mapping[str, str]]) -> str:
    """Message that no agent is chosen, with the labels that there are."""
    there = sorted({f"{key}={value}" for labels in every for key, value in labels.items()})
    few = ", ".join(there[:12]) + (" …" if len(there) > 12 else "")
    known = f"the labels are {few}" if there else "no agent has a label (flctl label)"
    return f"no agent is chosen by {' and '.join(where)}; {known}"
