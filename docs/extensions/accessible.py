"""What the theme leaves out for those who use a keyboard or a screen reader: tests/browser tries
every page with axe."""

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

CHANGES = (
    ('<aside class="sidebar-drawer">', '<aside class="sidebar-drawer" aria-label="All pages">'),
    ('<aside class="toc-drawer', '<aside aria-label="This page" class="toc-drawer'),
    ("<pre>", '<pre tabindex="0">'),  # a long line scrolls, by the keyboard too
    ('<div class="table-wrapper', '<div tabindex="0" class="table-wrapper'),  # so does a wide table
    ('<div id="search-results">', '<h1>Search</h1><div id="search-results">'),
)
EMPTY_HEAD = re.compile(r'<th class="(head[^"]*)"><p></p></th>')


def on_end(app: Sphinx, problem: Exception | None) -> None:
    if problem is not None or app.builder.name != "html":
        return
    for path in Path(app.outdir).rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        made = EMPTY_HEAD.sub(r'<td class="\1"></td>', text)
        for old, new in CHANGES:
            made = made.replace(old, new)
        if made != text:
            path.write_text(made, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("build-finished", on_end)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
