"""An Ansible inventory in YAML form. PyYAML (the extra `inventory`) is imported where used."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flctl.fleet.inventory_model import Inventory, dynamic, fault

Node = Any
"""One of PyYAML's nodes; its `id` is "scalar", "sequence" or "mapping"."""

_MERGE = "tag:yaml.org,2002:merge"


class YamlFile:
    """Nested groups of `hosts`, `children` and `vars`.

    The file is composed into nodes (which carry line numbers) and never constructed into
    objects, so tags have no effect and an alias costs nothing until it is followed.
    """

    def __init__(self, inventory: Inventory, path: Path) -> None:
        self.inventory = inventory
        self.path = path
        self._seen: set[tuple[str, int]] = set()

    def read(self, text: str) -> None:
        root = compose(text, self.path)
        if root is None:
            return
        for name, line, node in self._entries(root, "the inventory"):
            if name == "plugin":
                raise dynamic(self.path, line)
            self._group(name, node)

    def host_variables(self, text: str) -> dict[str, str]:
        """The plain variables of a `host_vars` file."""
        root = compose(text, self.path)
        return {} if root is None else self._variables(root, "host_vars")

    def _group(self, top: str, top_node: Node) -> None:
        queue = [(top, top_node)]
        while queue:
            group, node = queue.pop()
            self.inventory.groups.setdefault(group, set())
            if (group, id(node)) in self._seen:
                continue
            self._seen.add((group, id(node)))
            for key, line, part in self._entries(node, f"the group {group}"):
                if key == "hosts":
                    self._hosts(group, part)
                elif key == "children":
                    for child, at, below in self._entries(part, f"children of {group}"):
                        self.inventory.children.setdefault(group, {})[child] = (self.path, at)
                        queue.append((child, below))
                elif key != "vars":
                    what = f"unknown key '{key[:80]}' in the group {group}; expected hosts, "
                    raise fault(self.path, line, what + "children or vars")

    def _hosts(self, group: str, node: Node) -> None:
        for pattern, line, variables in self._entries(node, f"hosts of {group}"):
            own = self._variables(variables, f"variables of {pattern[:80]}")
            self.inventory.add_hosts(group, pattern, own, self.path, line)

    def _variables(self, node: Node, what: str) -> dict[str, str]:
        pairs = self._entries(node, what)
        return {key: value.value for key, _, value in pairs if value.id == "scalar"}

    def _entries(self, node: Node, what: str) -> Iterator[tuple[str, int, Any]]:
        """Key, line and value of a mapping, merged ones (`<<`) first; none if it is empty."""
        if node.id == "scalar" and node.value in ("", "~", "null"):
            return
        if node.id != "mapping":
            raise fault(self.path, _line(node), f"{what} must be a mapping (name: …)")
        for key, value in self._merged(node):
            if key.id != "scalar":
                raise fault(self.path, _line(key), f"a name in {what} must be plain text")
            yield key.value, _line(key), value

    def _merged(self, node: Node) -> Iterator[tuple[Any, Any]]:
        order: list[Node] = []
        stack, seen = [node], set()
        while stack:
            mapping = stack.pop()
            if id(mapping) in seen or mapping.id != "mapping":
                continue
            seen.add(id(mapping))
            order.append(mapping)
            for key, value in mapping.value:
                self.inventory.spend(self.path, _line(key))
                if key.tag == _MERGE:
                    stack += value.value if value.id == "sequence" else [value]
        for mapping in reversed(order):
            yield from ((key, value) for key, value in mapping.value if key.tag != _MERGE)


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


def compose(text: str, path: Path) -> Any:
    """Root node of the YAML document, None when it is empty. Raises UsageError."""
    try:
        import yaml
    except ImportError as error:
        what = "reading YAML needs PyYAML: pip install 'flctl[inventory]'"
        raise fault(path, None, what) from error
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise fault(path, mark.line + 1 if mark else None, f"not YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise fault(path, None, f"not YAML: {' '.join(str(error).split())[:200]}") from error
    except RecursionError as error:
        raise fault(path, None, "nested too deeply; is this an inventory?") from error
