"""The manual pages are the commands' own help, in the form that `man` reads."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import man  # noqa: E402

PAGES = man.pages()
FOUND = {each.name: each for each in man.every(man.root())}


def plain(page: str) -> str:
    """Without the marks of roff."""
    text = re.sub(r"\\f[BIR]|\\&", "", page)
    text = re.sub(r"\\\[u([0-9A-F]+)\]", lambda found: chr(int(found[1], 16)), text)
    for sign, mark in man.ROFF.items():
        text = text.replace(mark, sign)
    return " ".join(text.split())


def test_there_is_a_page_for_each_command():
    assert PAGES.keys() == {f"{name}.1" for name in FOUND}
    assert {"flctl.1", "flctl-train.1", "flctl-runs-show.1", "flctl-version.1"} <= PAGES.keys()


@pytest.mark.parametrize("name", [n for n, each in FOUND.items() if not each.inner])
def test_a_page_has_every_option_and_example_of_the_help(name, flctl, monkeypatch):
    """Word for word."""
    monkeypatch.setenv("COLUMNS", "100")
    page = plain(PAGES[f"{name}.1"])
    said = flctl(*FOUND[name].words[1:], "--help").out
    for option in re.findall(r"(?m)^  (--?[\w-]+)", said):
        assert option in page
    for line in said.partition("\nExample")[2].splitlines()[1:]:
        assert " ".join(line.split()) in page


@pytest.mark.parametrize("name", [n for n, each in FOUND.items() if each.inner])
def test_the_page_of_a_group_names_its_commands(name):
    page = plain(PAGES[f"{name}.1"])
    for each in FOUND[name].inner:
        assert f"{each.name}(1) {each.summary}." in page


def test_a_text_cannot_become_a_request_of_roff():
    """A line that begins with a dot or a quote, a backslash, and hyphens that are copied."""
    assert man.line(".SH x") == r"\&.SH x"
    assert man.line("'x'") == r"\(aqx\(aq"
    assert man.text(r"a\n --b…") == r"a\en \-\-b\[u2026]"


@pytest.mark.skipif(shutil.which("man") is None, reason="man is not installed")
def test_man_has_no_complaint(tmp_path):
    """All pages in one call: no warning of groff, and no line that is wider than the terminal."""
    paths = man.write(tmp_path)
    done = subprocess.run(
        ["man", "--warnings=w", "-l", *paths],
        capture_output=True, text=True, check=False,
        env={"PATH": "/usr/bin:/bin", "MANWIDTH": "80", "LC_ALL": "C.UTF-8", "MANPAGER": "cat"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "flctl train --task ecg --rounds 10" in done.stdout
