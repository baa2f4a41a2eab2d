"""Who gets in, and what every answer carries; over a coordinator that never answers."""

import asyncio
import contextlib
import socket
import stat
from collections.abc import Iterator
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NoReturn

import httpx
import pytest
from page_rig import Page
from real_fleet import wait_for

from flctl.errors import CoordinatorAway
from flctl.web.limits import BoundedFile
from flctl.web.login import Login
from flctl.web.site import Site


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def nothing() -> NoReturn:
    raise CoordinatorAway("no coordinator runs here")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def login(tmp_path: Path, clock: Clock) -> Login:
    return Login(tmp_path / "web", clock, clock)


@pytest.fixture
def client(login: Login) -> Iterator[httpx.Client]:
    page = Page(Site(nothing, login), "pc.example.org")
    yield page.client
    page.close()


@pytest.fixture
def unlocked() -> Iterator[httpx.Client]:
    """Without a login."""
    page = Page(Site(nothing))
    yield page.client
    page.close()


def enter(client: httpx.Client, token: str, **more: Any) -> Any:
    return client.post("/login", data={"token": token, "next": "/runs"}, **more)


def refused(client: httpx.Client, token: str) -> int:
    """By the page that it leads to, so that no form's own answer is in a browser's history."""
    answer = enter(client, token)
    assert answer.status_code == 303
    shown = client.get(answer.headers["location"])
    assert 'role="alert"' in shown.text and 'value="/runs"' in shown.text
    return shown.status_code


def test_without_a_session_nothing_is_shown(client: httpx.Client):
    """A page leads to the login, a part of a page and the stream of events are refused."""
    answer = client.get("/runs")
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=/runs")
    assert client.get("/fleet/table", headers={"hx-request": "true"}).status_code == 401
    assert client.get("/events", headers={"accept": "text/event-stream"}).status_code == 401
    assert client.post("/agents/pi-01/cordon").status_code == 401


def test_the_token_opens_and_is_for_its_owner_alone(client: httpx.Client, login: Login, tmp_path):
    """The cookie is out of reach for scripts and other sites; both files are 0600."""
    answer = enter(client, login.token)
    assert (answer.status_code, answer.headers["location"]) == (303, "/runs")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and login.token not in cookie
    assert client.get("/").status_code == 200
    for name in ("token", "session.key"):
        assert stat.S_IMODE((tmp_path / "web" / name).stat().st_mode) == 0o600


def test_wrong_tokens_are_refused_and_soon_not_even_looked_at(
    client: httpx.Client, login: Login, clock: Clock
):
    """Five tries a minute from one address; the right one, too, has to wait then."""
    assert [refused(client, "wrong") for _ in range(6)] == [403] * 5 + [429]
    assert refused(client, login.token) == 429
    clock.now += 61
    assert refused(client, "") == 403
    assert enter(client, login.token).headers["location"] == "/runs"


def test_a_session_survives_a_restart_and_ends(client: httpx.Client, login: Login, clock, tmp_path):
    """It is good for another process; not after a week, not with another token, not changed."""
    enter(client, login.token)
    value = client.cookies[login.cookie]
    again = Login(tmp_path / "web", clock, clock)
    assert again.cookie == login.cookie and again.is_in(value)
    for other in ("", ".", "x", value[:-1], f"9{value}", value.replace(".", ".0"), "٣.x", "1" * 30):
        assert not again.is_in(other)
    clock.now += 8 * 24 * 3600
    assert not again.is_in(value)
    clock.now -= 8 * 24 * 3600
    (tmp_path / "web" / "token").write_text("another\n")
    assert not again.is_in(value)
    (tmp_path / "web" / "token").write_text("\n")
    assert again.enter("") is None


def test_after_logging_out_the_cookie_is_gone(client: httpx.Client, login: Login):
    enter(client, login.token)
    assert client.post("/logout").headers["location"] == "/login"
    assert client.get("/").status_code == 303


@pytest.mark.parametrize(
    "then", ["https://evil.example", "//evil.example", "/\\evil.example", "", "/login"]
)
def test_the_login_leads_nowhere_else(client: httpx.Client, login: Login, then: str):
    """Neither with the token, nor for one who is in already."""
    answer = client.post("/login", data={"token": login.token, "next": then})
    assert answer.headers["location"] == "/"
    assert client.get("/login", params={"next": then}).headers["location"] == "/"


def connections(client: httpx.Client, count: int) -> list[socket.socket]:
    address = client.base_url.host, client.base_url.port
    return [socket.create_connection(address) for _ in range(count)]


def test_idle_connections_keep_nobody_out(client: httpx.Client):
    """More than there may be, from one address, that send nothing: the oldest make room."""
    idle = connections(client, 250)
    assert client.get("/login").status_code == 200
    wait_for(lambda: len(wait(idle, 0)) >= 150, "the oldest are closed", 10)
    for each in idle:
        each.close()


def test_a_request_that_does_not_come_to_an_end_is_cut_off(client: httpx.Client, monkeypatch):
    """Neither its head nor its body."""
    monkeypatch.setattr("flctl.web.limits.IDLE_S", 2.0)
    monkeypatch.setattr("flctl.web.site.IDLE_S", 2.0)
    host = client.base_url.netloc.decode()
    head, body = connections(client, 2)
    head.sendall(f"GET /login HTTP/1.1\r\nHost: {host}\r\nX-".encode())
    body.sendall(
        f"POST /login HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\n"
        "Content-Length: 9\r\n\r\ntok".encode()
    )
    for each, said in ((head, b""), (body, b"HTTP/1.1 413")):
        each.settimeout(20)
        with contextlib.suppress(ConnectionResetError):
            assert each.recv(12) == said
        each.close()


def test_a_checkpoint_that_is_read_too_slowly_is_not_sent_to_its_end(tmp_path: Path, monkeypatch):
    """What it takes is free again: its place among the downloads, and its file."""
    monkeypatch.setattr("flctl.web.limits.SLOW_S", 0.1)
    (tmp_path / "model").write_bytes(bytes(300_000))
    ended = []
    ends = contextlib.ExitStack()
    ends.callback(ended.append, True)
    sent = []

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)
        if len(sent) > 2:
            await asyncio.Event().wait()  # the client reads no more

    scope = {"type": "http", "method": "GET", "headers": []}
    asyncio.run(BoundedFile(tmp_path / "model", "ecg-1-best", ends)(scope, receive, send))
    assert ended == [True] and sent[-1]["more_body"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:9177", "127.0.0.1.evil.example",
                                  "[", "a" * 500])  # fmt: skip
def test_another_name_is_refused(client: httpx.Client, host: str):
    """A name of a stranger that leads to this machine (DNS rebinding) gets nothing."""
    answer = client.get("/login", headers={"host": host})
    assert answer.status_code == 421 and "token" not in answer.text


@pytest.mark.parametrize("host", ["localhost:9177", "127.0.0.1", "[::1]:9177", "192.168.0.9:1",
                                  "pc.example.org", "PC.example.org.:80"])  # fmt: skip
def test_its_own_names_and_numbers_are_served(client: httpx.Client, host: str):
    assert client.get("/login", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "", "http://127.0.0.1:1", "file://HERE", "http://[",
     "http://127.0.0.1", "https://HERE.evil.example"],
)  # fmt: skip
def test_a_form_of_another_site_is_refused(
    client: httpx.Client, unlocked: httpx.Client, origin: str
):
    """Also where no login is asked for, and before it is looked at who asks."""
    for each in (client, unlocked):
        headers = {"origin": origin.replace("HERE", each.base_url.netloc.decode())}
        for path in ("/login", "/logout", "/agents/pi-01/cordon", "/runs/a/stop", "/runs/a/pause"):
            answer = each.post(path, headers=headers, data={"token": "x"})
            assert answer.status_code == 403, path


def test_a_form_without_an_origin_is_refused(client: httpx.Client):
    del client.headers["origin"]
    assert enter(client, "x").status_code == 403


def test_large_bodies_and_odd_methods_are_refused(client: httpx.Client):
    """With the length said before, and without one."""
    assert enter(client, "x" * 70_000).status_code == 413
    assert client.post("/login", content=iter([b"x" * 9_000] * 9)).status_code == 413
    assert client.post("/login", content=b"a=1&" * 60).status_code == 413
    for method in ("PUT", "DELETE", "OPTIONS", "PATCH"):
        assert client.request(method, "/").status_code == 405


def test_an_agent_page_before_the_first_answer_says_that_the_coordinator_is_away(
    unlocked: httpx.Client,
):
    """Not that the agent is unknown."""
    answer = unlocked.get("/agents/pi-01")
    assert answer.status_code == 502 and "no agent is enrolled" not in answer.text


def test_every_answer_has_the_headers(client: httpx.Client, login: Login):
    """Pages, files, refusals and what is not there; nothing in a page is inline."""
    enter(client, login.token)
    for path in ("/", "/login", "/static/live.js", "/nothing", "/runs", "/health"):
        answer = client.get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        if path != "/static/live.js":
            assert answer.headers["cache-control"] == "no-store"
            assert "<style" not in answer.text and " style=" not in answer.text
            assert " onclick" not in answer.text and "<script>" not in answer.text
    assert client.get("/", headers={"host": "evil.example"}).headers["x-frame-options"] == "DENY"


def test_it_says_that_there_is_no_coordinator(client: httpx.Client, login: Login):
    """The page is there, without buttons, and says so; so does what a container asks."""
    enter(client, login.token)
    assert "View only" in client.get("/").text
    assert client.get("/health").text.startswith("ok; ")
    answer = client.get("/runs")
    assert answer.status_code == 502 and "tried again" in answer.text
    assert client.get("/runs/table", headers={"hx-request": "true"}).status_code == 204
