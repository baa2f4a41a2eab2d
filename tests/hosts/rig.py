"""Computers that the playbooks have never seen: containers with systemd and sshd, their own
Docker engine to be installed inside, reached only by ssh, with no way out of their network."""

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

IMAGE = "flctl-rig-pi"
# What systemd and a Docker engine inside need, without --privileged: some machines that run
# these tests do not have every capability themselves.
CONTAINER = """
--cap-add=ALL --cap-drop=SYS_RESOURCE
--security-opt=seccomp=unconfined --security-opt=systempaths=unconfined
--cgroupns=host --volume=/sys/fs/cgroup:/sys/fs/cgroup:rw
--tmpfs=/run --tmpfs=/run/lock --volume=/var/lib/docker
""".split()  # noqa: SIM905
BOOT_S = 120.0


def docker(*args: str, input: str | None = None, check: bool = True) -> str:
    done = subprocess.run(
        ["docker", *args], input=input, capture_output=True, text=True, timeout=1800, check=False
    )
    if check and done.returncode:
        raise AssertionError(f"docker {' '.join(args)}: {done.stderr.strip()}")
    return done.stdout.strip()


class Rig:
    """`hosts` fresh computers, the first of which is the inventory's coordinator."""

    def __init__(self, name: str, hosts: Sequence[str], folder: Path) -> None:
        self.name, self.hosts, self.folder = name, list(hosts), folder
        self.key = folder / "id_ed25519"

    def build(self) -> None:
        here = Path(__file__).parent / "rig"
        docker("build", "--quiet", "--network=host", "--tag", IMAGE, str(here))

    def up(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key], check=True)
        docker("network", "create", "--internal", self.name)
        for host in self.hosts:
            docker(
                "run", "--detach", "--name", self.container(host), "--hostname", "raspberrypi",
                "--network", self.name, *CONTAINER, IMAGE,
            )  # fmt: skip
        for host in self.hosts:
            public = self.key.with_suffix(".pub").read_text()
            docker("exec", "-i", self.container(host), "sh", "-c", INTRODUCE, input=public)
            self.wait_for_ssh(host)

    def down(self) -> None:
        names = [self.container(host) for host in self.hosts]
        docker("rm", "--force", "--volumes", *names, check=False)
        docker("network", "rm", self.name, check=False)

    def container(self, host: str) -> str:
        return f"{self.name}-{host}"

    def address(self, host: str) -> str:
        form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        return docker("inspect", "--format", form, self.container(host))

    def ssh(self, host: str, *command: str, check: bool = True) -> str:
        options = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
        done = subprocess.run(
            ["ssh", "-i", self.key, *options.split(), f"pi@{self.address(host)}", *command],
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        if check and done.returncode:
            raise AssertionError(f"{host}: {' '.join(command)}: {done.stdout}{done.stderr}")
        return done.stdout.strip()

    def wait_for_ssh(self, host: str) -> None:
        until = time.monotonic() + BOOT_S
        while self.ssh(host, "true; echo up", check=False) != "up":
            assert time.monotonic() < until, f"{host} did not boot in {BOOT_S:.0f} s"
            time.sleep(0.5)

    def inventory(self, path: Path, extra: str = "") -> Path:
        """As a person would write it, with the way to the rig's ssh."""
        server, *pis = self.hosts
        lines = [
            "all:",
            "  vars:",
            "    ansible_user: pi",
            f"    ansible_ssh_private_key_file: {self.key}",
            "    ansible_ssh_common_args: >-",
            "      -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null",
            "      -o ConnectTimeout=5",
            "flctl_coordinator:",
            "  hosts:",
            f"    {server}: {{ansible_host: {self.address(server)}}}",
            "flctl_agents:",
            "  hosts:",
            *(f"    {pi}: {{ansible_host: {self.address(pi)}}}" for pi in pis),
        ]
        path.write_text("\n".join(lines) + "\n" + extra)
        return path


INTRODUCE = """
# Docker mounts these two; a fresh Pi has plain files, which can be replaced.
for file in hosts hostname; do
  content=$(cat /etc/$file) && umount /etc/$file && echo "$content" > /etc/$file
done
cat > /home/pi/.ssh/authorized_keys && chown pi:pi /home/pi/.ssh/authorized_keys
# The cache was filled when the image was built; the rig cannot fill it again.
cd /var/lib/apt && mkdir -p periodic && touch lists periodic/update-success-stamp
"""
