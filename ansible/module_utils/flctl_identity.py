"""Identifies an image: the same digest on the controller, from an archive, and on a Pi.

An image's id differs between image stores (a digest of the configuration in one, of a manifest in
another), and a label can say anything. Layers and configuration decide what runs.
"""

import hashlib
import json

RUNS = (
    "Cmd",
    "Entrypoint",
    "Env",
    "ExposedPorts",
    "Healthcheck",
    "OnBuild",
    "Shell",
    "StopSignal",
    "User",
    "Volumes",
    "WorkingDir",
)
"""The fields of a configuration that decide how a container runs; labels do not."""
SAME_AS_NONE = ("", "/", None, [], {})
"""Image stores differ in the empty values that they record; / is the default of WorkingDir."""
VERSION = "org.opencontainers.image.version"


def digest_of(layers, config, architecture):
    """The sha256 of `layers` (diff ids, the lowest first), `config` and `architecture`."""
    config = {name: config.get(name) for name in RUNS}
    runs = {name: value for name, value in config.items() if value not in SAME_AS_NONE}
    described = {"architecture": architecture, "config": runs, "layers": layers}
    text = json.dumps(described, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def of_record(record):
    """Digest and version from an image's own record, as an archive has it."""
    config = record.get("config") or {}
    digest = digest_of(record["rootfs"]["diff_ids"], config, record.get("architecture"))
    return digest, (config.get("Labels") or {}).get(VERSION, "")


def of_inspected(found):
    """Digest and version from what `docker image inspect` prints."""
    config = found.get("Config") or {}
    layers = found["RootFS"].get("Layers") or []
    digest = digest_of(layers, config, found["Architecture"])
    return digest, (config.get("Labels") or {}).get(VERSION, "")
