"""`flctl coordinator` as a process, killed between an alert and its end, and a real webhook."""

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from real_fleet import RealFleet, flctl, wait_for

from flctl.transport.keys import Keyring


@pytest.fixture
def hook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Its address, and the alerts that it has got."""
    got: list[dict[str, Any]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.extend(json.loads(body)["alerts"])
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/", got
    server.shutdown()
    server.server_close()


def test_an_alert_is_sent_once_over_a_kill_and_once_when_it_is_resolved(
    tmp_path: Path, hook: tuple[str, list[dict[str, Any]]]
):
    """The token is closed while nothing runs: the next start says so, and does not fire again."""
    url, got = hook
    fleet = RealFleet(tmp_path)
    fleet.state.mkdir(parents=True)
    (fleet.state / "coordinator.toml").write_text(f'[alerts.webhook]\nurl = "{url}"\n')
    keyring = Keyring(fleet.state / "keys")
    keyring.new_token(3600, 1)
    try:
        fleet.start_coordinator()
        wait_for(lambda: got, "the alert")
        book = fleet.state / "alerts.json"
        wait_for(
            lambda: book.exists() and json.loads(book.read_text())["told"] == {"webhook": 1},
            "its note",
        )
        fleet.kill("coordinator")
        keyring.close_tokens(None)
        fleet.start_coordinator()
        wait_for(lambda: len(got) > 1, "its end")
    finally:
        fleet.close()
    assert [(each["event"], each["alert"], each["number"]) for each in got] == [
        ("firing", "open_token", 1),
        ("resolved", "open_token", 2),
    ]
    assert got[0]["id"] == got[1]["id"]


def test_settings_that_are_wrong_end_the_start_with_one_line(tmp_path: Path):
    path = tmp_path / "own.toml"
    path.write_text('[alerts]\nagent_lots = "10m"\n')
    done = flctl("coordinator", "--state", tmp_path / "state", "--settings", path)
    assert done.returncode == 2
    assert "agent_lots" in done.stderr
    assert str(path) in done.stderr
    assert "Traceback" not in done.stderr
