"""The words of the pages, without code, links and figures."""

import re
from pathlib import Path

_FENCE = re.compile(r"^( *)(```+).*?^\1\2$", re.MULTILINE | re.DOTALL)
_TAKEN_AWAY = re.compile(
    r"<!--.*?-->"  # comments
    r"|`+[^`]*`+"  # code
    r"|\]\([^)]*\)"  # where a link leads
    r"|https?://\S+"
    r"|^ {4,}\S.*$"  # code that is set in
    r"|[\w./-]*[/_=@]\S*"  # paths, names of code
    r"|\b[A-Z]{2,}\w*\b"  # placeholders, abbreviations
    r"|\w*\d\w*",  # figures, digests
    re.MULTILINE | re.DOTALL,
)


def prose(text: str) -> str:
    return _TAKEN_AWAY.sub(" ", _FENCE.sub("", text))


def words_of(text: str) -> str:
    """For a spell checker, which takes an apostrophe for a part of a word."""
    return re.sub(r"[^A-Za-zÀ-ÿ'’\n]", " ", prose(text)).replace("’", "'")


def read(path: Path) -> str:
    return words_of(path.read_text(encoding="utf-8"))
