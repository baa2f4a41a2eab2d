"""CONTRIBUTING.md names functions and files: they are there."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
NAMED = re.findall(r"`flctl/([\w/]+)\.py:([\w.]+)`", TEXT)
FILES = sorted(set(re.findall(r"`((?:flctl|tests|docs|examples|scripts)/[\w./]*)`", TEXT)))


def test_a_round_is_told_in_ten_functions():
    assert len(NAMED) == 10


@pytest.mark.parametrize(("module", "name"), NAMED)
def test_a_named_function_is_there(module: str, name: str):
    found = importlib.import_module(f"flctl.{module.replace('/', '.')}")
    for part in name.split("."):
        found = getattr(found, part)
    assert callable(found)


@pytest.mark.parametrize("path", FILES)
def test_a_named_file_is_there(path: str):
    assert (ROOT / path).exists() or path == "flctl/ansible"  # in the wheel only
