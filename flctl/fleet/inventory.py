"""Which agents should exist, as an Ansible inventory says.

Ansible itself is asked, so that every variable counts as it does in a playbook. Where it is not
installed, its output from elsewhere is read: `ansible-inventory -i FILE --list > fleet.json`.
"""

import contextlib
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from flctl.errors import NOT_DECODED, UsageError, printable
from flctl.files import absent, read_small
from flctl.formats import few
from flctl.settings import AgentName

AGENTS = "flctl_agents"
COORDINATOR = "flctl_coordinator"
LISTING = "ansible-inventory"
BYTES = 32 * 1024 * 1024
"""Maximum size of a saved list, or of Ansible's answer."""
ANSWER_S = 120.0
VAULT = b"$ANSIBLE_VAULT"
FILES = 10_000
MOST_HOSTS = 10_000
"""Maximum number of hosts in an inventory's ranges: Ansible expands them all before any output."""
_RANGE = re.compile(r"\[(\d+):(\d+)(?::(\d+))?\]")
_REASON = re.compile(r"with '(\w+)' plugin: (.+)")


class Expected(NamedTuple):
    """An agent that should exist."""

    name: str
    """The agent's: the host's `flctl_name`, or its name in the inventory."""
    host: str
    """Where Ansible reaches it: `ansible_host`, or its name in the inventory."""
    called: str = ""
    """Its name in the inventory."""
    variables: Mapping[str, Any] = MappingProxyType({})
    """As they are written there; only what is checked of them is used."""


class Group(Struct, frozen=True):
    hosts: tuple[str, ...] = ()
    children: tuple[str, ...] = ()


class Listing(NamedTuple):
    """What `ansible-inventory --list` says."""

    groups: Mapping[str, Group]
    variables: Mapping[str, Mapping[str, Any]]
    """By host."""

    def members(self, group: str) -> set[str]:
        """Hosts of `group` and of all groups below it."""
        found: set[str] = set()
        seen: set[str] = set()
        queue = [group]
        while queue:
            name = queue.pop()
            if name not in seen:
                seen.add(name)
                below = self.groups.get(name, Group())
                found.update(below.hosts)
                queue += below.children
        return found


def read_inventory(path: Path) -> tuple[Expected, ...]:
    """The agents that the inventory `path` (whatever Ansible takes, or a saved list) names, sorted.

    They are the hosts of the group `flctl_agents` where there is one, else all hosts but
    those of `flctl_coordinator`. Raises UsageError with the reason; also when there are none: who
    asks which agents are missing has named the wrong file, or a broken one.
    """
    listing = list_hosts(path)
    # Of a group without hosts only its parents tell.
    if AGENTS in listing.groups or any(AGENTS in g.children for g in listing.groups.values()):
        names = listing.members(AGENTS)
    else:
        every = set(listing.variables).union(*(group.hosts for group in listing.groups.values()))
        names = every - listing.members(COORDINATOR)
    agents = {agent.name: agent for agent in sorted(_expected(n, listing, path) for n in names)}
    if not agents:
        raise _fault(path, f"names no agents: put their hosts into the group {AGENTS}")
    return tuple(agents.values())


def hosts_of(agents: Collection[str], path: Path) -> list[str]:
    """What the inventory calls these agents. Raises UsageError when it names none of them."""
    found = [each.called for each in read_inventory(path) if each.name in agents]
    if not found:
        raise _fault(path, f"names none of the chosen agents: {few(sorted(agents))}")
    return found


def list_hosts(path: Path, environment: Mapping[str, str] | None = None) -> Listing:
    """Read the saved list `path`, or ask Ansible. Raises UsageError."""
    if not path.exists():
        raise _fault(path, absent(path))
    saved = _saved(path)
    if saved is not None:
        return decode_list(saved, path)
    program = ansible(LISTING)
    if program is None:
        raise _fault(
            path,
            "Ansible, which reads inventories, is not installed here: pip install "
            f"'flctl[ansible]', or name the file that it writes elsewhere: {LISTING} -i FILE "
            "--list > fleet.json",
        )
    _expect_few(path)
    answer = _ask(program, path, environment)
    if answer.returncode and b"vault secrets" in answer.stderr:
        # What is needed here is seldom secret, and everything else is read without a password.
        with tempfile.TemporaryDirectory(prefix="flctl-inventory-") as folder:
            answer = _ask(program, _without_vaults(path, Path(folder)), environment)
    if answer.returncode:
        raise _fault(path, _reason(answer.stderr, path))
    return decode_list(answer.stdout, path)


def ansible(program: str) -> str | None:
    """The path of one of Ansible's programs; None where it is not installed."""
    beside = Path(sys.executable).with_name(program)
    return str(beside) if beside.is_file() else shutil.which(program)


def _saved(path: Path) -> bytes | None:
    """The content of a list that Ansible has written; None for any other inventory."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            if file.read(1) != b"{":
                return None
            data = b"{" + file.read(BYTES)
    except OSError as error:
        raise _fault(path, f"cannot read the inventory: {error.strerror}") from error
    if b'"_meta"' not in data:
        return None
    if len(data) > BYTES:
        raise _fault(path, f"larger than {BYTES} bytes; is this an inventory?")
    return data


def _ask(
    program: str, path: Path, environment: Mapping[str, str] | None
) -> "subprocess.CompletedProcess[bytes]":
    given = os.environ if environment is None else environment
    strict = {"ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "1", "ANSIBLE_NOCOLOR": "1"}
    command = [program, "--inventory", str(path), "--list"]
    try:
        return subprocess.run(
            command, env={**given, **strict}, stdin=subprocess.DEVNULL, capture_output=True,
            check=False, timeout=ANSWER_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise _fault(path, f"{LISTING} has not answered within {ANSWER_S:.0f} s") from error


def _without_vaults(path: Path, folder: Path) -> Path:
    """The inventory again, in `folder`, as links to all of its files but those wholly encrypted."""
    base = path if path.is_dir() else path.parent
    parts = [path] if path.is_dir() else [path, base / "host_vars", base / "group_vars"]
    for count, file in enumerate(file for part in parts for file in _files(part)):
        if count >= FILES:
            raise _fault(path, f"more than {FILES} files; is this an inventory?")
        with file.open("rb") as opened:
            if opened.read(len(VAULT)) == VAULT:
                continue
        link = folder / file.relative_to(base)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file.absolute())
    return folder if path.is_dir() else folder / path.name


def _expect_few(path: Path) -> None:
    """Raises UsageError where the ranges of hosts name too many."""
    hosts = 0
    for file in itertools.islice(_files(path), FILES):
        for number, host in _first_words(file):
            named = 1
            for begin, end, step in _RANGE.findall(host):
                named *= max(0, int(end) - int(begin) + 1) // max(1, int(step or 1)) or 1
            hosts += named if named > 1 else 0
            if hosts > MOST_HOSTS:
                what = f"{host[:80]} names {named:,} hosts" if named > 1 else host[:80]
                where = f"{file.name}, line {number}" if path.is_dir() else f"line {number}"
                raise _fault(path, f"{where}: {what}; {MOST_HOSTS:,} at most in all ranges")


def _first_words(file: Path) -> Iterator[tuple[int, str]]:
    """First word of each line with its number: a host, or a group."""
    if os.access(file, os.X_OK):
        return  # a program, which reports the hosts itself
    with contextlib.suppress(OSError):
        text = read_small(file, BYTES).decode(errors="replace")
        for number, line in enumerate(text.splitlines(), start=1):
            word = line.lstrip().removeprefix("- ").split(maxsplit=1)[:1]
            if word and not word[0].startswith(("#", ";")):
                yield number, word[0].strip("\"':")


def _files(part: Path) -> Iterator[Path]:
    if part.is_dir():
        yield from (file for file in part.rglob("*") if file.is_file())
    elif part.is_file():
        yield part


def _reason(stderr: bytes, path: Path) -> str:
    """What Ansible complains of, on one line: of the plugin for this kind of file."""
    said = stderr.decode(errors="replace")
    reasons = dict(_REASON.findall(said))
    kind = "yaml" if path.suffix in (".yml", ".yaml", ".json") else "ini"
    text = reasons.get(kind) or next(iter(reasons.values()), "")
    if "to unpack" in text or "invalid literal" in text:  # Python's words for a bracket
        odd = next(((n, w) for n, w in _first_words(path) if w.count("[") != w.count("]")), None)
        text = f"line {odd[0]}: '{odd[1][:80]}': unclosed bracket" if odd else (
            "not a range of hosts; write it as in pi-[01:12]"
        )  # fmt: skip
    where = re.search(rf"{re.escape(str(path))}:(\d+)", said)
    line = f"line {where[1]}: " if where else ""
    if not text:
        errors = [line for line in said.splitlines() if "ERROR" in line]
        text = errors[-1] if errors else f"{LISTING} failed without a message"
    return f"Ansible cannot read this inventory: {line}{text[:300]}"


def decode_list(data: bytes, path: Path) -> Listing:
    """What Ansible has written. Raises UsageError."""
    try:
        document = msgspec.json.decode(data, type=dict[str, Any])
        meta = msgspec.convert(document.pop("_meta", {}), dict[str, Any])
        variables = msgspec.convert(meta.get("hostvars", {}), dict[str, dict[str, Any]])
        groups = msgspec.convert(document, dict[str, Group])
    except (*NOT_DECODED, msgspec.ValidationError) as error:
        raise _fault(path, f"not what {LISTING} --list writes: {error}") from error
    return Listing(groups, variables)


def _expected(host: str, listing: Listing, path: Path) -> Expected:
    variables = listing.variables.get(host, {})
    name, address = variables.get("flctl_name", host), variables.get("ansible_host", host)
    try:
        name = msgspec.convert(name, AgentName)
    except msgspec.ValidationError as error:
        raise _fault(
            path,
            f"'{str(name)[:80]}' cannot be an agent's name (lower-case letters, digits and . _ -, "
            f"63 at most, such as pi-01); set flctl_name for the host {host[:80]}",
        ) from error
    # A template is Ansible's to evaluate; the name in the inventory says as much to a person.
    plain = isinstance(address, str) and "{{" not in address
    return Expected(name, address if plain else host, host, variables)


def _fault(path: Path, what: str) -> UsageError:
    return UsageError(f"{path}: {printable(what, kept='')}")
