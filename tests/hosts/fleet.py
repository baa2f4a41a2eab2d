"""What a person does with a fleet: flctl's own commands, with an inventory."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import engine
from rig import PASSWORD, Rig, docker

FLCTL = Path(sys.executable).with_name("flctl")
SITE = "/opt/flctl/lib/python3.11/site-packages/flctl"
ZONE = "Asia/Seoul"
"""Of the controller: the hosts have UTC."""
RECAP = re.compile(r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.M)


class Fleet:
    def __init__(self, rig: Rig, folder: Path, within_s: float = 1800) -> None:
        """`within_s`: the most that any command may take."""
        self.rig, self.folder, self._within_s = rig, folder, within_s
        self.state = folder / "state"
        self.inventory = rig.inventory(folder / "inventory.yml")
        self.key = folder / "me.key"
        self.flctl("keys", "new", self.key)
        self.flctl("keys", "new", folder / "server.key")
        self.password = folder / "password"
        self.password.write_text(PASSWORD)
        (folder / "group_vars").mkdir()
        (folder / "group_vars" / "all.yml").write_text(
            f"flctl_version: {engine.TAG}\n"
            f"flctl_image_cache: {folder}/cache\n"
            "flctl_image_compress: false\n"
            f"flctl_coordinator_secret_key: \"{{{{ lookup('file', '{folder}/server.key') }}}}\"\n"
            "flctl_coordinator_operators:\n"
            f"  - {{name: me, key: \"{{{{ lookup('file', '{folder}/me.pub') }}}}\"}}\n"
        )

    def set(self, name: str, value: object) -> None:
        """A variable of all hosts."""
        settings = self.folder / "group_vars" / "all.yml"
        others = [line for line in settings.read_text().splitlines() if f"{name}:" not in line]
        settings.write_text("\n".join([*others, f"{name}: {json.dumps(value)}", ""]))

    def flctl(self, *args: object, code: int = 0) -> str:
        """What it says, on both streams. It must end with `code`."""
        log = self.folder / f"{args[0]}.log"  # to be read while it works
        with log.open("w+") as out:
            done = subprocess.run(
                [FLCTL, *map(str, args)],
                stdout=out, stderr=subprocess.STDOUT, timeout=self._within_s, check=False,
                env={**os.environ, "FLCTL_STATE": str(self.state), "ANSIBLE_NOCOLOR": "1",
                     "TZ": ZONE},
            )  # fmt: skip
            out.seek(0)
            said = out.read()
        assert done.returncode == code, (
            f"flctl {' '.join(map(str, args))}: {done.returncode}\n{said}"
        )
        return said

    def play(self, name: str, *args: object, code: int = 0) -> "Play":
        """A playbook. Where a host asks for it, the password for sudo is given as with -K."""
        began = time.monotonic()
        secret = ("--become-password-file", self.password) if self.rig.guarded else ()
        more = (*(() if "--" in args or not secret else ("--",)), *secret)
        said = self.flctl(name, "-i", self.inventory, *args, *more, code=code)
        seconds = time.monotonic() - began
        sys.stderr.write(f"\nflctl {name} {' '.join(map(str, args))}: {seconds:.0f} s\n")
        return Play(said, seconds)

    @property
    def address(self) -> str:
        return f"{self.rig.address('server')}:7700"

    def connect(self) -> None:
        keys = ("docker", "exec", "flctl-coordinator", "flctl", "keys", "list", "--json")
        listed = self.rig.root("server", *keys)
        server_key = json.loads(listed)["server_key"]
        self.flctl("connect", self.address, "--server-key", server_key, "--key", self.key)

    def status(self) -> dict[str, dict[str, Any]]:
        return {agent["name"]: agent for agent in json.loads(self.flctl("status", "--json"))}

    def until(self, condition: Any, what: str, within_s: float = 600) -> None:
        until = time.monotonic() + within_s
        while not condition(self.status()):
            assert time.monotonic() < until, f"{what}: {self.status()}"
            time.sleep(1)

    def train(self, *args: object) -> str:
        return self.flctl(
            "train", "--task", "ecg", "--rounds", 1, "--quorum", 1, "--batch-size", 64,
            "--federate-after-n-batches", 2, "--evaluate", "none", "--wait", "3m", *args,
        )  # fmt: skip

    @contextmanager
    def training(self) -> Iterator[str]:
        """A run that does not end before the block does; its name."""
        settings = "--task ecg --rounds 5000 --batch-size 64 --federate-after-n-batches 2"
        command = [FLCTL, "train", *settings.split(), "--evaluate", "none", "--json"]
        environment = {**os.environ, "FLCTL_STATE": str(self.state)}
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment) as watching:
            until = time.monotonic() + 600
            while not any(r["state"] == "running" and r["round"] for r in self.runs()):
                assert time.monotonic() < until, f"no round was trained: {self.runs()}"
                time.sleep(1)
            run = next(r["run"] for r in self.runs() if r["state"] == "running")
            try:
                yield run
                assert watching.poll() is None, "the run ended before its time"
            finally:
                self.flctl("runs", "stop", run)
                watching.wait(60)

    def runs(self) -> list[dict[str, Any]]:
        return json.loads(self.flctl("runs", "list", "--json"))

    def events(self, run: str) -> list[dict[str, Any]]:
        return json.loads(self.flctl("runs", "show", run, "--json"))["events"]

    def images(self, host: str) -> dict[str, str]:
        """The tags of the agent's image there, and the ids that they stand for."""
        form = "{{.Repository}}:{{.Tag}} {{.ID}}"
        listed = self.rig.root(host, "docker", "images", "--format", form)
        return dict(line.split() for line in listed.splitlines())

    def another_version(self, what: str, version: str, *edits: tuple[str, str, str]) -> Path:
        """An archive of the image of this checkout that calls itself `version`, and is edited:
        (file in the package, what stands there, what shall)."""
        run = [edit("build.json", '"version": "[^"]*"', f'"version": "{version}"')]
        run += [edit(*each) for each in edits]
        dockerfile = (
            f"FROM flctl-{what}:{engine.TAG}\nUSER root\nRUN {' && '.join(run)}\nUSER 7700:7700\n"
            f"LABEL org.opencontainers.image.version={version}\n"
        )
        context = self.folder / f"{what}-{version}"
        context.mkdir()
        (context / "Dockerfile").write_text(dockerfile)
        reference = f"flctl-{what}:{engine.TAG}-{version}"
        docker("build", "--quiet", "--tag", reference, str(context))
        archive = context / "image.tar"
        docker("save", "--output", str(archive), reference)
        docker("image", "rm", reference)
        return archive


def edit(file: str, old: str, new: str) -> str:
    return f"sed -i 's/{old}/{new}/' {SITE}/{file} && grep -q '{new}' {SITE}/{file}"


class Play:
    def __init__(self, said: str, seconds: float) -> None:
        self.said, self.seconds = said, seconds
        self.recap = {
            host: dict(
                zip(("ok", "changed", "unreachable", "failed"), map(int, figures), strict=True)
            )
            for host, *figures in RECAP.findall(said)
        }

    @property
    def changed(self) -> int:
        return sum(host["changed"] for host in self.recap.values())

    def changed_by(self, task: str) -> list[str]:
        """The hosts where a task of that name has changed something, as often as it did."""
        parts = [part.partition("\n") for part in self.said.split("\nTASK [")]
        said = "".join(text for name, _, text in parts if name.partition("]")[0].endswith(task))
        return re.findall(r"(?m)^changed: \[([^]\s]+)", said)

    @property
    def failed(self) -> set[str]:
        return {host for host, figures in self.recap.items() if figures["failed"]}
