"""`ops/` against Debian's Prometheus: it scrapes 300 agents, and every rule and query answers."""

import contextlib
import http.server
import json
import re
import shutil
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from real_fleet import free_port, wait_for

from flctl.fleet.answers import FleetStatus
from flctl.web.metrics import FleetCollector

OPS = Path(__file__).parents[2] / "ops"
RULES = OPS / "prometheus/flctl.rules.yml"
DASHBOARD = OPS / "grafana/flctl.json"
AGENTS, TOKEN = 300, "t0ken"
BEGAN = time.time()
EMPTY_WHEN_WELL = "> 0", "== 1", "== 0", "0.05", "3600", "conflict"
"""Conditions and filters that nothing meets in a fleet that is well."""

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="Debian's package prometheus is not installed"
)


def exposition(agents: int = AGENTS) -> str:
    """What `flctl web --metrics-only` serves of a fleet that is well."""
    begun = time.time() - BEGAN
    each = {
        "state": "ready", "version": "0.2.0", "role": "train", "kind": "Pi 4", "arch": "aarch64",
        "tasks": {}, "datasets": [], "examples": 9, "rtt_ms": 12.5, "last_seen_s": 3.0,
        "last_round": 7, "progress": None, "last_error": None, "note": None, "load_1m": 0.5,
        "temperature_c": 55.5, "throttled": [], "memory_used_bytes": 10**9, "uptime_s": 3600.0,
        "memory_total_bytes": 4 * 10**9, "disk_free_bytes": 9 * 10**9, "cpu_percent": 40.0,
        "disk_total_bytes": 32 * 10**9, "written_bytes": int(begun * 1e5),
        "sent_bytes": int(begun * 1e6),
    }  # fmt: skip
    run = {"run": "ecg-20261128-012345", "round": 7, "rounds": 30, "phase": "training",
           "waiting_for": ["pi-001"], "since_round_s": 30.0}  # fmt: skip
    status = {
        "coordinator": {"version": "0.2.0", "uptime_s": 3600.0, "endpoint": "server:7700",
                        "server_key": "k" * 40, "run": run},
        "agents": [{"name": f"pi-{number:03d}", **each} for number in range(agents)],
        "waiting": [], "tokens": [],
        "alerts": {"firing": {}, "acknowledged": 0, "muted": 0},
    }  # fmt: skip
    found = msgspec.convert(status, FleetStatus)
    registry = CollectorRegistry()
    registry.register(FleetCollector(lambda: found))
    return generate_latest(registry).decode()


class Exporter(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            self.send_error(401)
            return
        body = exposition().encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Prometheus:
    def __init__(self, port: int) -> None:
        self.port = port

    def ask(self, path: str, **args: str) -> Any:
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(args)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def evaluated(self) -> bool:
        each = [rule["health"] for group in self.ask("rules")["groups"] for rule in group["rules"]]
        return bool(each) and "unknown" not in each

    def query(self, text: str) -> list[Any]:
        return list(self.ask("query", query=text)["result"])


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """With the configuration of ops/, but for the target, the token and the intervals."""
    folder = tmp_path_factory.mktemp("prometheus")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Exporter)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    config = yaml.safe_load((OPS / "prometheus/prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "2s", "evaluation_interval": "1s"}
    (job,) = config["scrape_configs"]
    job["authorization"]["credentials_file"] = str(folder / "token")
    job["static_configs"][0]["targets"] = [f"127.0.0.1:{server.server_address[1]}"]
    (folder / "token").write_text(TOKEN)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(RULES, folder)
    port = free_port()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["prometheus", f"--config.file={folder}/prometheus.yml",
             f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{port}"],
            stdout=log, stderr=log,
        )  # fmt: skip
    found = Prometheus(port)

    def is_at_work() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        with contextlib.suppress(OSError):
            return bool(found.query("count_over_time(flctl_up[1m]) >= 3") and found.evaluated())
        return False

    try:
        wait_for(is_at_work, f"three scrapes: {folder / 'log'}")
        yield found
    finally:
        process.kill()
        process.wait()
        server.shutdown()
        server.server_close()


def rules() -> list[dict[str, Any]]:
    return list(yaml.safe_load(RULES.read_text())["groups"][0]["rules"])


def queries() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


@pytest.mark.parametrize(
    "command",
    [
        ("check", "config", "--lint=all", "--syntax-only", "prometheus.yml"),
        ("check", "rules", "--lint=all", "flctl.rules.yml"),
        ("test", "rules", "flctl.rules.test.yml"),
    ],
    ids=" ".join,
)
def test_promtool_finds_nothing(command: tuple[str, ...]):
    """The last one has a fleet in trouble, for each alert."""
    done = subprocess.run(
        ["promtool", *command], cwd=OPS / "prometheus", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_finds_nothing_wrong_with_the_metrics():
    """Names, units, help, and what a counter is called."""
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=exposition(2), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_prometheus_scrapes_300_agents(prometheus: Prometheus):
    """With the bearer token; the bound is for a busy machine."""
    assert prometheus.query("sum(flctl_agent_up)")[0]["value"][1] == str(AGENTS)
    took_s = float(prometheus.query("min_over_time(scrape_duration_seconds[1m])")[0]["value"][1])
    assert took_s < 1


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_every_alert_rule_answers(prometheus: Prometheus, rule: dict[str, Any]):
    """Nothing fires in a fleet that is well."""
    assert prometheus.query(rule["expr"]) == []
    groups = prometheus.ask("rules")["groups"]
    (found,) = [r for g in groups for r in g["rules"] if r["name"] == rule["alert"]]
    assert (found["health"], found["state"]) == ("ok", "inactive")


@pytest.mark.parametrize("query", queries())
def test_every_query_of_the_dashboard_answers(prometheus: Prometheus, query: str):
    """With what Grafana puts in for its variables."""
    for name, value in (("$job", "flctl"), ("$agent", ".*"), ("$__rate_interval", "10s")):
        query = query.replace(name, value)
    found = prometheus.query(query)
    assert found or any(mark in query for mark in EMPTY_WHEN_WELL)


def test_rules_and_dashboard_use_metrics_that_are_documented():
    """A name with a slip of the pen would be empty for ever."""
    page = (OPS.parent / "docs/how-to/monitoring.md").read_text()
    known = set(re.findall(r"`(flctl_\w+)`", page))
    used = set(re.findall(r"flctl_\w+", " ".join([*queries(), *(r["expr"] for r in rules())])))
    assert used <= known
    assert set(re.findall(r"^(flctl_\w+)", exposition(1), re.M)) <= known
