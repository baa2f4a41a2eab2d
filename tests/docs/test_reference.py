"""The reference is made of the code: what has no text there fails here."""

import importlib
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from generate import commands, environment, events, fields, json_output, playbooks, settings
from generate.plain import TITLES

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs/reference").glob("*.md"))
GENERATED = re.compile(r"<!-- generated: (\w+) -->")
NAMES = [name for path in PAGES for name in GENERATED.findall(path.read_text())]
MODULES = {path.stem for path in (ROOT / "docs/generate").glob("*.py")}


def test_each_page_is_of_a_module():
    helpers = {"__init__", "fields", "plain"}
    assert sorted(NAMES) == sorted(MODULES - helpers)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_without_text(name: str):
    """Every command, option, key, field, event, variable and error: write the docstring or help
    where it is declared, or a line in docs/generate/words.toml."""
    assert importlib.import_module(f"generate.{name}").missing() == []


@pytest.mark.parametrize("name", NAMES)
def test_a_page_has_no_empty_cell_for_a_meaning(name: str):
    page = importlib.import_module(f"generate.{name}").page()
    assert not re.search(r"\|\s*\|$", page, re.MULTILINE)


def test_help_names_no_file_of_the_repository():
    """Who installs a wheel has no docs/: a page is named by its title, which is one."""
    for each in commands.every():
        texts = [each.command.help, *(o.help for o in each.options if hasattr(o, "help"))]
        panels = [getattr(o, "rich_help_panel", None) for o in each.options]
        for text in filter(None, (*texts, *panels)):
            assert "docs/" not in text, f"{each.name}: {text}"
            assert {*re.findall(r"documentation: ([^)]+)", text)} <= {*TITLES}, text


def test_an_option_without_text_is_found(monkeypatch: pytest.MonkeyPatch):
    (status,) = [each for each in commands.every() if each.name == "flctl status"]
    wide = next(each for each in status.options if each.name == "wide")
    monkeypatch.setattr(wide, "help", " ")
    monkeypatch.setattr(commands, "every", lambda: [status])
    assert commands.missing() == ["flctl status: --wide"]


def test_a_command_without_text_is_found(monkeypatch: pytest.MonkeyPatch):
    (status,) = [each for each in commands.every() if each.name == "flctl status"]
    monkeypatch.setattr(status.command, "help", None)
    monkeypatch.setattr(commands, "every", lambda: [status])
    assert commands.missing() == ["flctl status"]


class Told(msgspec.Struct):
    known: int
    """A number."""
    unknown_thing: int


def test_a_field_without_text_is_found():
    assert fields.without_text(Told) == ["Told.unknown_thing"]


def test_a_setting_without_an_option_is_found(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(settings.BY_KEY, "rounds")
    assert settings.missing() == ["rounds of a run has no option"]


def test_a_variable_of_the_playbooks_without_text_is_found(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(playbooks.VARIABLES, "flctl_labels", "")
    assert playbooks.missing() == ["flctl_labels: no text"]


def test_the_page_about_ansible_has_the_defaults_of_the_roles():
    """Its tables are written by hand: every variable is one, and a default that is a word or a
    number is the role's."""
    page = (ROOT / "docs/how-to/ansible.md").read_text()
    specs = playbooks.roles()
    known = {name for spec in specs.values() for name in spec["options"]} | {*playbooks.VARIABLES}
    defaults = {k: v for role in specs for k, v in playbooks.defaults(role).items()}
    rows = re.findall(r"^\| `(\w+_\w+)`[^|]* \| ([^|]+) \|", page, re.MULTILINE)
    assert len(rows) > 40 and {name for name, _ in rows} <= known
    for name, said in rows:
        default = defaults.get(name, "")
        if default not in ("", [], {}) and "{{" not in str(default):
            word = str(default).lower() if isinstance(default, bool) else str(default)
            assert said.split(",")[0].strip("`") == word, name


def test_a_variable_of_the_environment_without_text_is_found(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(environment.OTHERS, "FLCTL_DETAILS")
    assert environment.missing() == ["FLCTL_DETAILS"]


def test_words_are_of_what_is_there():
    """A text whose field is gone goes too; one whose field has a docstring is never shown."""
    kinds = {
        base.__name__: base
        for kind in _all_structs()
        for base in kind.__mro__
        if base.__module__.startswith("flctl.")
    }
    tables = {*kinds, "common", "events", "errors", "environment", "variables"}
    assert fields.WORDS.keys() <= tables
    for name, words in fields.WORDS.items():
        if name in kinds:
            known = {each.name for each in msgspec.structs.fields(kinds[name])}
            assert words.keys() <= known, name
            shadowed = words.keys() & fields.docstrings(kinds[name]).keys()
            assert not shadowed, f"{name}: {shadowed} have docstrings"
    assert fields.WORDS["events"].keys() <= {
        events.tag(k) for k in (*events.JOURNALED, *events.LIVE)
    }
    assert fields.WORDS["errors"].keys() == {k.__name__ for k in _errors()}
    assert fields.WORDS["variables"].keys() - {"flctl_rollout_soak_s"} == playbooks.of_no_role()


def _all_structs() -> list[Any]:
    kept = [*events.JOURNALED, *events.LIVE, fields.struct("flctl.core.stream:Published")]
    kept += [*json_output.structs(), *settings.PLACES.values()]
    return fields.with_inner(kept)


def _errors() -> list[Any]:
    return list(importlib.import_module("generate.errors").kinds())
