"""Runs on the Pi: lists the missing files, and puts them in place once they have arrived."""

import contextlib
import hashlib
import os
import shutil
import stat
from pathlib import Path, PurePosixPath

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: flctl_send
short_description: Copy files from the controller to a folder of their own
description:
  - Sends a file, or the files of a folder, over Ansible's own connection as the user who connects,
    in parts, and resumes after an interruption. Then, as root, compares their sha256 and puts them
    in place, all at once. Afterwards the folder has these files and no others.
  - Files that the folder already has are not sent. Until all files are complete, it is unchanged.
options:
  source: {type: path, required: true, description: "File or folder on the controller."}
  folder: {type: str, required: true, description: "Folder on the Pi; only O(owner) can read it."}
  files:
    type: dict
    default: {}
    description: "Size and sha256 by name within O(source), checked before the transfer."
  owner: {type: int, default: 0, description: "User and group of the files, by number."}
  limit_mbit: {type: float, default: 0, description: "Limit in Mbit/s; 0 for no limit."}
author: flctl
"""
RETURN = """
missing: {type: list, returned: always, description: "Names of the files that were sent."}
sent_bytes: {type: int, returned: changed, description: "Bytes sent; fewer after an interruption."}
send_s: {type: float, returned: changed, description: "Duration of the transfer, in seconds."}
"""

CHUNK = 1 << 20
FILE, FOLDER = 0o600, 0o700


class Unusable(Exception):
    pass


def sha256_of(file, size=-1):
    """The sha256 of the next `size` bytes, or of all remaining bytes."""
    digest = hashlib.sha256()
    while size:
        piece = file.read(CHUNK if size < 0 else min(CHUNK, size))
        if not piece:
            break
        digest.update(piece)
        size -= len(piece) if size > 0 else 0
    return digest.hexdigest()


def opened(path):
    """The file, open for reading; links are refused."""
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")


def private(path, mode, owner):
    found = path.lstat()
    return (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (mode, owner, owner)


class Sending:
    def __init__(self, folder, files, owner, staged):
        self.folder, self.files, self.owner = Path(folder), files, owner
        self.staged = Path(staged)
        self.new = self.folder.with_name(f".{self.folder.name}.new")
        self.old = self.folder.with_name(f".{self.folder.name}.old")
        for name in files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or not path.parts:
                raise Unusable(f"{name!r} is not the name of a file within a folder")

    def look(self, part_bytes):
        there = {name for name, file in self.files.items() if self.has(name, file)}
        found = [path for path in self.folder.rglob("*") if path.is_symlink() or not path.is_dir()]
        extra = {str(path.relative_to(self.folder)) for path in found} - set(self.files)
        private_folder = self.folder.is_dir() and private(self.folder, FOLDER, self.owner)
        missing = [name for name in sorted(self.files) if name not in there]
        closed = all(private(self.folder / name, FILE, self.owner) for name in there)
        return {
            "changed": bool(missing or extra) or not (private_folder and closed),
            "missing": missing,
            "arrived": self.arrived(part_bytes) if missing else [],
        }

    def has(self, name, file):
        path = self.folder / name
        try:
            if path.lstat().st_size != file["size"] or not stat.S_ISREG(path.lstat().st_mode):
                return False
            with opened(path) as content:
                return sha256_of(content) == file["sha256"]
        except OSError:
            return False

    def arrived(self, part_bytes):
        """For each complete staged part, the sha256 of everything up to its end."""
        digest, ends = hashlib.sha256(), []
        with contextlib.suppress(OSError), opened(self.staged) as file:
            for end in range(part_bytes, os.fstat(file.fileno()).st_size + 1, part_bytes):
                while file.tell() < end:
                    digest.update(file.read(min(CHUNK, end - file.tell())))
                ends.append(digest.hexdigest())
        return ends

    def take(self, missing):
        """Makes the whole new folder next to the existing one, then replaces that one."""
        self.folder.parent.mkdir(mode=FOLDER, parents=True, exist_ok=True)
        shutil.rmtree(self.new, ignore_errors=True)
        self.make(self.new)
        for name in sorted(set(self.files) - set(missing)):
            os.link(self.folder / name, self.place(name))
            self.keep(self.new / name)
        self.unpack(missing)
        os.sync()  # before renaming: after a power cut, the renamed files are complete
        if self.folder.exists():
            shutil.rmtree(self.old, ignore_errors=True)
            self.folder.rename(self.old)
        self.new.rename(self.folder)
        shutil.rmtree(self.old, ignore_errors=True)
        self.staged.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # another transfer may be staged there
            self.staged.parent.rmdir()
        return {"changed": True, "missing": missing}

    def unpack(self, missing):
        if not missing:
            return
        with opened(self.staged) as stream:
            if len(missing) == 1 and self.adopt(missing[0], stream):
                return
            for name in missing:
                self.copy(name, stream)

    def adopt(self, name, stream):
        """Moves a single file instead of copying it. Returns False if it cannot be moved."""
        file = self.files[name]
        if os.fstat(stream.fileno()).st_dev != self.new.stat().st_dev:
            return False
        self.compare(name, sha256_of(stream, file["size"]))
        os.truncate(self.staged, file["size"])
        self.staged.rename(self.place(name))
        self.keep(self.new / name)
        return True

    def copy(self, name, stream):
        left, digest = self.files[name]["size"], hashlib.sha256()
        with self.place(name).open("xb") as out:
            while left and (piece := stream.read(min(CHUNK, left))):
                digest.update(piece)
                out.write(piece)
                left -= len(piece)
        self.compare(name, digest.hexdigest())
        self.keep(self.new / name)

    def compare(self, name, digest):
        if digest != self.files[name]["sha256"]:
            self.staged.unlink()
            raise Unusable(f"{name} changed during the transfer: repeat the command")

    def place(self, name):
        path = self.new / name
        for above in reversed(path.relative_to(self.new).parents[:-1]):
            if not (self.new / above).exists():
                self.make(self.new / above)
        return path

    def make(self, folder):
        folder.mkdir(mode=FOLDER)
        os.chown(folder, self.owner, self.owner)

    def keep(self, path):
        path.chmod(FILE)
        os.chown(path, self.owner, self.owner, follow_symlinks=False)


def main():
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["looked", "taken"], "required": True},
            "folder": {"type": "path", "required": True},
            "files": {"type": "dict", "required": True},
            "owner": {"type": "int", "default": 0},
            "staged": {"type": "path", "required": True},
            "part_bytes": {"type": "int", "default": 0},
            "missing": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    wish = module.params
    os.umask(0o077)
    try:
        sending = Sending(wish["folder"], wish["files"], wish["owner"], wish["staged"])
        if wish["state"] == "looked":
            module.exit_json(**sending.look(wish["part_bytes"]))
        module.exit_json(**sending.take(wish["missing"]))
    except Unusable as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        where = error.filename or wish["folder"]
        module.fail_json(msg=f"{where}: {error.strerror}; is there space on that disk?")


if __name__ == "__main__":
    main()
