"""Every word of the pages is one of British English, or of docs/spelling.txt."""

import subprocess
from pathlib import Path

import pytest
from prose import read, words_of

ROOT = Path(__file__).resolve().parents[2]
OWN = ROOT / "docs/spelling.txt"
PAGES = [
    path
    for path in (*ROOT.glob("docs/**/*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md")
    if not {"_build", "commands"} & set(path.parts)
]


def unknown(text: str) -> set[str]:
    command = ["aspell", "list", "--lang=en_GB", "--ignore=2", "--encoding=utf-8"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.fixture(scope="module")
def own() -> set[str]:
    return set(OWN.read_text(encoding="utf-8").split())


def test_every_word_is_known(own: set[str]):
    """A name or a word of the trade goes into docs/spelling.txt; anything else is mended."""
    found = {str(path.relative_to(ROOT)): unknown(read(path)) - own for path in PAGES}
    assert not {page: sorted(words) for page, words in found.items() if words}


def test_every_word_of_the_help_is_known(own: set[str]):
    """And of all other texts that the reference is made of."""
    from generate import commands

    assert sorted(unknown(words_of("\n".join(commands.pages().values()))) - own) == []


def test_a_wrong_word_is_found():
    assert unknown(words_of("A reliabel `wrod` in [a link](htpt.md).")) == {"reliabel"}


def test_the_list_is_in_order():
    words = OWN.read_text(encoding="utf-8").split()
    assert words == sorted(set(words), key=lambda word: (word.lower(), word))
