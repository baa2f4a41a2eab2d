"""What holds of the source as a whole: sizes, names, and what tests may touch."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import flctl

PACKAGE, TESTS = Path(flctl.__file__).parent, Path(__file__).parent
MOST_LINES = 350
LONGER = {"core/round.py", "wire/messages.py"}
"""The only one that decides about a round, and all messages."""
OF_THE_COORDINATOR = ("core", "coordinator", "wire", "records", "faults")
PUBLIC = {"_replace", "_asdict", "_fields", "_getframe"}
"""Of the standard library, in spite of their names."""


def trees(folder: Path) -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(folder.rglob("*.py")):
        yield path.relative_to(folder).as_posix(), ast.parse(path.read_text())


def test_no_module_is_longer_than_a_reader_bears():
    """Past that, it is two things in one."""
    lines = {p.relative_to(PACKAGE).as_posix(): len(p.read_text().splitlines())
             for p in PACKAGE.rglob("*.py")}  # fmt: skip
    assert {name for name, count in lines.items() if count > MOST_LINES} <= LONGER


def test_a_public_class_below_the_commands_has_a_name_of_its_own():
    """So that a name in a log, a traceback or a search means one thing."""
    where = defaultdict(list)
    for name, tree in trees(PACKAGE):
        for node in tree.body if not name.startswith("cli/") else ():
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                where[node.name].append(name)
    assert {name: paths for name, paths in where.items() if len(paths) > 1} == {}


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


def test_commands_are_thin():
    """They parse, call one thing and print: all of them together are short."""
    lines = sum(len(path.read_text().splitlines()) for path in (PACKAGE / "cli").glob("*.py"))
    assert lines <= 3_500
