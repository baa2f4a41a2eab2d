"""Computers that the playbooks have never seen: containers with systemd and sshd, their own
Docker engine to be installed inside, reached only by ssh, with no way out of their network."""

import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from engine import TAG

IMAGE = f"flctl-rig-pi-{TAG}"
"""Of this checkout: those of another one are built of other files."""
PLAIN, TRIXIE, GUARDED, ENGINE = "plain", "trixie", "guarded", "engine"
"""Kinds of a host: Debian 12; Debian 13; 12 with a password for sudo, behind a jump host; 12 with
an engine and a daemon.json of its owner."""
BUILDS = {
    PLAIN: ("plain", "debian:bookworm-slim"),
    TRIXIE: ("plain", "debian:trixie-slim"),
    ENGINE: ("engine", "debian:bookworm-slim"),
}
JUMP = "jump"
PASSWORD = "raspberry"
"""For sudo, on every host; only those that are guarded ask for it."""
# What systemd and a Docker engine inside need, without --privileged: some machines that run
# these tests do not have every capability themselves.
CONTAINER = """
--cap-add=ALL --cap-drop=SYS_RESOURCE
--security-opt=seccomp=unconfined --security-opt=systempaths=unconfined
--cgroupns=host --volume=/sys/fs/cgroup:/sys/fs/cgroup:rw
--tmpfs=/run --tmpfs=/run/lock --volume=/var/lib/docker
""".split()  # noqa: SIM905
BOOT_S = 300.0


def docker(*args: str, input: str | None = None, check: bool = True) -> str:
    done = subprocess.run(
        ["docker", *args], input=input, capture_output=True, text=True, timeout=1800, check=False
    )
    if check and done.returncode:
        raise AssertionError(f"docker {' '.join(args)}: {done.stderr.strip()}")
    return done.stdout.strip()


class Rig:
    """`hosts` fresh computers, the first of which is the inventory's coordinator."""

    def __init__(
        self, name: str, hosts: Sequence[str], folder: Path, kinds: Mapping[str, str] | None = None
    ) -> None:
        """`kinds`: of the hosts that are not PLAIN."""
        self.name, self.hosts, self.folder = name, list(hosts), folder
        self.kinds = dict(kinds or {})
        self.key, self.known_hosts = folder / "id_ed25519", folder / "known_hosts"
        self.guarded = [host for host in hosts if self.kind(host) == GUARDED]

    def kind(self, host: str) -> str:
        return self.kinds.get(host, PLAIN)

    @property
    def all(self) -> list[str]:
        return [*([JUMP] if self.guarded else []), *self.hosts]

    def image(self, host: str) -> str:
        kind = self.kind(host)
        return f"{IMAGE}:{kind if kind in BUILDS else PLAIN}"

    def build(self) -> None:
        here = str(Path(__file__).parent / "rig")
        for image in sorted({self.image(host) for host in self.all}):
            target, base = BUILDS[image.partition(":")[2]]
            docker(
                "build", "--quiet", "--network=host", "--build-arg", f"BASE={base}",
                "--target", target, "--tag", image, here,
            )  # fmt: skip

    def up(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key], check=True)
        docker("network", "create", "--internal", self.name)
        for host in self.all:
            docker(
                "run", "--detach", "--name", self.container(host), "--hostname", "raspberrypi",
                "--network", self.name, *CONTAINER, self.image(host),
            )  # fmt: skip
        for host in self.all:
            public = self.key.with_suffix(".pub").read_text()
            docker("exec", "-i", self.container(host), "sh", "-c", INTRODUCE, input=public)
        for host in self.guarded:
            self.root(host, "sh", "-c", GUARD.format(jump=self.address(JUMP)))
        for host in self.all:
            self.wait_for_ssh(host)

    def down(self) -> None:
        names = [self.container(host) for host in self.all]
        docker("rm", "--force", "--volumes", *names, check=False)
        docker("network", "rm", self.name, check=False)

    def container(self, host: str) -> str:
        return f"{self.name}-{host}"

    def address(self, host: str) -> str:
        form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        return docker("inspect", "--format", form, self.container(host))

    def root(self, host: str, *command: str, check: bool = True) -> str:
        """What a command prints that root runs there, past ssh and sudo."""
        return docker("exec", self.container(host), *command, check=check)

    def offer_update(self, host: str) -> None:
        """An update that asks for a reboot, as a kernel's does, in the only repository that the
        host has from now on."""
        self.root(host, "sh", "-c", OFFER)

    def updated(self, host: str) -> bool:
        return self.root(host, "dpkg-query", "-W", "-f", "${Version}", "rig-kernel") == "2"

    def ssh_options(self, host: str) -> list[str]:
        """Of OpenSSH: only these hosts' own keys are taken, and a guarded one is reached by way
        of the jump host alone."""
        options = [
            "-o", "StrictHostKeyChecking=yes", "-o", f"UserKnownHostsFile={self.known_hosts}",
            "-o", "ConnectTimeout=30", "-o", "LogLevel=ERROR",
        ]  # fmt: skip
        if host in self.guarded:
            over = ["ssh", "-i", str(self.key), *options, "-W", "%h:%p", f"pi@{self.address(JUMP)}"]
            options += ["-o", f"ProxyCommand={' '.join(over)}"]
        return options

    def ssh(self, host: str, *command: str, check: bool = True) -> str:
        done = subprocess.run(
            ["ssh", "-i", self.key, *self.ssh_options(host), f"pi@{self.address(host)}", *command],
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        if check and done.returncode:
            raise AssertionError(f"{host}: {' '.join(command)}: {done.stdout}{done.stderr}")
        return done.stdout.strip()

    def wait_for_ssh(self, host: str) -> None:
        until = time.monotonic() + BOOT_S
        while True:
            self.know_hosts()
            if self.ssh(host, "true; echo up", check=False) == "up":
                return
            assert time.monotonic() < until, f"{host} did not boot in {BOOT_S:.0f} s"
            time.sleep(0.5)

    def know_hosts(self) -> None:
        """The host keys of those that are up, read past ssh, as a person reads them at a screen."""
        lines = []
        for host in self.all:
            key = self.root(host, "cat", "/etc/ssh/ssh_host_ed25519_key.pub", check=False)
            lines += [f"{self.address(host)} {' '.join(key.split()[:2])}"] if key else []
        self.known_hosts.write_text("\n".join(lines) + "\n")

    def inventory(self, path: Path, extra: str = "") -> Path:
        """As a person would write it, with the way to the rig's ssh."""
        server, *pis = self.hosts
        lines = [
            "all:",
            "  vars:",
            "    ansible_user: pi",
            f"    ansible_ssh_private_key_file: {self.key}",
            "flctl_coordinator:",
            "  hosts:",
            *self.of_inventory(server),
            "flctl_agents:",
            "  hosts:",
            *(line for pi in pis for line in self.of_inventory(pi)),
        ]
        path.write_text("\n".join(lines) + "\n" + extra)
        return path

    def of_inventory(self, host: str) -> list[str]:
        pairs = zip(*[iter(self.ssh_options(host))] * 2, strict=True)
        args = " ".join(f'-o "{value}"' for _, value in pairs)
        return [
            f"    {host}:",
            f"      ansible_host: {self.address(host)}",
            f"      ansible_ssh_common_args: '{args}'",
        ]


INTRODUCE = """
# Docker mounts these two; a fresh Pi has plain files, which can be replaced.
for file in hosts hostname; do
  content=$(cat /etc/$file) && umount /etc/$file && echo "$content" > /etc/$file
done
cat > /home/pi/.ssh/authorized_keys && chown pi:pi /home/pi/.ssh/authorized_keys
# The cache was filled when the image was built; the rig cannot fill it again.
cd /var/lib/apt && mkdir -p periodic && touch lists periodic/update-success-stamp
"""
GUARD = """
echo 'pi ALL=(ALL) ALL' > /etc/sudoers.d/010_pi-nopasswd
echo 'AllowUsers pi@{jump}' > /etc/ssh/sshd_config.d/guard.conf
systemctl try-restart ssh
"""
OFFER = """
set -e
mkdir -p /srv/apt/tree/DEBIAN && cd /srv/apt
printf '#!/bin/sh\\ntouch /run/reboot-required\\n' > tree/DEBIAN/postinst
chmod 755 tree/DEBIAN/postinst
for version in 1 2; do
  printf 'Package: rig-kernel\\nArchitecture: all\\nMaintainer: rig\\nDescription: none\\n' \\
    > tree/DEBIAN/control
  echo "Version: $version" >> tree/DEBIAN/control
  dpkg-deb -b tree rig-kernel_$version.deb
done
dpkg -i rig-kernel_1.deb && rm /run/reboot-required rig-kernel_1.deb
{ cat tree/DEBIAN/control && echo "Filename: ./rig-kernel_2.deb
Size: $(stat -c %s rig-kernel_2.deb)
SHA256: $(sha256sum rig-kernel_2.deb | cut -d' ' -f1)"; } > Packages
rm -f /etc/apt/sources.list /etc/apt/sources.list.d/*
echo 'deb [trusted=yes] file:/srv/apt ./' > /etc/apt/sources.list.d/rig.list
"""
