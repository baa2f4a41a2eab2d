"""Runs on the controller: the file with an image that a Pi can load, and what is in it."""

import fcntl
import gzip
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: flctl_image_archive
short_description: Find or make the archive of a container image
description:
  - Names a file that C(docker load) takes, made by C(docker save), either the one that is given
    or one that is saved from the controller's own Docker engine and kept in a cache.
  - Runs on the controller (C(delegate_to=localhost)). Nothing is changed but the cache.
options:
  archive: {type: path, description: "An archive that is there already, plain or compressed."}
  image: {type: str, description: "NAME:TAG in the controller's engine; NAME:TAG-arm64 goes first."}
  architecture: {type: str, required: true, description: "As uname -m says on the Pi."}
  cache: {type: path, required: true, description: "Folder for archives that are saved."}
author: flctl
"""
RETURN = """
path: {type: str, returned: always, description: "The archive on the controller."}
digest: {type: str, returned: always, description: "What the image is made of."}
version: {type: str, returned: always, description: "The flctl in it."}
"""

ARCHITECTURES = {"aarch64": "arm64", "x86_64": "amd64"}
DIGEST = "io.flctl.source-digest"
VERSION = "org.opencontainers.image.version"
LARGEST_RECORD = 16 << 20


class Unusable(Exception):
    pass


def inside(archive):
    """The image's own record in an archive of `docker save`."""
    try:
        with tarfile.open(archive) as tar:
            (manifest,) = json.loads(record(tar, "manifest.json"))
            return json.loads(record(tar, manifest["Config"]))
    except (OSError, tarfile.TarError, EOFError, ValueError, KeyError, TypeError) as error:
        raise Unusable(
            f"{archive}: not an archive with one image, as `docker save` makes it ({error})"
        ) from error


def record(tar, name):
    file = tar.extractfile(name)
    if file is None:
        raise ValueError(f"{name} is no file")
    return file.read(LARGEST_RECORD)


def docker(*args):
    try:
        done = subprocess.run(["docker", *args], capture_output=True, check=False, text=True)
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None


def engine_image(image, wanted):
    """Its record in the controller's engine, and the reference that has it."""
    for reference in (f"{image}-arm64", image) if wanted == "arm64" else (image,):
        found = docker("image", "inspect", reference)
        if found is not None:
            described = json.loads(found)[0]
            if described["Architecture"] == wanted:
                return reference, described
    raise Unusable(
        f"the Docker engine of this machine has no {image} for {wanted}: make it (make images, "
        "make image-arm64), or name an archive of it (flctl_image_archive)"
    )


def saved(reference, described, cache):
    """The archive of an image of the engine, saved unless that was done before."""
    name = reference.replace("/", "_").replace(":", "-")
    path = cache / f"{name}-{described['Id'].removeprefix('sha256:')[:12]}.tar.gz"
    if path.exists():
        return path
    cache.mkdir(parents=True, exist_ok=True)
    for old in cache.glob(f"{name}-*.tar.gz*"):
        old.unlink()
    new = path.with_name(path.name + ".new")
    with subprocess.Popen(["docker", "save", reference], stdout=subprocess.PIPE) as saving:
        with gzip.open(new, "wb", compresslevel=1) as file:
            shutil.copyfileobj(saving.stdout, file, 1 << 20)
    if saving.returncode:
        new.unlink()
        raise Unusable(f"docker save {reference} failed: is there room in {cache}?")
    new.rename(path)
    return path


def facts(path, described):
    labels = (described.get("config") or described.get("Config") or {}).get("Labels") or {}
    digest = labels.get(DIGEST)
    if not digest:
        raise Unusable(
            f"{path}: the image has no label {DIGEST}, by which a Pi knows whether it has it "
            "already: make it with make images, or give your own Dockerfile such a LABEL"
        )
    return {"path": str(path), "digest": digest, "version": labels.get(VERSION, "unknown")}


def look(module):
    wanted = ARCHITECTURES.get(module.params["architecture"])
    if wanted is None:
        raise Unusable(f"there are no images for {module.params['architecture']}")
    given = module.params["archive"]
    if given:
        path = Path(given)
        if not path.exists():
            raise Unusable(f"flctl_image_archive: there is no {path}")
        described = inside(path)
        if described.get("architecture") != wanted:
            raise Unusable(
                f"{path}: this image is for {described.get('architecture')}, the computer is {wanted}"
            )
        return facts(path, described)
    cache = Path(module.params["cache"]).expanduser()
    reference, described = engine_image(module.params["image"], wanted)
    cache.mkdir(parents=True, exist_ok=True)
    # Once, though it is asked for every Pi, several at a time.
    with (cache / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return facts(saved(reference, described, cache), described)


def main():
    module = AnsibleModule(
        argument_spec={
            "archive": {"type": "path"},
            "image": {"type": "str"},
            "architecture": {"type": "str", "required": True},
            "cache": {"type": "path", "required": True},
        },
        required_one_of=[["archive", "image"]],
        supports_check_mode=True,
    )
    os.umask(0o022)
    try:
        module.exit_json(changed=False, **look(module))
    except Unusable as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
