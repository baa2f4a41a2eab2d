"""How files get to a host: in parts, over Ansible's own connection, whole or not at all."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20


class Host:
    """This machine, whose home is a folder of the test."""

    def __init__(self, folder: Path) -> None:
        self.home, self.source = folder / "home", folder / "source"
        self.there, self.told = folder / "lib" / "data", folder / "told.json"
        self.source.mkdir()
        self.home.mkdir()
        (folder / "play.yml").write_text(json.dumps([{
            "hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": [
                {"flctl_send": "{{ wish }}", "register": "done"},
                {"copy": {"dest": str(self.told), "content": "{{ done | to_json }}"},
                 "check_mode": False, "changed_when": False},
            ],
        }]))  # fmt: skip
        self.folder = folder

    def send(self, *options: str, fails: bool = False, **wish: Any) -> dict[str, Any]:
        """What the task answers, or all that Ansible says when it fails."""
        self.told.unlink(missing_ok=True)
        uid = os.getuid()
        given = {"source": str(self.source), "folder": str(self.there), "owner": uid, **wish}
        done = subprocess.run(
            [Path(sys.executable).with_name("ansible-playbook"), "-i", "localhost,", "play.yml",
             "-e", json.dumps({"wish": given, "ansible_python_interpreter": sys.executable}),
             *options],
            capture_output=True, text=True, timeout=600, check=False, cwd=self.folder,
            env={**os.environ, "HOME": str(self.home), "ANSIBLE_NOCOLOR": "1",
                 "ANSIBLE_LIBRARY": str(ROOT / "ansible" / "library"),
                 "ANSIBLE_ACTION_PLUGINS": str(ROOT / "ansible" / "action_plugins")},
        )  # fmt: skip
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return {"said": done.stdout} if fails else json.loads(self.told.read_text())

    def files(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.there)): path.read_bytes()
            for path in self.there.rglob("*")
            if path.is_file()
        }

    @property
    def staged(self) -> Path:
        key = hashlib.sha256(str(self.there).encode()).hexdigest()[:16]
        return self.home / ".cache" / "flctl" / key


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_folder_arrives_once_and_is_the_owners_alone(host: Host):
    """Also what lies in folders of it; a second run sends nothing, and what is gone goes there."""
    (host.source / "deep").mkdir()
    files = {"a.npz": b"a" * 100, "deep/b.npz": b"", "c": b"c" * MIB}
    for name, content in files.items():
        (host.source / name).write_bytes(content)
    would = host.send("--check")
    assert (would["changed"], sorted(would["missing"]), host.there.exists()) == (
        True, sorted(files), False,
    )  # fmt: skip
    first = host.send()
    assert (first["changed"], first["sent_bytes"], host.files()) == (True, MIB + 100, files)
    modes = {path.stat().st_mode & 0o777 for path in host.there.rglob("*") if path.is_file()}
    folders = {path.stat().st_mode & 0o777 for path in (host.there, host.there / "deep")}
    assert (modes, folders) == ({0o600}, {0o700})
    assert not host.send()["changed"]
    assert not (host.home / ".cache" / "flctl").exists()
    (host.source / "a.npz").unlink()
    (host.source / "c").write_bytes(b"C" * 10)
    again = host.send()
    assert (again["missing"], again["sent_bytes"]) == (["c"], 10)
    assert host.files() == {"c": b"C" * 10, "deep/b.npz": b""}


def test_modes_that_are_too_wide_are_mended_without_sending(host: Host):
    """As an older version has left them."""
    (host.source / "a").write_bytes(b"a")
    host.send()
    (host.there / "a").chmod(0o644)
    again = host.send()
    assert (again["changed"], again["sent_bytes"]) == (True, 0)
    assert (host.there / "a").stat().st_mode & 0o777 == 0o600
    assert not host.send()["changed"]


@pytest.mark.parametrize("names", [["big"], ["big", "other"]])
def test_a_copy_that_was_cut_off_goes_on(host: Host, names: list[str]):
    """Whole parts that arrived are not sent again; a damaged one is, with all that follow."""
    for name in names:
        (host.source / name).write_bytes(os.urandom(40 * MIB + 7))
    stream = b"".join((host.source / name).read_bytes() for name in names)
    host.staged.parent.mkdir(parents=True)
    host.staged.write_bytes(stream[: 33 * MIB])
    assert host.send()["sent_bytes"] == len(stream) - 32 * MIB
    assert b"".join(host.files()[name] for name in names) == stream
    (host.source / names[-1]).write_bytes(stream[-40 * MIB :])
    host.staged.parent.mkdir(parents=True)
    host.staged.write_bytes(b"x" + stream[-40 * MIB :][1:] + b"more")
    assert host.send()["sent_bytes"] == 40 * MIB
    assert host.files()[names[-1]] == stream[-40 * MIB :]


def test_what_differs_from_its_manifest_is_not_sent(host: Host):
    """One line that names the file; what the host has stays."""
    (host.source / "a").write_bytes(b"good")
    host.send()
    announced = {"a": {"size": 4, "sha256": hashlib.sha256(b"good").hexdigest()}}
    (host.source / "a").write_bytes(b"evil")
    said = host.send(fails=True, files=announced)["said"]
    assert "localhost: a of" in said and "so nothing was sent" in said
    (host.source / "a").unlink()
    assert "so nothing was sent" in host.send(fails=True, files=announced)["said"]
    assert host.files() == {"a": b"good"}


def test_a_link_in_the_way_leads_nowhere(host: Host, tmp_path: Path):
    """It is replaced like any other file; what it points to is not touched."""
    (host.source / "a").write_bytes(b"new")
    host.send()
    (tmp_path / "victim").write_bytes(b"new")
    (host.there / "a").unlink()
    (host.there / "a").symlink_to(tmp_path / "victim")
    (tmp_path / "victim").chmod(0o644)
    assert host.send()["sent_bytes"] == 3
    assert not (host.there / "a").is_symlink()
    assert (tmp_path / "victim").stat().st_mode & 0o777 == 0o644


def test_a_limit_is_kept(host: Host):
    """6 MiB at 24 Mbit/s are two seconds."""
    (host.source / "a").write_bytes(os.urandom(6 * MIB))
    assert host.send(limit_mbit=24)["send_s"] >= 2
