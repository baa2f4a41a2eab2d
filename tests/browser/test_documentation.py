"""The built documentation in Chromium: axe on every page, the search, a phone's width."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

sys.path.insert(0, str(Path(__file__).parents[1] / "docs"))
from html_pages import build

AXE = Path(__file__).with_name("axe.min.js")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("documentation"))


@pytest.fixture
def tab(browser: Browser) -> Iterator[Page]:
    made = browser.new_context(viewport={"width": 1280, "height": 800})
    yield made.new_page()
    made.close()


def violations(tab: Page, path: Path) -> list[str]:
    tab.goto(path.as_uri())
    tab.add_script_tag(path=str(AXE))
    found = tab.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{path.name}: {each['id']}: {node['html'][:150]}"
        for each in found["violations"]
        for node in each["nodes"][:3]
    ]


@pytest.mark.timeout(600)  # some ninety pages
def test_axe_finds_nothing_on_any_page(site: Path, tab: Page):
    paths = sorted(site.rglob("*.html"))
    assert len(paths) > 60
    wrong = [each for path in paths for each in violations(tab, path)]
    assert not wrong, "\n".join(wrong)


def test_axe_finds_nothing_in_the_dark(site: Path, tab: Page):
    """What differs there is colours: a page of each kind is enough."""
    tab.emulate_media(color_scheme="dark")
    kinds = ("index", "tutorials/own-csv", "how-to/own-tasks", "reference/commands/train",
             "reference/python", "reference/json", "explanation/security", "search")  # fmt: skip
    wrong = [each for name in kinds for each in violations(tab, site / f"{name}.html")]
    assert not wrong, "\n".join(wrong)


def test_no_page_is_wider_than_a_phone(site: Path, tab: Page):
    """Wide tables and long lines of code scroll by themselves."""
    tab.set_viewport_size({"width": 360, "height": 740})
    for path in sorted(site.rglob("*.html")):
        tab.goto(path.as_uri())
        width = tab.evaluate("() => document.documentElement.scrollWidth")
        assert width <= 360, f"{path.relative_to(site)}: {width}"


def test_the_search_works_from_files(site: Path, tab: Page):
    """Without a server, and without a network."""
    tab.goto(f"{(site / 'search.html').as_uri()}?q=quorum")
    tab.wait_for_selector("#search-results li a")
    assert "quorum" in tab.inner_text("#search-results").lower()
