"""A whole emulated ARM computer beside a native host: `make test-arm`, slow, not in CI.

It starts its kernel directly: the boot command line is edited there, but not obeyed.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import engine
import pytest
from fleet import Fleet
from rig import Rig

TOOL = Path(__file__).resolve().parents[3] / "shared" / "tools" / "pi-vm"
WITHIN_S = 3 * 3600
pytestmark = pytest.mark.timeout(2 * WITHIN_S)
SSH = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"


def pi(*args: object, within_s: float = 1800) -> str:
    done = subprocess.run(
        ["bash", TOOL, *map(str, args)],
        capture_output=True, text=True, timeout=within_s, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"pi-vm {args}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """The coordinator and pi-02 in containers, pi-01 a Cortex-A72 with its own kernel."""
    if not TOOL.exists():
        pytest.skip("the tool that makes the emulated computer is not beside the checkout")
    folder = tmp_path_factory.mktemp("arm")
    rig = Rig("flctl-arm", ("server", "pi-02"), folder / "rig")
    rig.build()
    for what in ("agent", "coordinator", "agent-arm64"):
        sys.stderr.write(engine.build(what))
    pi("build")
    try:
        rig.up()
        pi("up", 1)
        fleet = Fleet(rig, folder, WITHIN_S)
        host = dict(part.split("=", 1) for part in pi("inventory").split()[2:7])
        with fleet.inventory.open("a") as file:
            file.write(
                "    pi-01:\n"
                f"      {{ansible_host: 127.0.0.1, ansible_port: {host['ansible_port']},\n"
                f"       ansible_user: root, ansible_ssh_common_args: {SSH},\n"
                f"       ansible_ssh_private_key_file: {host['ansible_ssh_private_key_file']}}}\n"
            )
        yield fleet
    finally:
        pi("down", 1)
        rig.down()


SLOW = ("--set", "flctl_agent_ready_s=1800", "--", "--timeout", "120")


def test_an_arm_computer_trains_beside_a_native_host(fleet: Fleet):
    """Provision and deploy the arm64 image, then one ECG round of both."""
    fleet.play("provision", *SLOW)
    fleet.play("deploy", "--set", f"flctl_agent_coordinator={fleet.address}", *SLOW)
    fleet.connect()
    agents = fleet.status()
    assert {name: agent["arch"] for name, agent in agents.items()} == {
        "pi-01": "aarch64", "pi-02": "x86_64",
    }  # fmt: skip
    fleet.train("--deadline", "30m")


def test_it_comes_back_by_itself_after_a_reboot(fleet: Fleet):
    """Its own systemd starts Docker, and that the agent; then it finishes a round again."""
    began = pi("ssh", 1, "cat /proc/sys/kernel/random/boot_id")
    subprocess.run(["bash", TOOL, "ssh", "1", "reboot"], check=False, timeout=120)
    fleet.until(lambda agents: not agents["pi-01"]["ready"], "pi-01 is away", within_s=600)
    fleet.until(lambda agents: agents["pi-01"]["ready"], "pi-01 is back", within_s=3600)
    assert pi("ssh", 1, "cat /proc/sys/kernel/random/boot_id") != began
    fleet.train("--deadline", "30m")
