"""Chromium over a page, a real coordinator and played agents: make test-web."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "web"))
from page_rig import NAMES, Page, PlayedFleet
from playwright.sync_api import Browser, Playwright, sync_playwright
from real_fleet import wait_for

from flctl.web.serving import WebOptions, site_of

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as found:
        yield found


@pytest.fixture(scope="session")
def browser(playwright: Playwright) -> Iterator[Browser]:
    found = playwright.chromium.launch(
        executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
    )
    yield found
    found.close()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlayedFleet]:
    made = PlayedFleet(tmp_path_factory.mktemp("fleet"))
    try:
        made.play("pi-02", telemetry={"temperature_c": 83.0, "throttled": ["throttled"]})
        made.start_played(NAMES[0], NAMES[1], process="first")
        made.start_played(NAMES[2], process="last", logs=True)
        wait_for(lambda: made.all_ready(*NAMES), "the agents are ready")
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def page_of_admin(fleet: PlayedFleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder: Path = tmp_path_factory.mktemp("page")
    made = Page(site_of(fleet.state, None, WebOptions(bind="", login=True), folder))
    yield made
    made.close()
