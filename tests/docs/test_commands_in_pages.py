"""Every command in README and the pages is one that exists, with options and values that exist.

Most are run besides: test_tutorials_are_run.py, test_guides_are_run.py. What stands within the
text, and what a page marks as not run, is only read, here.
"""

import ast
import importlib
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from blocks import (
    PAGES,
    PLACEHOLDER,
    PROGRAMS,
    ROOT,
    Block,
    blocks,
    commands,
    inline,
    is_shell,
    lines,
    of_flctl,
    program,
)
from generate.commands import every, root
from generate.settings import PLACES
from marks import READ, REASONS, Shown, not_run, parts, steps

from flctl.settings import KEYS, SHORT

ALL = [block for page in PAGES for block in blocks(page)]
SHELL = [block for block in ALL if is_shell(block) and (not_run(block) or block.page not in READ)]
TARGETS = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
COMMANDS = {each.path: each for each in every()}
UsageError: type[Exception] = typer.BadParameter.__mro__[1]
CHOICES = re.compile(r"^[a-z0-9-]+(\|[a-z0-9-]+)+$")
FOLDERS = ("ansible", "benchmarks", "docs", "examples", "flctl", "ops", "scripts", "tests")


def check_flctl(given: list[str]) -> None:
    """Raises UsageError, or AssertionError."""
    if not given or given[0] in ("-h", "--help", "--version", "--install-completion", "COMMAND"):
        return
    path: tuple[str, ...] = ()
    rest = list(given)
    while rest and (*path, rest[0]) in COMMANDS:
        path = (*path, rest.pop(0))
    assert path, f"there is no command flctl {given[0]}"
    found = COMMANDS[path]
    if found.is_group and rest and not rest[0].startswith("-"):
        assert PLACEHOLDER.search(rest[0]), f"there is no command {found.name} {rest[0]}"
        return
    if found.is_group and rest:  # of any of its commands, as in `flctl keys --state`
        inner = [each for name, each in COMMANDS.items() if name[: len(path)] == path]
        known = {name for each in inner for option in each.options for name in option.opts}
        assert rest[0].partition("=")[0] in known, f"{found.name}: no option {rest[0]}"
        return
    if path == ("service", "install") and rest:
        check_flctl([word for word in rest if word not in ("--system", "--dry-run")])
        return
    rest = [word for word in rest if word not in ("…", "...")]
    options, *_ = found.command.make_parser(found.context).parse_args(list(rest))
    for parameter in found.command.get_params(found.context):
        check_value(parameter, options.get(parameter.name))


def check_value(parameter: Any, value: Any) -> None:
    metavar = parameter.metavar or ""
    for each in value if isinstance(value, list) else [value]:
        if not isinstance(each, str) or PLACEHOLDER.search(each):
            continue
        if CHOICES.match(metavar):
            assert each in metavar.split("|"), f"{parameter.opts[0]} {each}: one of {metavar}"
        elif (kind := _type_of(parameter)) in (int, float):
            kind(each)


def _type_of(parameter: Any) -> Any:
    return getattr(getattr(parameter, "type_descriptor", None), "annotation", None)


def check(words: list[str]) -> None:
    if (given := of_flctl(words)) is not None:
        check_flctl(given)
    name = program(words[0])
    if name == "make":
        for word in words[1:]:
            if "=" not in word and not word.startswith("-") and not PLACEHOLDER.search(word):
                assert word in TARGETS, f"there is no target {word}"
    if name == "ansible-playbook":
        for word in words[1:]:
            if word.endswith(".yml") and not word.startswith("inventory"):
                assert (ROOT / "ansible" / Path(word).name).exists(), word
            elif word.startswith("flctl.fleet."):
                playbook = word.removeprefix("flctl.fleet.").replace("_", "-")
                assert (ROOT / f"ansible/{playbook}.yml").exists(), word
    for word in words:
        check_path(word)


def check_path(word: str) -> None:
    """A file of the repository that is named is there."""
    first, _, rest = word.partition("/")
    if first in FOLDERS and re.fullmatch(r"[\w./-]*\w", rest):
        assert (ROOT / word).exists() or word == "flctl/ansible", f"there is no {word}"


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_a_block_of_commands(block: Block):
    for line in lines(block.text):
        for words in commands(line):
            name = program(words[0])
            known = name in PROGRAMS or "=" in words[0] or PLACEHOLDER.search(words[0])
            assert known or words[0].startswith("-"), f"what is {words[0]}? {line}"
            try:
                check(words)
            except (UsageError, ValueError) as error:
                pytest.fail(f"{line}: {error}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_within_the_text(page: Path):
    wrong = []
    for text in inline(page):
        check_path(text)
        if not re.match(r"(flctl|make|ansible-playbook) \S", text):
            continue
        try:
            for words in commands(text):
                check(words)
        except (UsageError, AssertionError, ValueError) as error:
            if "requires an argument" not in str(error):  # an option may stand alone
                wrong.append(f"{text}: {error}")
    assert not wrong, "\n".join(wrong)


def test_blocks_are_found():
    assert len(SHELL) > 20 and len([b for b in ALL if b.language == "python"]) >= 9
    assert root().command is not None


def test_what_is_not_run_says_why():
    """For a reason that is known, and few; a test that is named is there."""
    typed = [step for page in READ for step in steps(page)]
    left_out = [step for step in typed if step.not_run]
    for step in left_out:
        assert step.not_run and step.not_run.reason in REASONS, step
        file, _, name = (step.not_run.test or "").partition("::")
        assert not file or (ROOT / file).is_file(), step
        assert f"def {name}" in (ROOT / file).read_text() if name else True, step
    assert len(left_out) < 0.3 * len(typed)


@pytest.mark.parametrize("page", READ, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_mark_is_understood(page: Path):
    """A comment that looks like one, and stands elsewhere or is misspelt, would be overlooked."""
    marks = re.findall(r"<!-- .*(?:not run|output of).* -->", page.read_text())
    blocks_ = [block for block in ALL if block.page == page]
    outputs = [part for part in parts(page) if isinstance(part, Shown) and part.of]
    assert len(marks) == len([block for block in blocks_ if not_run(block)]) + len(outputs)


@pytest.mark.parametrize("block", [b for b in ALL if b.language == "toml"], ids=str)
def test_a_block_of_toml(block: Block):
    """It parses; its keys are those of a run, of a coordinator, or of a package."""
    table = tomllib.loads(block.text)
    if "project" in table or "build-system" in table:
        return
    if table.keys() & {"alerts"}:
        for place, kind in PLACES.items():
            found = table
            for part in filter(None, place.split(".")):
                found = found.get(part, {})
            assert found.keys() <= set(kind.__struct_fields__), place
        return
    for key in table:
        name = key.replace("-", "_")
        assert name in (*KEYS, *SHORT, "save_model", "tensorboard", "schema"), key


@pytest.mark.parametrize("block", [b for b in ALL if b.language == "python"], ids=str)
def test_a_block_of_python(block: Block):
    """It compiles, and what it imports of flctl is there."""
    tree = ast.parse(block.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "flctl":
            module = importlib.import_module(node.module or "")
            for name in node.names:
                assert hasattr(module, name.name), f"{node.module} has no {name.name}"
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "flctl":
            assert hasattr(importlib.import_module("flctl"), node.attr), node.attr


@pytest.mark.parametrize("block", [b for b in ALL if b.language in ("json", "yaml")], ids=str)
def test_a_block_of_json_or_yaml(block: Block):
    assert (json.loads if block.language == "json" else yaml.safe_load)(block.text)
