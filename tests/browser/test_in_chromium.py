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

AXE = Path(__file__).with_name("axe.min.js")
WITHIN_MS = 90_000
expect.set_options(timeout=WITHIN_MS)
PHONE = {"width": 390, "height": 844}
PATHS = ("/", "/runs", "/alerts", "/security", "/agents/pi-01")


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
    log_in(tab, page_of_admin)
    for way in (tab.go_back, tab.go_back, tab.reload):  # no form to send again
        answer = way()
        assert answer is not None and answer.ok
        expect(tab.get_by_role("heading", level=1)).to_be_visible()
    context.close()


def test_every_column_is_in_a_window_of_1280_pixels(fleet: PlayedFleet, tab: Tab):
    tab.set_viewport_size({"width": 1280, "height": 800})
    tab.goto("/")
    expect(tab.locator("#agent-pi-01")).to_contain_text("Raspberry Pi 4 Model B")
    inside(tab, "table.fleet thead th, [data-cell=device]", 1280)


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
    fleet.play("pi-02", batch_s=60)
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
    fleet.play("pi-01", batch_s=60)
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


def test_nothing_chosen_to_compare_stays_on_the_page(fleet: PlayedFleet, tab: Tab):
    tab.goto("/runs")
    tab.get_by_role("button", name="Compare").click()
    expect(tab.get_by_role("alert")).to_contain_text("Choose runs to compare")
    expect(tab.get_by_role("heading", name="Runs")).to_be_visible()
    assert violations(tab) == []


def test_an_alert_is_acknowledged(fleet: PlayedFleet, tab: Tab):
    """By the open token of this fleet; the page follows by itself."""
    tab.goto("/alerts")
    row = tab.locator("table.cards tbody tr").filter(has_text="open token")
    row.get_by_role("button", name="Mute").click()
    expect(row).to_contain_text("muted")
    tab.get_by_role("button", name="No longer mute").click()
    expect(row.get_by_role("button", name="Mute")).to_be_visible()
    row.get_by_role("button", name="Acknowledge").click()
    expect(row).to_contain_text("acknowledged")
    expect(tab.locator("#said")).to_contain_text("is acknowledged")
    assert violations(tab) == []


def test_a_run_is_paused_and_resumed(fleet: PlayedFleet, tab: Tab):
    """After its open round, with a question before each order."""
    fleet.play("pi-01", batch_s=60)
    tab.goto("/runs")
    tab.get_by_label("Rounds").fill("2")
    tab.get_by_label("Further settings").fill(f'test_data = "{fleet.data}"')
    tab.get_by_role("button", name="Begin").click()
    tab.locator("#said a").click()
    asked: list[str] = []
    tab.on("dialog", lambda dialog: asked.append(dialog.message))
    tab.get_by_role("button", name="Pause after this round").dblclick()
    expect(tab.locator("#said")).to_contain_text("pauses after round 1")
    expect(tab.get_by_role("button", name="Do not pause")).to_be_visible()
    fleet.play("pi-01", batch_s=0.02)
    expect(tab.locator("#now")).to_contain_text("paused, 1 of 2 rounds committed: by an operator")
    expect(tab.get_by_role("button", name="Pause after this round")).to_be_hidden()
    tab.get_by_role("button", name="Resume the run").dblclick()
    expect(tab.locator("#said")).to_contain_text("goes on")
    expect(tab.locator("#now")).to_contain_text("finished")
    expect(tab.locator("#said .bad")).to_have_count(0)
    assert [text.partition(" ")[0] for text in asked] == ["Pause", "Resume"]


def inside(tab: Tab, cells: str, width: int = PHONE["width"]) -> None:
    """All of them are within the window, without a swipe."""
    edges = tab.locator(cells).evaluate_all(
        "(all) => all.map((e) => e.getBoundingClientRect()).map((box) => [box.left, box.right])"
    )
    assert edges and min(left for left, _ in edges) >= 0
    assert max(right for _, right in edges) <= width


def test_a_phone_shows_whole_tables(fleet: PlayedFleet, tab: Tab):
    """Every run that is compared, and how each order ended."""
    with fleet.console() as console:
        runs = [each["run"] for each in console.look().summaries][:2]
    tab.set_viewport_size(PHONE)
    tab.goto(f"/runs/compare?run={runs[0]}&run={runs[1]}")
    inside(tab, "table.cards tbody td")
    expect(tab.locator("table.cards tbody tr").first).to_contain_text("State")
    assert violations(tab) == []
    tab.goto("/runs")
    inside(tab, "table.cards tbody td")
    expect(tab.locator("table.runs td[data-head='Measured on']").first).to_be_visible()
    assert violations(tab) == []
    tab.goto("/security")
    inside(tab, "table.audit tbody td")
    expect(tab.locator("table.audit td[data-head=Outcome]").first).to_contain_text("done")
    assert violations(tab) == []


AXIS = "(at) => document.querySelectorAll('figure.chart')[at].plot.axes.map((axis) => axis._values)"


def test_the_axes_of_an_agents_history(tab: Tab):
    """Times in UTC, midnight as its day; a share goes to 1; a gap stays one."""
    midnight = 1795824000  # 2026-11-28 00:00 UTC
    x = [midnight + 600 * at for at in range(-9, 10)]
    series = [{"label": "mean", "values": [None if at == 5 else 50 + at for at in range(len(x))]}]
    share = [{"label": "mean", "values": [0.25] * len(x)}]
    about = {"of": "time", "time": True, "x": x, "words": "a chart", "most": None}
    charts = [{**about, "title": "temperature, °C", "series": series},
              {**about, "title": "throttled", "series": share, "most": 1}]  # fmt: skip
    tab.route("**/history?*", lambda route: route.fulfill(json={"charts": charts}))
    tab.goto("/agents/pi-01?span=6h")
    expect(tab.locator("figure.chart canvas")).to_have_count(2)
    times, degrees = tab.evaluate(AXIS, 0)
    assert "11-28" in times and len(times) >= 3
    assert all(re.fullmatch(r"\d\d:[0-5]0|11-28", each) for each in times)
    day = times.index("11-28")
    assert day and all(each > "22" for each in times[:day])
    assert times[day + 1 :] == sorted(times[day + 1 :]) and all(e < "02" for e in times[day + 1 :])
    assert 40 <= float(degrees[0]) <= 50 and 60 <= float(degrees[-1]) <= 80
    _, shares = tab.evaluate(AXIS, 1)
    assert (float(shares[0]), float(shares[-1])) == (0, 1)
    gap = "() => document.querySelector('figure.chart').plot.data[1][5]"
    assert tab.evaluate(gap) is None
    expect(tab.locator("figure.chart").first).to_contain_text("time (UTC)")


def test_the_log_of_an_agent_is_shown(fleet: PlayedFleet, tab: Tab):
    """The newest lines, as text, with the focus where it was."""
    tab.goto("/agents/pi-03")
    log = tab.get_by_role("log")
    expect(log).to_contain_text("pi-03")
    expect(log).to_contain_text("WARNING <b>bold</b>")
    assert "\x1b" not in (text := log.text_content() or "") and "\u202e" not in text
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC WARNING", text)
    expect(log.locator("b")).to_have_count(0)
    log.focus()
    for _ in range(2):  # it is asked for again once the first answer is shown
        with tab.expect_response("**/agents/pi-03/log"):
            pass
    expect(log).to_be_focused()
    assert violations(tab) == []


def test_an_agent_is_killed_and_comes_back(fleet: PlayedFleet, tab: Tab):
    """The open page shows it, without being loaded again."""
    tab.goto("/")
    row = tab.locator("#agent-pi-03")
    expect(row.locator("[data-cell=state]")).to_contain_text("ready")
    fleet.kill("last")
    expect(row.locator("[data-cell=state]")).to_contain_text("lost")
    expect(row).to_contain_text("check its power")
    fleet.start_played("pi-03", process="last", logs=True)
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
    expect(tab.locator("#link")).to_contain_text(
        "Lost the coordinator, last heard at", timeout=9_000
    )
    fleet.start_coordinator()
    expect(tab.locator("#link")).to_be_hidden(timeout=15_000)
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
