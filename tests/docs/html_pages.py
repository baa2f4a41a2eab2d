"""The site, built and read as a browser would."""

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

VOID = {"a": "href", "link": "href", "img": "src", "script": "src", "source": "src"}


ROOT = Path(__file__).resolve().parents[2]


WITHOUT_TORCH = """
import sys; sys.modules["torch"] = None
from sphinx.cmd.build import main; sys.exit(main(sys.argv[1:]))
"""


def build(folder: Path) -> Path:
    """As `make docs` does in a clean clone: without torch."""
    command = [sys.executable, "-c", WITHOUT_TORCH, "-b", "html", "-E", "-W", "--keep-going", "-q"]
    done = subprocess.run(
        [*command, "-d", folder / "doctrees", "docs", folder / "html"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "html"


class Link(NamedTuple):
    tag: str
    target: str


class Page(HTMLParser):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.links: list[Link] = []
        self.anchors: set[str] = set()
        self.headings: list[str] = []
        self.title = ""
        self._within = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if identity := given.get("id"):
            self.anchors.add(identity)
        if (name := VOID.get(tag)) and (target := given.get(name)):
            self.links.append(Link(tag, target))
        if tag in ("h1", "title"):
            self._within = tag
            self.headings += [""] * (tag == "h1")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._within:
            self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within == "h1":
            self.headings[-1] += data
        elif self._within == "title":
            self.title += data


def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(site.rglob("*.html"))}


def is_external(target: str) -> bool:
    return bool(urlsplit(target).scheme or urlsplit(target).netloc)


def broken(found: dict[Path, Page], site: Path) -> list[str]:
    """Links to a file, or a place in a page, that is not there."""
    wrong = []
    for path, page in found.items():
        for link in page.links:
            target = urlsplit(link.target)
            if is_external(link.target):
                continue
            there = (path.parent / unquote(target.path)).resolve() if target.path else path
            where = f"{path.relative_to(site)}: {link.target}"
            if there.is_dir():
                there /= "index.html"
            if not there.is_file():
                wrong.append(f"{where}: no such file")
            elif there in found and unquote(target.fragment) not in found[there].anchors | {""}:
                wrong.append(f"{where}: no such place")
    return wrong
