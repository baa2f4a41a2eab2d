"""Runs on the controller: makes the archive of an image that a Pi can load, and describes it.

The layers that a Pi already has are left out: Docker looks for a layer before it reads it. PyTorch
is most of an image and rarely changes, so over a mobile connection a new version takes a few
megabytes instead of a few hundred.
"""

import contextlib
import fcntl
import io
import itertools
import json
import os
import subprocess
import tarfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.flctl_identity import of_inspected, of_record

DOCUMENTATION = """
module: flctl_image_archive
short_description: Make the archive of a container image for one host
description:
  - Makes a file for C(docker load) on the host, from a given archive or from an image in the
    controller's own Docker engine.
  - Runs on the controller (C(delegate_to=localhost)). Changes only the cache.
options:
  archive: {type: path, description: "A file of C(docker save), plain or compressed."}
  image: {type: str, description: "NAME:TAG in the controller's engine, first with -arm64."}
  architecture: {type: str, required: true, description: "Output of uname -m on the Pi."}
  layers: {type: list, elements: list, default: [], description: "Layers of the Pi's images."}
  digest: {type: str, description: "Image of the Pi; no file is made if it is the same."}
  only_look: {type: bool, default: false, description: "Make no file, only describe the image."}
  compress: {type: bool, default: true, description: "Compress the file."}
  cache: {type: path, required: true, description: "Folder for the files."}
author: flctl
"""
RETURN = """
path: {type: str, returned: always, description: "The file on the controller; empty if not needed."}
digest: {type: str, returned: always, description: "Digest of layers and configuration."}
version: {type: str, returned: always, description: "Version of flctl in the image."}
layers: {type: int, returned: always, description: "Number of layers left out."}
"""

ARCHITECTURES = {"aarch64": "arm64", "x86_64": "amd64"}
LARGEST_RECORD = 16 << 20


class Unusable(Exception):
    pass


class Archive:
    """The output of `docker save`: a list of files, the image's own record, its layers."""

    def __init__(self, path):
        self.path = path
        try:
            with tarfile.open(path) as tar:
                (self.manifest,) = json.loads(self.read(tar, "manifest.json"))
                self.record = json.loads(self.read(tar, self.manifest["Config"]))
                self.layers = self.record["rootfs"]["diff_ids"]
        except (OSError, tarfile.TarError, EOFError, ValueError, KeyError, TypeError) as error:
            raise Unusable(
                f"{path}: is not an archive of one image made by `docker save` "
                f"({str(error).partition(chr(10))[0]})"
            ) from error

    @staticmethod
    def read(tar, name):
        file = tar.extractfile(name)
        if file is None:
            raise ValueError(f"{name} is not a file")
        return file.read(LARGEST_RECORD)

    def write_without(self, known, path, compress):
        """All but the first `known` layers."""
        options = {"mode": "w:gz", "compresslevel": 1} if compress else {"mode": "w"}
        with tarfile.open(self.path) as tar, tarfile.open(path, **options) as new:
            names = ["manifest.json", self.manifest["Config"], *self.manifest["Layers"][known:]]
            for name in dict.fromkeys(names):
                file = tar.extractfile(name)  # follows a link from a layer to an identical one
                member = tarfile.TarInfo(name)
                member.size = file.seek(0, io.SEEK_END)
                file.seek(0)
                new.addfile(member, file)


def docker(*args):
    try:
        done = subprocess.run(["docker", *args], capture_output=True, check=False, text=True)
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None


def engine_image(image, wanted):
    """The reference of the image in the controller's engine, and its record there."""
    for reference in (f"{image}-arm64", image) if wanted == "arm64" else (image,):
        found = docker("image", "inspect", reference)
        if found is not None:
            described = json.loads(found)[0]
            if described["Architecture"] == wanted:
                return reference, described
    raise Unusable(
        f"the Docker engine of this machine has no image {image} for {wanted}: build it (make "
        "images, make image-arm64, make coordinator-arm64), or set an archive of it"
    )


def saved(reference, described, cache):
    """The archive of an image of the engine, saved unless the cache already has it.

    Removes files made of older images with this name; NAME and NAME-arm64 are different names.
    """
    name = reference.replace("/", "_").replace(":", "-")
    path = cache / f"{name}@{described['Id'].removeprefix('sha256:')[:12]}.tar"
    if not path.exists():
        for old in cache.glob(f"{name}@*"):
            old.unlink()
        with made(path) as new:
            if docker("save", "--output", str(new), reference) is None:
                raise Unusable(f"docker save {reference} failed: is there space in {cache}?")
    return path


@contextlib.contextmanager
def made(path):
    """The file under another name until it is complete."""
    new = path.with_name(path.name + ".new")
    try:
        yield new
        new.rename(path)
    finally:
        new.unlink(missing_ok=True)


def in_common(layers, others):
    """The number of leading layers that are the same in one of the others."""

    def shared(other):
        pairs = zip(layers, other, strict=False)
        return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))

    return max(map(shared, others), default=0)


def look(module):
    given, cache = module.params["archive"], Path(module.params["cache"]).expanduser()
    wanted = ARCHITECTURES.get(module.params["architecture"])
    if wanted is None:
        raise Unusable(f"there are no images for {module.params['architecture']}")
    if given:
        if not Path(given).is_file():
            raise Unusable(f"there is no archive {given}")
        record = Archive(given).record
        if record.get("architecture") != wanted:
            raise Unusable(
                f"{given}: this image is for {record.get('architecture')}, not for {wanted}"
            )
        digest, version = of_record(record)
    else:
        reference, described = engine_image(module.params["image"], wanted)
        digest, version = of_inspected(described)
    found = {"digest": digest, "version": version or "unknown"}
    if module.params["only_look"] or digest == module.params["digest"]:
        return {**found, "path": "", "layers": 0}
    cache.mkdir(parents=True, exist_ok=True)
    # Made only once, although several Pis ask for it at the same time.
    with (cache / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        archive = Archive(Path(given) if given else saved(reference, described, cache))
        known = in_common(archive.layers, module.params["layers"])
        made_of = f"{archive.path.name.removesuffix('.tar')}-{wanted}-{digest[:12]}"
        path = cache / f"{made_of}-without-{known}.tar"
        if not path.exists():
            with made(path) as new:
                archive.write_without(known, new, module.params["compress"])
    return {**found, "path": str(path), "layers": known}


def main():
    module = AnsibleModule(
        argument_spec={
            "archive": {"type": "path"},
            "image": {"type": "str"},
            "architecture": {"type": "str", "required": True},
            "layers": {"type": "list", "elements": "list", "default": []},
            "digest": {"type": "str"},
            "only_look": {"type": "bool", "default": False},
            "compress": {"type": "bool", "default": True},
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
