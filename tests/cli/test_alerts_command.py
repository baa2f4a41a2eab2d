"""`flctl alerts` against a real coordinator that runs in this process."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import flctl as face
from flctl.coordinator.alerts.alarms import Alarms
from flctl.coordinator.alerts.settings import AlertSettings, WebhookSettings
from flctl.coordinator.main import make_coordinator
from flctl.coordinator.trends.trends import Trends
from flctl.errors import UsageError
from flctl.files import Lock
from flctl.transport.addresses import LOCK
from flctl.transport.keypair import load_or_make
from flctl.transport.keys import Keyring


class Hook(BaseHTTPRequestHandler):
    """A webhook that answers with `server.status`, and keeps what it gets."""

    def do_POST(self):
        self.server.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def hook():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    server.status, server.got = 200, []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def keyring(tmp_path, hook):
    """That of a coordinator with an open token, which fires at once, and with a webhook."""
    state = tmp_path / "state"
    keyring = Keyring(state / "keys")
    keyring.new_token(600, 1)
    lock = Lock(state / LOCK, "busy")
    coordinator, endpoint = make_coordinator(state, keyring, "127.0.0.1:0", state)
    webhook = WebhookSettings(f"http://127.0.0.1:{hook.server_port}/")
    coordinator.alarms = Alarms(
        state, AlertSettings(webhook=webhook), coordinator.roster, coordinator.agents.enrolled,
        coordinator.runs.status, keyring.open_tokens, coordinator.gate,
    )  # fmt: skip
    coordinator.trends = Trends(
        state, coordinator.roster, coordinator.runs.status, coordinator.gate
    )
    thread = threading.Thread(target=coordinator.run)
    thread.start()
    keyring.endpoint = endpoint
    yield keyring
    coordinator.stop()
    thread.join()
    coordinator.close()
    lock.release()


def test_an_alert_is_listed_acknowledged_and_audited(flctl, keyring, tmp_path, monkeypatch):
    (token,) = keyring.open_tokens()
    found = json.loads(flctl("alerts", "--json").out)
    (alert,) = found["firing"]
    assert (alert["alert"], alert["subject"]) == ("open_token", token.id)
    assert "open_token" in flctl("alerts").out
    assert "1 alert firing: 1 open_token; see flctl alerts" in flctl("status").out
    done = flctl("alerts", "ack", alert["id"])
    assert done.code == 0
    assert f"alert {alert['id']} is acknowledged: open_token of {token.id}: a join" in done.out
    assert "acknowledged" in flctl("alerts").out
    assert "firing" not in flctl("status").out
    assert "alert-ack" in flctl("audit").out
    wrong = flctl("alerts", "ack", 99)
    assert wrong.code == 2
    assert wrong.complaint == "no alert 99 is firing; see flctl alerts"
    monkeypatch.chdir(tmp_path)
    wrong = flctl("alerts", "ack", 99, "--state", "state")
    assert wrong.complaint == "no alert 99 is firing; see flctl alerts --state state"


def test_a_test_alert_tries_the_webhook(flctl, keyring, hook):
    """What it answers is said, and no alert fires."""
    done = flctl("alerts", "test")
    assert (done.code, done.out.strip()) == (0, "accepted by the webhook")
    (notice,) = [each for got in hook.got for each in got["alerts"] if each["alert"] == "test"]
    assert (notice["event"], notice["text"]) == ("firing", "sent by flctl alerts test")
    assert "test" not in [
        each["alert"] for each in json.loads(flctl("alerts", "--json").out)["firing"]
    ]
    hook.status = 503
    done = flctl("alerts", "test")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert done.complaint == (
        "the webhook has not accepted the test alert: HTTP 503; the coordinator keeps "
        "the alert, and tries again at growing intervals"
    )
    assert "the webhook has not accepted 1 notice, and is tried again: HTTP 503" in (
        flctl("alerts").out
    )
    ends = [line for line in json.loads(flctl("audit", "--json").out) if line["outcome"] != "begun"]
    assert [(line["outcome"], line["detail"]) for line in ends] == [
        ("done", {"accepted": ["webhook"]}), ("failed", done.complaint),
    ]  # fmt: skip
    hook.status = 200
    assert json.loads(flctl("alerts", "test", "--json").out) == {"accepted": ["webhook"]}


def test_a_name_is_muted_and_heard_again(flctl, keyring):
    assert flctl("alerts", "mute", "open_token", "--for", "2h").code == 0
    (muted,) = json.loads(flctl("alerts", "--json").out)["muted"]
    assert muted["name"] == "open_token"
    assert 7100 < muted["left_s"] <= 7200
    assert json.loads(flctl("alerts", "--json").out)["firing"][0]["muted"]
    assert flctl("alerts", "mute", "open_token", "--for", "0").code == 0
    assert json.loads(flctl("alerts", "--json").out)["muted"] == []
    wrong = flctl("alerts", "mute", "open_token", "--for", "0")
    assert (wrong.code, wrong.complaint) == (2, "open_token is not muted; see flctl alerts")
    wrong = flctl("alerts", "mute", "pi-77")
    assert wrong.code == 2
    assert "pi-77 is neither an enrolled agent nor a kind of alert" in wrong.err
    assert flctl("alerts", "mute", "open_token", "--for", "soon").code == 2
    wrong = flctl("alerts", "mute", "open_token", "--for", "9999d")
    assert (wrong.code, wrong.complaint) == (2, "--for 9999d: at most 366d")


def test_a_read_key_looks_and_changes_nothing(flctl, keyring, tmp_path):
    pair = load_or_make(tmp_path / "own.key")
    keyring.add("me", pair.public, "read")
    far = ("--state", tmp_path / "far")
    assert flctl("connect", keyring.endpoint, f"--server-key={keyring.server.public}",
                 "--key", tmp_path / "own.key", *far).code == 0  # fmt: skip
    assert "open_token" in flctl("alerts", *far).out
    for order in (("ack", 1), ("mute", "open_token"), ("test",)):
        done = flctl("alerts", *order, *far)
        assert done.code == 1
        assert "needs an admin key; this key may only read" in done.err
    assert json.loads(flctl("alerts", "--json").out)["firing"][0]["acknowledged"] is False


def test_a_program_asks_for_alerts_and_the_past(keyring, tmp_path):
    """With a read key; a figure or an agent that is not known gets one line."""
    pair = load_or_make(tmp_path / "own.key")
    keyring.add("me", pair.public, "read")
    keyring.add("pi-01", load_or_make(tmp_path / "pi.key").public, "agent")
    with face.connect(
        keyring.endpoint, key=tmp_path / "own.key", server_key=keyring.server.public
    ) as fleet:
        assert fleet.alerts()["firing"][0]["alert"] == "open_token"
        assert fleet.history("", "round") == []
        assert fleet.history("pi-01", "temperature_c", 7 * 86400.0) == []
        for agent, figure, since_s in (
            ("pi-77", "state", 60.0),
            ("pi-01", "at; DROP TABLE tick1", 60.0),
            ("pi-01", "state", -1.0),
            ("pi-01", "state", 1e9),
        ):
            with pytest.raises(UsageError):
                fleet.history(agent, figure, since_s)
