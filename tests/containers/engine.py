"""Docker as a person uses it: its command line, with a time limit for everything."""

import hashlib
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from real_fleet import free_port

ROOT = Path(__file__).resolve().parents[2]
TAG = "test-" + hashlib.sha256(os.fsencode(ROOT)).hexdigest()[:8]
"""Of the images: two checkouts on one machine do not get into each other's way."""
AGENT, COORDINATOR, AGENT_ARM64 = (
    f"flctl-agent:{TAG}", f"flctl-coordinator:{TAG}", f"flctl-agent:{TAG}-arm64",
)  # fmt: skip
CONTAINED = (
    "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
    "--tmpfs", "/tmp:size=64m",
)  # fmt: skip

Done = subprocess.CompletedProcess[str]


def run(*command: object, within_s: float = 300, check: bool = True, **more: Any) -> Done:
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=within_s,
        check=False,
        **more,
    )
    if check and done.returncode:
        raise AssertionError(f"{' '.join(map(str, command))}:\n{done.stdout}\n{done.stderr}")
    return done


def docker(*arguments: object, **more: Any) -> str:
    return run("docker", *arguments, **more).stdout.strip()


BASES = {
    "BASE_IMAGE": "debian:bookworm-slim",
    "BASE_IMAGE_ARM64": "arm64v8/debian:bookworm-slim",
}
"""Made on this machine where no registry is in reach; elsewhere the Dockerfiles' own is taken."""


def build(what: str, within_s: float = 1800) -> str:
    """Build an image, or find it built; the line that says how large it is."""
    local = {name: base for name, base in BASES.items() if made_here(base)}
    environment = {**local, **os.environ, "TAG": TAG}
    script = ROOT / "scripts" / "image" / "build"
    return run(script, what, within_s=within_s, env=environment).stdout


def made_here(base: str) -> bool:
    """Whether the engine has `base`, and not from a registry, which would have told its digest."""
    form = "{{len .RepoDigests}}"
    found = run("docker", "image", "inspect", "--format", form, base, check=False)
    return found.returncode == 0 and found.stdout.strip() == "0"


def until(
    condition: Callable[[], Any], what: Callable[[], str] | str, within_s: float = 300
) -> Any:
    """The first true value of `condition`; fails with `what`."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.3)
    raise AssertionError(f"not within {within_s} s: {what if isinstance(what, str) else what()}")


class Project:
    """compose.yaml, with a name, a port and images of this test's own."""

    def __init__(self, name: str, **environment: str) -> None:
        self.name = name
        self.port = free_port()
        self._environment = {
            **os.environ,
            "COMPOSE_PROJECT_NAME": name,
            "FLCTL_VERSION": TAG,
            "FLCTL_PORT": str(self.port),
            **environment,
        }
        self._command = ("docker", "compose", "-f", str(ROOT / "compose.yaml"))

    def compose(self, *arguments: object, within_s: float = 300, check: bool = True) -> Done:
        return run(
            *self._command, *arguments, within_s=within_s, check=check, env=self._environment
        )

    def cli(self, *arguments: object, within_s: float = 300, check: bool = True) -> Done:
        """`docker compose run --rm cli flctl …`, as a person types it."""
        return self.compose(
            "run", "--rm", "-T", "cli", "flctl", *arguments, within_s=within_s, check=check
        )

    def start_cli(self, log: Path, *arguments: object) -> subprocess.Popen[bytes]:
        with log.open("wb") as out:
            return subprocess.Popen(
                [*self._command, "run", "--rm", "-T", "cli", "flctl", *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=self._environment,
            )

    def containers(self, service: str) -> list[str]:
        return self.compose("ps", "-aq", service).stdout.split()

    def status(self) -> dict[str, dict[str, Any]]:
        return {agent["name"]: agent for agent in json.loads(self.cli("status", "--json").stdout)}

    def ready(self) -> list[str]:
        found = self.cli("status", "--json", check=False)
        agents = json.loads(found.stdout) if found.returncode == 0 else []
        return [agent["name"] for agent in agents if agent["state"] == "ready"]

    def down(self) -> None:
        self.compose("--profile", "*", "down", "-v", "--remove-orphans", "-t", "5")

    def left(self) -> dict[str, str]:
        """What is still there of this project."""
        label = f"label=com.docker.compose.project={self.name}"
        return {
            what: found
            for what, command in {
                "containers": ("ps", "-aq"),
                "networks": ("network", "ls", "-q"),
                "volumes": ("volume", "ls", "-q"),
            }.items()
            if (found := docker(*command, "--filter", label))
        }
