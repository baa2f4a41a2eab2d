"""A fleet with played agents, and pages over it."""

from collections.abc import Iterator

import pytest
from page_rig import NAMES, Page, PlayedFleet, enrol
from real_fleet import wait_for

from flctl.fleet.context import Context, save_context
from flctl.transport.keypair import load_or_make
from flctl.web.serving import WebOptions, site_of


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlayedFleet]:
    made = PlayedFleet(tmp_path_factory.mktemp("fleet"))
    try:
        made.start_played(*NAMES)
        wait_for(lambda: made.all_ready(*NAMES), "the agents are ready")
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def page(fleet: PlayedFleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """On loopback, with the rights of an admin and without a login."""
    folder = tmp_path_factory.mktemp("page")
    made = Page(site_of(fleet.state, None, WebOptions(bind=""), folder))
    yield made
    made.close()


@pytest.fixture(scope="module")
def reader(fleet: PlayedFleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """Of another machine's folder, with a key that may only look, and a login."""
    folder = tmp_path_factory.mktemp("reader")
    key = folder / "me.key"
    enrol(fleet, key, "reader", "read")
    pair = load_or_make(key)
    context = Context(
        coordinator=fleet.address,
        server_key=fleet.server_key,
        public_key=pair.public,
        secret_key=pair.secret,
    )
    save_context(folder, context)
    made = Page(site_of(folder, None, WebOptions(bind="", login=True), folder / "web"))
    yield made
    made.close()
