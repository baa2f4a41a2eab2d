"""What holds of the source as a whole: what tests may touch."""

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parent
OF_THE_COORDINATOR = ("core", "coordinator", "wire", "records", "faults")
PUBLIC = {"_replace", "_asdict", "_fields", "_getframe"}
"""Of the standard library, in spite of their names."""


def trees(folder: Path) -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(folder.rglob("*.py")):
        yield path.relative_to(folder).as_posix(), ast.parse(path.read_text())


def test_tests_use_what_is_public():
    """A test that reaches into an object holds what it does today, not what it promises."""
    found = [
        f"{folder}/{name}:{node.lineno} {ast.unparse(node)}"
        for folder in OF_THE_COORDINATOR
        for name, tree in trees(TESTS / folder)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        and node.attr not in PUBLIC
        and ast.unparse(node.value) not in ("self", "cls", "super()")
        and "agent.supervisor" not in ast.unparse(node.value)  # an agent that is made to go wrong
    ]
    assert found == []
