"""`deploy` of one image to many hosts: how long, and what leaves the controller, with and without
the registry.

The playbook is the real one, with its forks; the hosts are a stub of Ansible's connection, which
counts the bytes and takes the time that the link would (fleet_of_500/counted.py). Both links are
shared by all who send over them: the controller's, and that of the coordinator's host in the LAN.

    python benchmarks/fleet_of_500.py --hosts 500 --image-mb 20 --link-mbit 100 --lan-mbit 1000
"""

import argparse
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MB = 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--hosts", type=int, default=50)
    parser.add_argument("--image-mb", type=float, default=20.0, help="what a host lacks of it")
    parser.add_argument("--link-mbit", type=float, default=100.0, help="of the controller")
    parser.add_argument("--lan-mbit", type=float, default=1000.0, help="of the coordinator's host")
    parser.add_argument("--forks", type=int, help="default: what ansible.cfg says")
    parser.add_argument(
        "--part", choices=PARTS, default="all",
        help="of the playbook: all, what brings images, or only the tasks of their roles",
    )  # fmt: skip
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[*WAYS])
    args = parser.parse_args()
    for way in args.ways:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(deploy(way, args, Path(folder))), flush=True)


WAYS = ("controller", "registry")
PARTS = {
    "all": [],
    "images": ["--tags", "images"],
    "transfers": ["--tags", "images", "--skip-tags", "always"],
}


def deploy(way: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    names = [f"pi-{number:03}" for number in range(1, args.hosts + 1)]
    every = {
        "ansible_connection": "counted", "ansible_become": False, "ansible_host": "10.0.0.1",
        "ansible_python_interpreter": "/usr/bin/python3",
        "ansible_remote_tmp": str(folder / "tmp"),
        "flctl_registry": way == "registry",
        "flctl_image_cache": str(folder / "cache"), "flctl_image_compress": False,
        "flctl_agent_archive": str(archive(folder / "agent.tar", args.image_mb)),
        "flctl_coordinator_archive": str(archive(folder / "coordinator.tar", 1.0)),
    }  # fmt: skip
    inventory = folder / "inventory.json"
    inventory.write_text(json.dumps({
        "flctl_coordinator": {"hosts": {"server": {}}},
        "flctl_agents": {"hosts": {name: {"ansible_host": name} for name in names}},
        "flctl_online": {"hosts": {name: {} for name in ("server", *names)}},
        "all": {"vars": every},
    }))  # fmt: skip
    (folder / "facts").mkdir()
    for name in ("server", *names):
        facts = json.dumps({"architecture": "aarch64"})
        (folder / "facts" / f"s1_{name}").write_text(json.dumps({"__payload__": facts}))
    (folder / "status.json").write_text(json.dumps([agent(name) for name in names]))
    for link, mbit in (("controller", args.link_mbit), ("server", args.lan_mbit)):
        (folder / f"link-{link}.json").write_text(json.dumps({"free_at": 0.0, "mbit": mbit}))
    (folder / "home").mkdir()
    more = ["--forks", str(args.forks)] if args.forks else []
    more += PARTS[args.part]
    began, log = time.monotonic(), folder / "log"
    with log.open("w") as out:
        done = subprocess.run(
            [Path(sys.executable).with_name("ansible-playbook"), "-i", inventory, *more,
             "deploy.yml"],
            stdout=out, stderr=subprocess.STDOUT, cwd=ROOT / "ansible", check=False,
            env={**os.environ, "FLEET": str(folder), "ANSIBLE_NOCOLOR": "1",
                 "ANSIBLE_CONNECTION_PLUGINS": str(Path(__file__).with_suffix("")),
                 "ANSIBLE_PIPELINING": "1",  # as ansible.cfg says, of ssh
                 "ANSIBLE_CACHE_PLUGIN": "jsonfile",
                 "ANSIBLE_CACHE_PLUGIN_CONNECTION": str(folder / "facts"),
                 "ANSIBLE_HOME": str(folder / "ansible")},
        )  # fmt: skip
    took_s = time.monotonic() - began
    said = log.read_text()
    if done.returncode or len(re.findall(r"(?m)^\S+ +: ok=\d+.* failed=0 ", said)) <= args.hosts:
        raise SystemExit(f"the playbook failed:\n{said[-5000:]}")
    links = [
        json.loads((folder / f"link-{name}.json").read_text()) for name in ("controller", "server")
    ]
    controller, server = links
    return {
        "way": way, "part": args.part, "hosts": args.hosts, "image_mb": args.image_mb,
        "link_mbit": args.link_mbit, "lan_mbit": args.lan_mbit, "took_s": round(took_s),
        "controller_files_mb": round(controller.get("files", 0) / MB, 1),
        "controller_ansible_mb": round(controller["Ansible's own"] / MB, 1),
        "lan_images_mb": round(server.get("images", 0) / MB, 1),
    }  # fmt: skip


def archive(path: Path, mb: float) -> Path:
    """What `docker save` makes of an image with one layer, of bytes that do not compress."""
    layer = os.urandom(int(mb * MB))
    config = {
        "architecture": "arm64", "rootfs": {"type": "layers", "diff_ids": [f"sha256:{path.stem}"]},
        "config": {"Labels": {"org.opencontainers.image.version": "1"}},
    }  # fmt: skip
    manifest = [{"Config": "config.json", "RepoTags": [], "Layers": ["layer.tar"]}]
    with tarfile.open(path, "w") as tar:
        for name, data in (
            ("manifest.json", json.dumps(manifest).encode()),
            ("config.json", json.dumps(config).encode()),
            ("layer.tar", layer),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def agent(name: str) -> dict[str, Any]:
    """Its line in `flctl status --json`."""
    data = [{"name": "default", "task": "ecg", "examples": 400, "held_out": 100}]
    return {
        "name": name, "version": "1", "state": "ready", "ready": True, "cordoned": False,
        "note": "", "last_error": "", "tasks": {"ecg": "e" * 64}, "datasets": data,
    }  # fmt: skip


if __name__ == "__main__":
    main()
