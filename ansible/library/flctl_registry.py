"""Runs on the coordinator's host: puts an image into its registry, for the fleet to pull."""

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
short_description: Push an image to the registry on the coordinator's host
description:
  - The registry accepts writes only over loopback, and only during the push.
  - An image is tagged with the digest of its content, so an existing image is not pushed again.
  - Keeps the newest images of each name, and frees the space of older ones.
options:
  name: {type: str, required: true, description: "The image's name without a tag."}
  digest: {type: str, required: true, description: "Digest of layers and configuration."}
  archive: {type: path, description: "File for C(docker load); without it, only looks up."}
  storage: {type: path, required: true, description: "Folder of the registry's images."}
  port: {type: int, required: true, description: "Port for pushes, on loopback."}
  settings: {type: path, required: true, description: "Settings file of the registry for pushes."}
author: flctl
"""
RETURN = """
manifest: {type: str, returned: always, description: "sha256:… to pull by; empty if missing."}
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
            raise Unusable(f"{archive}: has {len(loaded)} images instead of one")
        try:
            docker("image", "tag", loaded[0], self.reference)
            with self.writable():
                docker("push", "--quiet", self.reference)
            if not self.manifest():
                raise Unusable(f"{self.reference} was pushed, but is not in the registry")
        finally:  # needed only for the push
            for name in {self.reference, *loaded} & names() - before:
                docker("image", "rm", name)
        self.prune()

    def prune(self):
        """Safe while the read-only registry runs: it caches nothing in memory."""
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
