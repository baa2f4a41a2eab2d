"""An Ansible inventory in INI form."""

import re
import shlex
from pathlib import Path

from flctl.fleet.inventory_model import Inventory, fault

_SECTION = re.compile(r"\[([^:\]\s]+)(?::([^\]]*))?\]")


class IniFile:
    """`[group]`, `[group:children]`, `[group:vars]`, and `host key=value …` lines."""

    def __init__(self, inventory: Inventory, path: Path) -> None:
        self.inventory = inventory
        self.path = path

    def read(self, text: str) -> None:
        group, kind = "ungrouped", "hosts"
        for number, raw in enumerate(text.splitlines(), start=1):
            line = raw.strip()
            if not line or line[0] in "#;":
                continue
            bare = re.sub(r"\s#.*$", "", line)
            if section := _SECTION.fullmatch(bare):
                group, kind = section[1], section[2] or "hosts"
                self._begin(group, kind, number)
            elif bare.startswith("[") and (bare.endswith("]") or "]" not in bare):
                raise fault(self.path, number, f"not a section, [NAME]: {bare[:80]}")
            else:
                self._entry(group, kind, line, number)

    def _begin(self, group: str, kind: str, number: int) -> None:
        if kind not in ("hosts", "children", "vars"):
            what = f"[{group}:{kind[:40]}] is neither a group, nor :children, nor :vars"
            raise fault(self.path, number, what)
        if kind != "vars":
            self.inventory.groups.setdefault(group, set())

    def _entry(self, group: str, kind: str, line: str, number: int) -> None:
        if kind == "vars":
            if "=" not in line:
                raise fault(self.path, number, f"expected key=value, got: {line[:80]}")
            return
        try:
            first, *rest = shlex.split(line, comments=True)
        except ValueError as error:
            raise fault(self.path, number, f"cannot be split into words: {error}") from error
        if kind == "children":
            if rest:
                raise fault(self.path, number, f"expected the name of one group, got: {line[:80]}")
            self.inventory.children.setdefault(group, {})[first] = (self.path, number)
            return
        variables: dict[str, str] = {}
        for word in rest:
            key, equals, value = word.partition("=")
            if not equals:
                what = f"expected key=value after {first[:80]}, got: {word[:80]}"
                raise fault(self.path, number, what)
            variables[key] = value
        self.inventory.add_hosts(group, first, variables, self.path, number)
