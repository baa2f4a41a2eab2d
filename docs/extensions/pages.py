"""What the Markdown of a page does not say itself.

The list of links in an `index.md` is also the order of the pages in the sidebar. A comment
`<!-- generated: NAME -->` is the place of what `generate/NAME.py` finds out of the code. On GitHub
neither is seen.
"""

import importlib
import re
from pathlib import Path
from typing import Any

from generate import commands
from sphinx.application import Sphinx

LINK = re.compile(r"^(?:-|\d+\.) \[[^\]]+\]\(([\w/.-]+)\.md\)", re.MULTILINE)
GENERATED = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)


def with_sidebar(text: str) -> str:
    pages = LINK.findall(text)
    return "\n".join([text, "```{toctree}", ":hidden:", "", *pages, "```", ""]) if pages else text


def filled(text: str) -> str:
    def part(found: re.Match[str]) -> str:
        made: str = importlib.import_module(f"generate.{found[1]}").page()
        return made

    return GENERATED.sub(part, text)


def on_source(_app: Sphinx, page: str, source: list[str]) -> None:
    if Path(page).name == "index":
        source[0] = with_sidebar(source[0])
    source[0] = filled(source[0])


def write_commands(app: Sphinx) -> None:
    """Pages that no file of the repository stands for."""
    folder = Path(app.srcdir) / "reference/commands"
    folder.mkdir(exist_ok=True)
    made = commands.pages()
    for path in folder.glob("*.md"):
        if path.stem not in made:
            path.unlink()
    for name, text in made.items():
        path = folder / f"{name}.md"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", write_commands)
    app.connect("source-read", on_source)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
