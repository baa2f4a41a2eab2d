"""Runs on the coordinator's host: an image in its registry, for the fleet to pull."""

import contextlib
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.flctl_engine import Unusable, docker

DOCUMENTATION = """
module: flctl_registry
short_description: Push an image into the registry of the coordinator's host
description:
  - The registry can be written to only over loopback, and only while this pushes.
  - An image is tagged with the digest of its content, so what is there is not pushed again.
  - The newest few of a name stay; the room of the others is given back.
options:
  name: {type: str, required: true, description: "The image's name without a tag."}
  digest: {type: str, required: true, description: "Of its layers and configuration."}
  archive: {type: path, description: "What C(docker load) takes; without it, only looks."}
  storage: {type: path, required: true, description: "Folder of the registry."}
  port: {type: int, required: true, description: "On loopback, where it is written to."}
  settings: {type: path, required: true, description: "Of the registry that is written to."}
author: flctl
"""
RETURN = """
manifest: {type: str, returned: always, description: "sha256:…, to pull by; empty: not there."}
"""

UNIT = "flctl-registry-push"
START_S = 30.0
KEPT = 4
"""Images of a name: the current and the previous one, for two architectures."""
MANIFEST = re.compile(r"sha256:[0-9a-f]{64}")


class Registry:
    def __init__(self, storage, name, digest, port, settings):
        repositories = Path(storage) / "docker" / "registry" / "v2" / "repositories"
        self.tags = repositories / name / "_manifests" / "tags"
        self.link = self.tags / digest / "current" / "link"
        self.port, self.settings = port, settings
        self.reference = f"127.0.0.1:{port}/{name}:{digest}"

    def manifest(self):
        try:
            found = self.link.read_text()
        except OSError:
            return ""
        return found if MANIFEST.fullmatch(found) else ""

    def push(self, archive):
        before = names()
        lines = docker("load", "--input", archive).splitlines()
        loaded = [line.split(": ", 1)[1] for line in lines if line.startswith("Loaded image")]
        if len(loaded) != 1:
            raise Unusable(f"{archive}: not one image but {len(loaded)}")
        try:
            docker("image", "tag", loaded[0], self.reference)
            with self.writable():
                docker("push", "--quiet", self.reference)
            if not self.manifest():
                raise Unusable(f"{self.reference} was pushed, but is not in the registry")
        finally:  # it was here only on its way
            for name in {self.reference, *loaded} & names() - before:
                docker("image", "rm", name)
        self.prune()

    def prune(self):
        """Safe beside the side that only reads: it keeps nothing in memory."""
        tags = sorted(self.tags.glob("*/current/link"), key=lambda link: link.stat().st_mtime)
        old = [link.parents[1] for link in tags[:-KEPT]]
        for tag in old:
            shutil.rmtree(tag)
        if old:
            collect = ["docker-registry", "garbage-collect", "--delete-untagged", self.settings]
            run("runuser", "-u", "docker-registry", "--", *collect)

    @contextlib.contextmanager
    def writable(self):
        run("systemctl", "start", UNIT)
        try:
            until = time.monotonic() + START_S
            while True:
                try:
                    socket.create_connection(("127.0.0.1", self.port), 1).close()
                    break
                except OSError as error:
                    if time.monotonic() > until:
                        raise Unusable(f"{UNIT} does not answer: {error}") from error
                    time.sleep(0.2)
            yield
        finally:
            run("systemctl", "stop", UNIT)


def names():
    return set(docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split())


def run(*command):
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    if done.returncode:
        raise Unusable(f"{' '.join(command)}: {done.stderr.strip()}")


def main():
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "digest": {"type": "str", "required": True},
            "archive": {"type": "path"},
            "storage": {"type": "path", "required": True},
            "port": {"type": "int", "required": True},
            "settings": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    wish = module.params
    registry = Registry(*(wish[key] for key in ("storage", "name", "digest", "port", "settings")))
    missing = bool(wish["archive"]) and not registry.manifest()
    try:
        if missing and not module.check_mode:
            registry.push(wish["archive"])
    except Unusable as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=missing, manifest=registry.manifest())


if __name__ == "__main__":
    main()
