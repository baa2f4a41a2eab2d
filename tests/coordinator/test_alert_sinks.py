"""Webhook and command, for real: an HTTP server on loopback that fails, hangs and comes back."""

import hashlib
import hmac
import http.server
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flctl.coordinator.alerts.sending import Command, SinkError, Webhook, summary
from flctl.coordinator.alerts.settings import CommandSettings, WebhookSettings
from flctl.core.alerts import AlertNotice
from flctl.errors import SettingsError

HOSTILE = "<script>\\u202e`$(touch /tmp/owned)`; \"quoted\" 'and' {text}"


def notice(number: int = 1, text: str = "away") -> AlertNotice:
    return AlertNotice(number, "firing", 7, "agent_lost", "pi-01", text, 1.7e9, 1.7e9 + 5)


class Server:
    """Answers each POST with the next of `answers`: a status, "hang" or "drip"; then with 200."""

    def __init__(self, *answers: int | str, context: ssl.SSLContext | None = None) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.answers, self.release = list(answers), threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.got.append((dict(self.headers), body))
                answer = outer.answers.pop(0) if outer.answers else 200
                if answer == "hang":
                    outer.release.wait(30)
                    return
                if answer == "drip":
                    self.drip()
                    return
                assert isinstance(answer, int)
                self.send_response(answer)
                if 300 <= answer < 400:
                    self.send_header("Location", f"http://127.0.0.1:{outer.port}/elsewhere")
                self.end_headers()

            def drip(self) -> None:
                """A header that never ends, a byte every now and then."""
                while not outer.release.wait(0.05):
                    try:
                        self.wfile.write(b"H")
                    except OSError:
                        return

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        if context is not None:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.release.set()
        self.server.shutdown()
        self.server.server_close()


@contextmanager
def serving(*answers: int | str, context: ssl.SSLContext | None = None) -> Iterator[Server]:
    server = Server(*answers, context=context)
    try:
        yield server
    finally:
        server.close()


def webhook(server: Server, scheme: str = "http", **more: object) -> Webhook:
    settings = {"url": f"{scheme}://localhost:{server.port}/hook?to=me", "timeout": "60s", **more}
    return Webhook(WebhookSettings(**settings))  # type: ignore[arg-type]


def test_a_webhook_gets_json_and_a_line_for_people():
    with serving() as server:
        webhook(server).send([notice(), notice(2)])
    headers, body = server.got[0]
    document = json.loads(body)
    assert headers["Content-Type"] == "application/json"
    assert document["schema"] == 1
    assert document["text"].startswith("flctl: firing agent_lost pi-01: away; ")
    assert document["alerts"][0] == {
        "number": 1, "event": "firing", "id": 7, "alert": "agent_lost", "subject": "pi-01",
        "text": "away", "since": "2023-11-14T22:13:20Z", "at": "2023-11-14T22:13:25Z",
    }  # fmt: skip


def test_what_an_agent_says_stays_a_string():
    """In JSON, whatever quotes or brackets it has."""
    with serving() as server:
        webhook(server).send([notice(text=HOSTILE)])
    assert json.loads(server.got[0][1])["alerts"][0]["text"] == HOSTILE


@pytest.mark.parametrize("status", [400, 403, 404, 500, 503])
def test_another_status_is_a_failure(status: int):
    with serving(status) as server, pytest.raises(SinkError, match=f"HTTP {status}"):
        webhook(server).send([notice()])


def test_a_redirect_is_not_followed():
    """Nor is what it was to be told sent anywhere else."""
    with serving(307) as server, pytest.raises(SinkError, match="redirects"):
        webhook(server).send([notice()])
    assert len(server.got) == 1


@pytest.mark.parametrize("how", ["hang", "drip"])
def test_a_server_that_never_answers_is_left(how: str):
    """Also one that sends a byte now and then, with which a socket's timeout begins again."""
    with serving(how) as server:
        began = time.monotonic()
        with pytest.raises(SinkError, match=r"no answer within 0\.3 s"):
            webhook(server, timeout="0.3s").send([notice()])
        assert time.monotonic() - began < 5


def test_an_attempt_can_be_ended_from_outside():
    """So that a stop of the coordinator does not wait for it."""
    with serving("hang") as server:
        sink, failed = webhook(server), threading.Event()

        def send() -> None:
            try:
                sink.send([notice()])
            except SinkError:
                failed.set()

        threading.Thread(target=send, daemon=True).start()
        while not failed.wait(0.01):
            sink.abort()


def test_no_server_is_a_failure():
    with socket.socket() as silent, pytest.raises(SinkError, match="refused"):
        silent.bind(("127.0.0.1", 0))  # taken, and nothing listens there
        port = silent.getsockname()[1]
        Webhook(WebhookSettings(f"http://127.0.0.1:{port}/")).send([notice()])


def test_the_secret_signs_the_body_or_is_a_token(tmp_path: Path):
    """It is read each time, so that it can be replaced while the coordinator runs."""
    secret = tmp_path / "secret"
    secret.write_text("first\n")
    with serving() as server:
        signed = webhook(server, secret_file=str(secret))
        signed.send([notice()])
        secret.write_text("second\n")
        signed.send([notice()])
        webhook(server, secret_file=str(secret), auth="bearer").send([notice()])
    for word, (headers, body) in zip(("first", "second"), server.got[:2], strict=True):
        digest = hmac.new(word.encode(), body, hashlib.sha256).hexdigest()
        assert headers["X-Flctl-Signature-256"] == f"sha256={digest}"
    assert server.got[2][0]["Authorization"] == "Bearer second"


@pytest.mark.parametrize("content", ["", "two words\nand lines", "gr\xfc\xdfe", None])
def test_a_secret_that_cannot_be_used_is_never_quoted(tmp_path: Path, content: str | None):
    secret = tmp_path / "secret"
    if content is not None:
        secret.write_text(content)
    with serving() as server, pytest.raises(SettingsError) as failure:
        webhook(server, secret_file=str(secret)).send([notice()])
    assert not content or content not in str(failure.value)
    assert server.got == []


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of localhost, signed by itself; key and certificate in one file."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
        f"-subj /CN=localhost -addext subjectAltName=DNS:localhost -keyout {path} -out {path}.crt"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + Path(f"{path}.crt").read_bytes())
    return path


def test_https_is_verified(certificate: Path):
    """A certificate that no one vouches for gets nothing; with ca_file it is as good as any."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with serving(context=context) as server:
        with pytest.raises(SinkError, match="certificate"):
            webhook(server, "https").send([notice()])
        trusted = webhook(server, "https", ca_file=f"{certificate}.crt")
        trusted.send([notice()])
        assert len(server.got) == 1
        other = f"https://127.0.0.1:{server.port}/"  # not the name in the certificate
        with pytest.raises(SinkError, match=r"127\.0\.0\.1"):
            Webhook(WebhookSettings(other, ca_file=f"{certificate}.crt")).send([notice()])


def test_a_server_that_never_finishes_the_handshake_is_left():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/"
        with pytest.raises(SinkError, match="no answer within"):
            Webhook(WebhookSettings(url, timeout="0.2s")).send([notice()])


def command(*args: str, timeout: str = "60s") -> Command:
    return Command(CommandSettings(args, timeout))


def test_a_command_gets_arguments_and_json_and_no_shell(tmp_path: Path):
    """What an agent has said is one argument, whatever it contains."""
    out = tmp_path / "out"
    code = (
        "import sys, json, pathlib; "
        "pathlib.Path(sys.argv[1]).write_text(json.dumps([sys.argv[2:], json.load(sys.stdin)]))"
    )
    command(sys.executable, "-c", code, str(out), "{text}", "$HOME").send([notice(text=HOSTILE)])
    args, document = json.loads(out.read_text())
    assert args == [summary([notice(text=HOSTILE)]), "$HOME"]
    assert document["alerts"][0]["text"] == HOSTILE


def test_a_command_does_not_get_the_coordinators_secrets(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FLCTL_JOIN_TOKEN", "flt_secret")
    code = "import os, sys; sys.exit(any(k.startswith('FLCTL_') for k in os.environ))"
    command(sys.executable, "-c", code).send([notice()])


def test_a_command_that_fails_or_hangs_is_a_failure():
    """What it has started is ended with it."""
    with pytest.raises(SinkError, match="exit code 3"):
        command("sh", "-c", "exit 3").send([notice()])
    with pytest.raises(SinkError, match="No such file"):
        command("/no/such/program").send([notice()])
    began = time.monotonic()
    with pytest.raises(SinkError, match=r"longer than 0\.2 s"):
        command("sh", "-c", "sleep 60 | sleep 60", timeout="0.2s").send([notice()])
    assert time.monotonic() - began < 10


def test_a_command_need_not_read_what_it_gets():
    command("true").send([notice(n, "x" * 300) for n in range(50)])
