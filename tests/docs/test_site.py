"""The site as `make docs` builds it: whole, no link broken, no network needed."""

import json
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from html_pages import ROOT, broken, build, is_external, pages


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("site"))


def test_it_is_whole(built: Path):
    """A page for each Markdown file and each command; each has one heading and a title."""
    found = pages(built)
    written = {
        path.relative_to(ROOT / "docs").with_suffix("") for path in (ROOT / "docs").rglob("*.md")
    }
    assert written <= {path.relative_to(built).with_suffix("") for path in found}
    for path, page in found.items():
        assert page.title.strip(), path
        if path.name not in ("genindex.html", "search.html", "py-modindex.html"):
            assert len(page.headings) == 1, path
    assert len({page.title for page in found.values()}) == len(found)


def test_no_link_is_broken(built: Path):
    assert broken(pages(built), built) == []


def test_a_broken_link_is_found(tmp_path: Path):
    (tmp_path / "a.html").write_text('<h1 id="top">a</h1><a href="b.html"></a><a href="#top"></a>')
    (tmp_path / "c.html").write_text('<a href="a.html#top"></a><a href="a.html#gone"></a>')
    assert broken(pages(tmp_path), tmp_path) == [
        "a.html: b.html: no such file", "c.html: a.html#gone: no such place",
    ]  # fmt: skip


def test_links_to_elsewhere_have_the_form_of_one(built: Path):
    """Whether they answer, `make docs-links` asks."""
    for page in pages(built).values():
        for link in page.links:
            if is_external(link.target):
                parts = urlsplit(link.target)
                assert parts.scheme in ("https", "http", "mailto"), link
                assert parts.scheme == "mailto" or re.fullmatch(
                    r"[\w.-]+\.\w+(:\d+)?", parts.netloc
                )


def test_it_needs_no_network(built: Path):
    """Nothing is loaded from elsewhere: styles, fonts, pictures, programs, the search."""
    for path, page in pages(built).items():
        loaded = [link for link in page.links if link.tag != "a" and is_external(link.target)]
        assert not loaded, path
    for path in built.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", path.read_text()), path


def test_the_search_finds_an_option_and_a_word(built: Path):
    text = (built / "searchindex.js").read_text()
    index = json.loads(text.removeprefix("Search.setIndex(").rstrip().removesuffix(")"))
    assert {"quorum", "webhook"} & index["terms"].keys()
    assert "--quorum" in text
