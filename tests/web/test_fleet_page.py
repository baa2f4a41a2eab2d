"""The page of the fleet, over a real coordinator and real links."""

import html
import json
import re
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from typing import Any

import httpx
from page_rig import NAMES, Page, PlayedFleet, enrol
from real_fleet import wait_for

HOSTILE = (
    "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>\x1b[31m\u202egnihtyna\u2066\x00"
)


def row_of(text: str, name: str) -> str:
    found = re.search(rf'<tr[^>]* id="agent-{name}".*?</tr>', text, re.DOTALL)
    return found[0] if found is not None else ""


class Markup(HTMLParser):
    """As a browser reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)


def test_every_agent_is_a_row(page: Page):
    """With its state in words, its device, temperature, memory and disk, and times in UTC."""
    text = page.until(lambda t: t.count('data-state="ready"') == 3)
    for name in NAMES:
        assert f'id="agent-{name}"' in text
    for said in ("51 °C", "400.0 MiB of 2.0 GiB", "12.0 GiB free", "Raspberry Pi", "UTC"):
        assert said in text


def test_a_hot_device_and_what_to_do_stand_out(fleet: PlayedFleet, page: Page):
    """In words and by a sign, not by colour alone; the head of the page names the hottest."""
    fleet.play("pi-02", telemetry={"temperature_c": 84.0, "throttled": ["throttled"]})
    text = page.until(lambda t: "84 °C" in row_of(t, "pi-02"))
    row = row_of(text, "pi-02")
    assert "▲" in row and "hot, throttled" in row and "cool it" in row
    assert "hot, throttled" in (re.search(r'data-search="([^"]*)', row) or [""])[1]
    assert re.search(r"Hottest: <a href=\"/agents/pi-02\">pi-02</a>, 84 °C", text)
    fleet.play("pi-02", telemetry={"throttled": ["under-voltage"], "disk_free_bytes": 9 << 20})
    text = page.until(lambda t: "under-voltage" in row_of(t, "pi-02"))
    assert "power supply" in row_of(text, "pi-02")
    assert "make room" in row_of(text, "pi-02")
    fleet.play("pi-02", telemetry={})


def test_what_strangers_say_is_text(fleet: PlayedFleet, page: Page):
    """HTML, script, ANSI and marks that turn the direction of writing arrive as harmless text, in
    the page and in the stream of changes."""
    fleet.play("evil", kind=HOSTILE, telemetry={"throttled": [HOSTILE[:150]]})
    fleet.start_played("evil", process="hostile")
    text = page.until(lambda t: "alert(1)" in row_of(t, "evil"))
    row = row_of(text, "evil")
    for evil in ("<script", "<img", "\x1b", "\u202e", "\u2066", "\x00"):
        assert evil not in row
    assert "&lt;script&gt;" in row and r"\u202e" in html.unescape(row)
    seen = Markup()
    seen.feed(row)
    assert seen.tags == {"tr", "th", "td", "a", "span"}
    assert not {name for name in seen.attributes if name.startswith("on") or name == "style"}
    fleet.play("evil", telemetry={"throttled": ["<b>bold"]})
    cells = next(d for name, d in page.events("fleet") if name == "cells" and "evil" in d)
    assert "<b>" not in cells["evil"]["heat"] and "&lt;b&gt;bold" in cells["evil"]["heat"]
    fleet.kill("hostile")


def test_changes_reach_an_open_page_within_a_second_or_two(fleet: PlayedFleet, page: Page):
    """As cells that are others; an agent that ends is shown as lost or stopped, and its return."""
    events = page.events("fleet,keys")
    assert next(events)[0] == "beat"
    fleet.play("pi-01", telemetry={"temperature_c": 66.0})
    said: list[Any] = [d["pi-01"]["heat"] for n, d in events_until(events, "pi-01", "heat")]
    assert "66 °C" in said[-1]


def events_until(events: Any, name: str, cell: str) -> Any:
    for event, data in events:
        if event == "cells" and cell in data.get(name, {}):
            yield event, data
            return


def test_cordon_and_uncordon(fleet: PlayedFleet, page: Page):
    """The order is given, answered in words, and seen at once; an unknown agent is named."""
    answer = page.client.post("/agents/pi-01/cordon", headers={"hx-request": "true"})
    assert answer.status_code == 200 and "held back" in answer.text
    held = page.until(lambda t: "❚❚ cordoned" in row_of(t, "pi-01"), within_s=10)
    row = row_of(held, "pi-01")
    assert 'data-cordoned="yes"' in row
    assert 'data-bad="0"' in row and "flctl uncordon" not in row
    assert page.client.post("/agents/pi-01/uncordon").status_code == 200
    page.until(lambda t: 'data-cordoned="no"' in row_of(t, "pi-01"), within_s=10)
    answer = page.client.post("/agents/pi-99/cordon", headers={"hx-request": "true"})
    assert answer.status_code == 400 and "No agent is enrolled as pi-99" in answer.text


def test_a_read_key_changes_nothing(fleet: PlayedFleet, reader: Page):
    """It gets no button, and a 403 in words for what it sends anyway."""
    assert reader.site.login is not None
    token = {"token": reader.site.login.token}
    assert reader.client.post("/login", data=token).status_code == 303
    text = reader.until(lambda t: t.count("data-state=") >= 3)
    assert "View only" in text
    for path in ("/agents/pi-01/cordon", "/agents/pi-01/uncordon", "/runs/a/stop",
                 "/runs/a/resume", "/runs/start"):  # fmt: skip
        answer = reader.client.post(path, data={"rounds": "1", "task": "ecg"})
        assert answer.status_code == 403, path
        assert "needs an admin key" in answer.text


def test_one_subscription_however_many_pages_are_open(fleet: PlayedFleet, page: Page):
    """The sixty-fifth page is refused, and the others go on."""
    wait_for(lambda: len(page.site.viewers) == 0, "those of earlier tests have left")
    with httpx.Client(base_url=page.url, timeout=30) as client:
        streams = [client.stream("GET", "/events?topics=fleet") for _ in range(64)]
        answers = [each.__enter__() for each in streams]
        assert {answer.status_code for answer in answers} == {200}
        assert client.get("/events").status_code == 503
        for each in streams:
            each.__exit__(None, None, None)
    wait_for(lambda: len(page.site.viewers) == 0, "they have left")


def test_a_page_that_does_not_read_is_let_go(fleet: PlayedFleet, page: Page, monkeypatch):
    """It costs a bounded queue until then."""
    monkeypatch.setattr("flctl.web.viewers.SLOW_S", 0.5)
    with socket.create_connection(("127.0.0.1", httpx.URL(page.url).port)) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        slow.sendall(b"GET /events?topics=noise HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_for(lambda: page.site.viewers.wants("noise"), "it is there")
        until = time.monotonic() + 30
        while page.site.viewers.wants("noise") and time.monotonic() < until:
            page.site.publish("noise", "x", "y" * 100_000)
            time.sleep(0.01)
        assert not page.site.viewers.wants("noise")


IN_FLIGHT = ("/runs", "/alerts", "/security", "/runs/none/rounds.csv")


def lost(events: Any) -> tuple[str, float]:
    """The line at the top, and the seconds until it came."""
    began = time.monotonic()
    said = next(data["away"] for name, data in events if name == "beat" and data["away"])
    return said, time.monotonic() - began


def test_the_coordinator_goes_and_comes_back(fleet: PlayedFleet, page: Page):
    """An open page hears of both within seconds, and keeps the last figures."""
    events = page.events("fleet")
    assert next(events)[1]["away"] == ""
    fleet.kill("coordinator")
    said, took_s = lost(events)
    assert re.match(r"Lost the coordinator, last heard at \S+ \S+ UTC; the figures are of", said)
    assert took_s < 8
    assert 'id="agent-pi-01"' in page.client.get("/").text
    assert page.client.post("/agents/pi-01/cordon").status_code == 502
    fleet.start_coordinator()
    began = time.monotonic()
    assert next(d for n, d in events if n == "beat" and not d["away"])
    assert time.monotonic() - began < 8
    page.until(lambda t: t.count('data-state="ready"') >= 3)


def test_a_coordinator_that_falls_silent_is_noticed(fleet: PlayedFleet, page: Page):
    """As after a power cut: its connections look open. Requests that are in flight, one after
    another or over connections of their own, are answered as soon as it is known."""
    events = page.events("fleet")
    assert next(events)[1]["away"] == ""
    process = fleet.processes["coordinator"]
    process.send_signal(signal.SIGSTOP)
    try:
        with ThreadPoolExecutor() as pool:
            asked = [pool.submit(page.client.get, path) for path in IN_FLIGHT]
            asked.append(pool.submit(page.client.post, "/agents/pi-01/cordon"))
            assert lost(events)[1] < 8
            for answer in (each.result() for each in asked):
                assert answer.status_code == 502
                assert "lost the coordinator" in answer.text.lower()
                assert answer.elapsed.total_seconds() < 10
    finally:
        process.send_signal(signal.SIGCONT)
    assert next(d for n, d in events if n == "beat" and not d["away"])


def test_a_request_that_finds_it_silent_does_not_wait_for_the_next_status(
    fleet: PlayedFleet, page: Page
):
    """Without an open page the status is asked for only now and then."""
    wait_for(lambda: not page.site.viewers and not page.site.feed.away, "no page is open")
    process, feed = fleet.processes["coordinator"], page.site.feed
    before = feed.fleet
    wait_for(lambda: feed.fleet is not before, "the last status")  # the next is 10 s away
    process.send_signal(signal.SIGSTOP)
    try:
        answer = page.client.get("/alerts")
    finally:
        process.send_signal(signal.SIGCONT)
    assert answer.status_code == 502 and answer.elapsed.total_seconds() < 8
    wait_for(lambda: not feed.away, "it answers again")


def test_an_agent_that_was_lost_before_a_restart_is_not_a_stranger(fleet: PlayedFleet, page: Page):
    """Since when it was not heard stays known; one that has never come asks for its key."""
    enrol(fleet, fleet.folder / "never.key", "never", "agent")
    fleet.start_played("pi-09", process="gone")
    book = fleet.state / "alerts.json"
    wait_for(
        lambda: book.exists() and "pi-09" in json.loads(book.read_text())["expected"],
        "the book has it",
    )
    fleet.kill("gone")
    wait_for(lambda: "pi-09" in json.loads(book.read_text())["heard"], "its loss is there")
    fleet.kill("coordinator")
    fleet.start_coordinator()
    row = row_of(page.until(lambda t: "not heard since" in row_of(t, "pi-09")), "pi-09")
    assert re.search(r"not heard since \d{4}-\S+ \S+ UTC: check its power, its network", row)
    assert "not seen" not in row and "server key" not in row
    assert "not seen" in row_of(page.client.get("/").text, "never")
    page.until(lambda t: t.count('data-state="ready"') >= 3)
