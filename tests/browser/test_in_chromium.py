"""What a person does with the page, in Debian's Chromium."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from page_rig import Page, PlayedFleet
from playwright.sync_api import Browser, BrowserContext, expect
from playwright.sync_api import Page as Tab

pytestmark = pytest.mark.timeout(400)
AXE = Path(__file__).with_name("axe.min.js")
WITHIN_MS = 90_000
expect.set_options(timeout=WITHIN_MS)
PHONE = {"width": 390, "height": 844}
PATHS = ("/", "/runs", "/security", "/agents/pi-01")


@pytest.fixture(scope="module")
def context(browser: Browser, page_of_admin: Page) -> Iterator[BrowserContext]:
    """Logged in."""
    made = browser.new_context(base_url=page_of_admin.url)
    made.set_default_timeout(WITHIN_MS)
    made.add_init_script(path=AXE)
    tab = made.new_page()
    log_in(tab, page_of_admin)
    tab.close()
    yield made
    made.close()


@pytest.fixture
def tab(context: BrowserContext) -> Iterator[Tab]:
    """Nothing in the console: neither an error of a script nor a breach of the policy."""
    said: list[str] = []
    made = context.new_page()
    made.on("console", lambda m: said.append(m.text) if m.type == "error" else None)
    made.on("pageerror", lambda error: said.append(str(error)))
    made.on("dialog", lambda dialog: dialog.accept())
    yield made
    made.close()
    assert [text for text in said if "net::ERR" not in text and "50" not in text] == []


def log_in(tab: Tab, page: Page) -> None:
    assert page.site.login is not None
    tab.goto("/")
    tab.get_by_label("Token").fill(page.site.login.token)
    tab.get_by_role("button", name="Log in").click()
    expect(tab.get_by_role("heading", name="Fleet")).to_be_visible()


def violations(tab: Tab) -> list[tuple[str, Any]]:
    found = tab.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
    return [(each["id"], [node["html"][:200] for node in each["nodes"][:3]])
            for each in found["violations"]]  # fmt: skip


def test_a_wrong_token_is_refused(browser: Browser, page_of_admin: Page):
    context = browser.new_context(base_url=page_of_admin.url)
    context.add_init_script(path=AXE)
    tab = context.new_page()
    tab.goto("/runs")
    tab.get_by_label("Token").fill("not the token")
    tab.get_by_role("button", name="Log in").click()
    expect(tab.get_by_role("alert")).to_contain_text("that is not the token")
    assert violations(tab) == []
    context.close()


def test_the_hot_device_is_found(fleet: PlayedFleet, tab: Tab):
    """In the head, by sorting, and by the filter, with the keyboard alone."""
    tab.goto("/")
    expect(tab.locator("#head")).to_contain_text("Hottest: pi-02, 83 °C, hot, throttled")
    tab.get_by_label("Sort by").select_option("temperature")
    expect(tab.locator("#agents tr").first).to_contain_text("pi-02")
    tab.get_by_label("Text").focus()
    tab.keyboard.type("pi-03")
    expect(tab.locator("#shown")).to_have_text("1 of 3 shown")
    expect(tab.locator("#agent-pi-02")).to_be_hidden()
    tab.get_by_label("Text").fill("")
    expect(tab.locator("#shown")).to_have_text("3 of 3 shown")


def test_the_focus_stays_through_a_refresh(fleet: PlayedFleet, tab: Tab):
    """In a part of the page that is brought up to date, so that Tab goes on from there."""
    tab.goto("/")
    tab.locator("#head a[href='/agents/pi-02']").focus()
    fleet.play("pi-02", telemetry={"temperature_c": 87.0, "throttled": ["throttled"]})
    expect(tab.locator("#head")).to_contain_text("Hottest: pi-02, 87 °C")
    expect(tab.locator("#head a[href='/agents/pi-02']")).to_be_focused()
    fleet.play("pi-02", telemetry={"temperature_c": 83.0, "throttled": ["throttled"]})


def test_a_filter_that_nothing_fits_says_so(fleet: PlayedFleet, tab: Tab):
    tab.goto("/?text=hot")
    expect(tab.locator("#shown")).to_have_text("1 of 3 shown")
    tab.get_by_label("Text").fill("no such thing")
    expect(tab.locator("#none-shown")).to_be_visible()


def test_a_run_from_start_to_end(fleet: PlayedFleet, tab: Tab):
    """The form begins it; why a round waits is said; its curves grow; then it is finished."""
    fleet.play("pi-02", batch_s=0.8)
    tab.goto("/runs")
    tab.get_by_label("Task").select_option("ecg")
    tab.get_by_label("Rounds").fill("3")
    tab.get_by_label("Further settings").fill(f'quorum = 3\ntest_data = "{fleet.data}"')
    tab.get_by_role("button", name="Begin").click()
    tab.locator("#said a").click()
    expect(tab.locator("#now")).to_contain_text("Waiting for")
    expect(tab.locator("#now")).to_contain_text(re.compile("until .* UTC"))
    expect(tab.locator("progress").first).to_be_visible()
    fleet.play("pi-02", batch_s=0.02)
    expect(tab.locator("figure.chart canvas").first).to_be_visible()
    expect(tab.locator("#now")).to_contain_text("finished")
    expect(tab.get_by_role("heading", name="Confusion matrix")).to_be_visible()
    assert violations(tab) == []


def test_a_run_is_stopped(fleet: PlayedFleet, tab: Tab):
    fleet.play("pi-01", batch_s=3)
    tab.goto("/runs")
    tab.get_by_label("Rounds").fill("9")
    tab.get_by_label("Further settings").fill(f'test_data = "{fleet.data}"')
    tab.get_by_role("button", name="Begin").click()
    tab.locator("#said a").click()
    tab.get_by_role("button", name="Stop the run").click()
    expect(tab.locator("#said")).to_contain_text("has stopped")
    expect(tab.get_by_role("button", name="Resume the run")).to_be_visible()
    fleet.play("pi-01", batch_s=0.02)


def test_two_runs_are_compared(fleet: PlayedFleet, tab: Tab):
    tab.goto("/runs")
    for box in tab.get_by_role("checkbox").all()[:2]:
        box.check()
    tab.get_by_role("button", name="Compare").click()
    expect(tab.get_by_role("heading", name="2 runs side by side")).to_be_visible()
    assert violations(tab) == []


def test_an_agent_is_killed_and_comes_back(fleet: PlayedFleet, tab: Tab):
    """The open page shows it, without being loaded again."""
    tab.goto("/")
    row = tab.locator("#agent-pi-03")
    expect(row.locator("[data-cell=state]")).to_contain_text("ready")
    fleet.kill("last")
    expect(row.locator("[data-cell=state]")).to_contain_text("lost")
    expect(row).to_contain_text("check its power")
    fleet.start_played("pi-03", process="last")
    expect(row.locator("[data-cell=state]")).to_contain_text("ready")


def test_an_agent_is_cordoned(fleet: PlayedFleet, tab: Tab):
    tab.goto("/agents/pi-01")
    tab.get_by_role("button", name="Cordon").click()
    expect(tab.locator("#said")).to_contain_text("held back")
    expect(tab.locator("#now")).to_contain_text("cordoned")
    tab.get_by_role("button", name="Take it back").click()
    expect(tab.get_by_role("button", name="Cordon")).to_be_visible()


def test_the_coordinator_is_restarted_under_an_open_page(fleet: PlayedFleet, tab: Tab):
    """A line says since when it is away; it goes, and the page lives on."""
    tab.goto("/")
    fleet.kill("coordinator")
    expect(tab.locator("#link")).to_contain_text("UTC")
    fleet.start_coordinator()
    expect(tab.locator("#link")).to_be_hidden()
    fleet.play("pi-01", telemetry={"temperature_c": 61.0})
    expect(tab.locator("#agent-pi-01")).to_contain_text("61 °C")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", PATHS)
def test_axe_finds_no_violation(context: BrowserContext, path: str, scheme: Any):
    """On a screen and on a phone, where nothing is wider than the phone."""
    tab = context.new_page()
    tab.emulate_media(color_scheme=scheme)
    tab.goto(path)
    assert violations(tab) == []
    tab.set_viewport_size(PHONE)
    assert violations(tab) == []
    width = tab.evaluate("() => document.documentElement.scrollWidth")
    assert width <= PHONE["width"], json.dumps([path, width])
    tab.close()
