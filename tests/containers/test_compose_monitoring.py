"""The profile `monitoring` of compose.yaml: /metrics answers Prometheus under the name that it asks
for. The images of Prometheus and Grafana are not tried."""

from pathlib import Path

import pytest
import yaml
from engine import ROOT, Project, docker, until

pytestmark = pytest.mark.usefixtures("images")
ASK = """
import sys, urllib.request as u
asked = u.Request(f"http://{sys.argv[1]}/metrics", headers={"Authorization": "Bearer t0ken"})
print(u.urlopen(asked, timeout=10).read().decode())
"""


def test_prometheus_is_answered_under_the_name_of_its_target(project_name: str, tmp_path: Path):
    """As in ops/prometheus/prometheus.yml; another name would be refused (DNS rebinding)."""
    config = yaml.safe_load((ROOT / "ops/prometheus/prometheus.yml").read_text())
    (target,) = config["scrape_configs"][0]["static_configs"][0]["targets"]
    token = tmp_path / "metrics-token"
    token.write_text("t0ken\n")
    token.chmod(0o644)
    tmp_path.chmod(0o755)
    project = Project(f"{project_name}-mon", FLCTL_METRICS_TOKEN=str(token))
    try:
        project.compose("--profile", "monitoring", "up", "-d", "metrics")
        (asks,) = project.containers("coordinator")
        until(
            lambda: (
                "flctl_up 1.0" in docker("exec", asks, "python3", "-c", ASK, target, check=False)
            ),
            lambda: project.compose("--profile", "monitoring", "logs", "metrics").stdout,
        )
    finally:
        project.down()
