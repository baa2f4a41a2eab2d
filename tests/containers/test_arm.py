"""The image for a Pi, on the processors of a Pi 3 and a Pi 4, in a fleet with others.

qemu is some hundred times slower than the real thing, so three small batches must do. Peak
memory is that of the whole container, the emulator's own included.
"""

import json
import platform
import re
import time
from collections.abc import Iterator

import pytest
from engine import AGENT_ARM64, CONTAINED, Project, build, docker, run, until

pytestmark = [pytest.mark.usefixtures("images"), pytest.mark.timeout(2400)]
LIMIT_S = 600
PIS = {"pi-3": "cortex-a53", "pi-4": "cortex-a72"}
MEMORY_BYTES = 512 * 2**20


@pytest.fixture(scope="module")
def fleet(images, project_name) -> Iterator[Project]:
    """A native coordinator, a native agent, and two that are emulated."""
    print(build("agent-arm64"), end="")
    project = Project(f"{project_name}-arm", FLCTL_SHARDS="3", FLCTL_PARTITION="iid")
    try:
        project.compose("up", "-d", "--scale", "agent=1")
        for name, processor in PIS.items():
            docker(
                "run", "--detach", "--name", f"{project.name}-{name}", *CONTAINED,
                "--platform", "linux/arm64", "--env", f"QEMU_CPU={processor}",
                "--memory", MEMORY_BYTES, "--memory-swap", MEMORY_BYTES,
                "--network", f"{project.name}_default",
                "--volume", f"{project.name}_invite:/invite:ro",
                "--env", "FLCTL_COORDINATOR=coordinator:7700",
                "--env", "FLCTL_SERVER_KEY_FILE=/invite/server.pub",
                "--env", "FLCTL_JOIN_TOKEN_FILE=/invite/token",
                "--env", "FLCTL_SHARD=auto", "--env", "FLCTL_TASK=ecg", "--env", "FLCTL_THREADS=1",
                "--env", f"FLCTL_NAME={name}", AGENT_ARM64,
            )  # fmt: skip
        yield project
    finally:
        for name in PIS:
            run("docker", "rm", "--force", "--volumes", f"{project.name}-{name}", check=False)
        project.down()


def peak_mb(container: str) -> float:
    """The most memory that the container has had at once."""
    read = "cat /sys/fs/cgroup/memory.peak /sys/fs/cgroup/memory/memory.max_usage_in_bytes"
    found = run("docker", "exec", container, "sh", "-c", f"{read} 2>/dev/null", check=False)
    return int(found.stdout.split()[0]) / 1e6


def test_a_round_of_a_mixed_fleet(fleet):
    """torch is imported, three batches are trained, the update counts: on both processors."""
    began = time.monotonic()
    until(lambda: len(fleet.ready()) == 3, "three agents", LIMIT_S)
    print(f"\nthree agents are ready after {time.monotonic() - began:.0f} s")
    status = fleet.status()
    assert {status[name]["arch"] for name in PIS} == {"aarch64"}
    assert {status[name]["torch"].partition("+")[0] for name in PIS} == {"2.9.1"}
    if platform.machine() == "x86_64":
        assert "x86_64" in {agent["arch"] for agent in status.values()}
    done = fleet.cli(
        "train", "--task", "ecg", "--rounds", 1, "--batch-size", 8,
        "--federate-after-n-batches", 3, "--quorum", 1.0, "--deadline", f"{LIMIT_S}s", "--json",
        within_s=LIMIT_S,
    )  # fmt: skip
    events = [json.loads(line) for line in done.stdout.splitlines()]
    (committed,) = (event for event in events if event["event"] == "round")
    print(json.dumps(committed)[:400])
    for name, processor in PIS.items():
        container = f"{fleet.name}-{name}"
        log = run("docker", "logs", container).stderr
        trained = re.search(r"trained examples=\d+ batches=3 .* took_s=([\d.]+)", log)
        assert trained, log
        assert "update accepted" in log
        print(f"{processor}: took {trained[1]} s, at most {peak_mb(container):.0f} MB")


def test_an_emulated_agent_is_well(fleet):
    """Its health check is answered, through qemu too."""
    for name in PIS:
        container = f"{fleet.name}-{name}"
        assert f"agent {name}: ready, linked to" in docker("exec", container, "flctl", "health")
