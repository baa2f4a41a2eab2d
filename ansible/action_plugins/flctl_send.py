"""Runs on the controller: sends files over Ansible's own connection, as the user who connects.

All files that the host lacks are one stream, sent in parts: parts that arrived before a connection
broke are not sent again. The module of the same name, as root, lists the missing files and puts
the arrived files in place. Whatever Ansible uses to reach the host (jump hosts, keys, known hosts,
a password for sudo) applies to the files too; rsync would use none of it.
"""

import hashlib
import shlex
import time
from pathlib import Path

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

MIB = 1 << 20
PART_BYTES = 16 * MIB
MOST_PARTS = 1024
"""The digests of all parts are sent in one answer."""
STAGING = ".cache/flctl"
"""In the home of the user who connects, where no other user can place files or links."""


class ActionModule(ActionBase):
    _supports_check_mode = True
    _supports_diff = False

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        _, wish = self.validate_argument_spec(
            argument_spec={
                "source": {"type": "path", "required": True},
                "folder": {"type": "str", "required": True},
                "files": {"type": "dict", "default": {}},
                "owner": {"type": "int", "default": 0},
                "limit_mbit": {"type": "float", "default": 0.0},
            }
        )
        self.host = task_vars["inventory_hostname"]
        source = Path(wish["source"])
        paths = {source.name: source} if source.is_file() else below(source, wish["files"])
        try:
            files = {name: self.measured(path) for name, path in sorted(paths.items())}
        except OSError as error:
            raise AnsibleActionFail(
                f"{self.host}: {error.filename}: {error.strerror}, so nothing was sent"
            ) from error
        for name, announced in wish["files"].items():
            if files[name] != {key: announced.get(key) for key in ("size", "sha256")}:
                raise AnsibleActionFail(
                    f"{self.host}: {name} of {source} differs from its manifest, so nothing "
                    f"was sent: flctl data verify {source}  lists all damaged files"
                )
        rate = wish["limit_mbit"] * 125_000  # bytes a second
        part_bytes = part_of(sum(file["size"] for file in files.values()), rate)
        home = self.as_user('printf %s "$HOME"')
        key = hashlib.sha256(wish["folder"].encode()).hexdigest()[:16]
        common = {
            "folder": wish["folder"], "files": files, "owner": wish["owner"],
            "staged": f"{home}/{STAGING}/{key}",
        }  # fmt: skip
        found = self.as_root(task_vars, state="looked", part_bytes=part_bytes, **common)
        result.update(found)
        if found.get("failed") or not found["changed"] or self._task.check_mode:
            return result
        began = time.monotonic()
        sent = self.send(
            [paths[name] for name in found["missing"]],
            common["staged"], found["arrived"], part_bytes, rate,
        )  # fmt: skip
        took_s = time.monotonic() - began
        result.update(self.as_root(task_vars, state="taken", missing=found["missing"], **common))
        result.update(sent_bytes=sent, send_s=round(took_s, 1))
        return result

    @staticmethod
    def measured(path):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return {"size": file.tell(), "sha256": digest}

    def as_root(self, task_vars, **args):
        """The result of the module of the same name, run like every other task."""
        return self._execute_module(module_args=args, task_vars=task_vars)

    def as_user(self, command, data=None):
        """The output of a shell command of the connecting user."""
        done = self._low_level_execute_command(command, sudoable=False, in_data=data)
        if done["rc"]:
            said = " ".join((done["stderr"] or done["stdout"]).split()) or f"exit {done['rc']}"
            raise AnsibleActionFail(f"{self.host}: the copy was interrupted: {said}")
        return done["stdout"].strip()

    def send(self, paths, staged, arrived, part_bytes, rate):
        """The number of bytes sent. `arrived`: for each complete part on the host, the sha256 of
        everything up to its end."""
        if not self._connection.has_pipelining:
            raise AnsibleActionFail(
                f"{self.host}: files are sent over ssh; the connection plugin "
                f"{self._connection.transport} cannot send them"
            )
        place = shlex.quote(staged)
        self.as_user(f"umask 077 && mkdir -p {shlex.quote(str(Path(staged).parent))}")
        began, sent, same, digest = time.monotonic(), 0, bool(arrived), hashlib.sha256()
        for index, part in enumerate(parts(paths, part_bytes)):
            if same:
                digest.update(part)
                same = index < len(arrived) and digest.hexdigest() == arrived[index]
            if same:
                continue
            seek = index * part_bytes // MIB
            # Writes the same bytes to the same place, however often Ansible retries.
            self.as_user(
                f"umask 077 && dd of={place} bs={MIB} seek={seek} conv=notrunc 2>&1", data=part
            )
            sent += len(part)
            if rate:
                time.sleep(max(0.0, began + sent / rate - time.monotonic()))
        return sent


def part_of(size, rate):
    """Bytes in a part: two seconds' worth at the rate limit, and at most MOST_PARTS parts."""
    wanted = min(PART_BYTES, 2 * rate) if rate else PART_BYTES
    return max(1, round(wanted / MIB), -(-size // MOST_PARTS // MIB)) * MIB


def below(source, announced):
    """The announced files by name; all files if none are announced."""
    if announced:
        return {name: source / name for name in announced}
    return {str(path.relative_to(source)): path for path in source.rglob("*") if path.is_file()}


def parts(paths, size):
    """All files, one after another, in pieces of `size` bytes; the last piece may be shorter."""
    part = bytearray()
    for path in paths:
        with path.open("rb") as file:
            while piece := file.read(size - len(part)):
                part += piece
                if len(part) == size:
                    yield bytes(part)
                    part.clear()
    if part:
        yield bytes(part)
