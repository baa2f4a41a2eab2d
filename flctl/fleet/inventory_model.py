"""What an inventory's files say: hosts, groups, the groups of groups, and host ranges."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_letters

from flctl.errors import UsageError, printable

ENTRIES = 100_000
"""Hosts and keys that one inventory may expand to, ranges and YAML aliases included."""

_RANGE = re.compile(r"\[(\d*|[A-Za-z]):(\d+|[A-Za-z])(?::(\d+))?\]")
_IPV6 = re.compile(r"\[[^\[\]]*:[^\[\]]*\]")
_PORT = re.compile(r"((?:\[[^\]]*\]|[^:\[\]])+):\d{1,5}")


@dataclass
class Host:
    file: Path
    line: int
    """Where it is first named, counted from 1."""
    variables: dict[str, str] = field(default_factory=dict)


@dataclass
class Inventory:
    hosts: dict[str, Host] = field(default_factory=dict)
    groups: dict[str, set[str]] = field(default_factory=dict)
    """Names of a group's own hosts."""
    children: dict[str, dict[str, tuple[Path, int]]] = field(default_factory=dict)
    """Groups of a group, each with the place that says so."""
    entries_left: int = ENTRIES

    def add_hosts(
        self, group: str, pattern: str, variables: dict[str, str], file: Path, line: int
    ) -> None:
        members = self.groups.setdefault(group, set())
        for name in expand(pattern, file, line):
            self.spend(file, line)
            self.hosts.setdefault(name, Host(file, line)).variables.update(variables)
            members.add(name)

    def spend(self, file: Path, line: int) -> None:
        self.entries_left -= 1
        if self.entries_left < 0:
            raise fault(file, line, f"more than {ENTRIES} hosts and keys")

    def members(self, group: str) -> set[str]:
        """Hosts of `group` and of all groups below it."""
        found: set[str] = set()
        seen: set[str] = set()
        queue = [group]
        while queue:
            name = queue.pop()
            if name not in seen:
                seen.add(name)
                found |= self.groups.get(name, set())
                queue += self.children.get(name, {})
        return found


def fault(file: Path, line: int | None, what: str) -> UsageError:
    what = printable(what, kept="")
    return UsageError(f"{file}, line {line}: {what}" if line else f"{file}: {what}")


def dynamic(file: Path, line: int) -> UsageError:
    """A script or a plugin's configuration: running it is Ansible's business."""
    what = "a dynamic inventory is not run here; save the output of "
    return fault(file, line, what + "`ansible-inventory -i FILE --list --yaml` and name that file")


def expand(pattern: str, file: Path, line: int) -> Iterator[str]:
    """Names that `pattern` stands for: `pi-[01:03]` is pi-01, pi-02, pi-03; a port is cut off."""
    if len(pattern) > 255:
        raise fault(file, line, f"the host name {pattern[:80]}… is longer than 255 characters")
    with_port = _PORT.fullmatch(pattern)
    name = with_port[1] if with_port else pattern
    found = _RANGE.search(name)
    if found is None:
        plain = name[1:-1] if _IPV6.fullmatch(name) else name
        if "[" in plain or "]" in plain:
            what = f"'{pattern[:80]}' is no host: a range is [1:9], a section [NAME]"
            raise fault(file, line, what)
        yield plain
        return
    rest = name[found.end() :]
    for item in _range(found, file, line):
        for tail in expand(rest, file, line) if rest else ("",):
            yield name[: found.start()] + item + tail


def _range(found: re.Match[str], file: Path, line: int) -> Iterator[str]:
    first, last, step = found[1] or "0", found[2], int(found[3] or 1)
    if first.isdigit() != last.isdigit():
        raise fault(file, line, f"the range {found[0]} mixes letters and digits")
    width = len(first) if first.startswith("0") else 0
    if width > 1 and width != len(last):
        raise fault(file, line, f"the ends of the range {found[0]} differ in length")
    if max(len(first), len(last)) > 9 or step < 1:
        raise fault(file, line, f"the range {found[0]} is out of bounds")
    if first.isdigit():
        start, stop = int(first), int(last)
    else:
        start, stop = ascii_letters.index(first), ascii_letters.index(last)
    if start > stop:
        raise fault(file, line, f"the range {found[0]} ends before it begins")
    for number in range(start, stop + 1, step):
        yield f"{number:0{width}d}" if first.isdigit() else ascii_letters[number]
