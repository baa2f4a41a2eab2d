"""What flctl and its images bring along, looked at without a network: `make check` runs it.

    python scripts/audit.py

Everything that flctl and its extras ask for, directly or not, is installed here in a version
that fits (`pip check` says so), under a licence of LICENCES, and in none of the versions of
known-bad.toml. The same of the versions that the images hold, each of which has a hash; their
base is named by its digest. What it cannot know is what was published since: `make audit` asks
for that.
"""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

KNOWN_BAD = Path(__file__).with_name("known-bad.toml")
LICENCES = re.compile(
    r"Apache|MIT|BSD|ISC|PSF|Python Software Foundation|MPL|Mozilla Public|HPND|Zlib|Unlicense"
    r"|OSI Approved :: BSD|^DFSG approved$",
    re.IGNORECASE,
)
ROOT = KNOWN_BAD.parents[1]
PIN = re.compile(
    r"^([a-z0-9.-]+)==([^ ;]+)(.*(?:\n    --hash=sha256:[0-9a-f]{64}.*)*)", re.MULTILINE
)
BASE = re.compile(r"^ARG BASE_IMAGE=\S+@sha256:[0-9a-f]{64}$", re.MULTILINE)
PROGRAMS = {"ansible", "ansible-core", "ansible-lint", "yamllint"}
"""Under the GPL, which is theirs: flctl runs them as programs of their own, and what
its modules for Ansible import of it is under the BSD licence."""
TEXT_CHARACTERS = 2000
"""Some put the text of their licence where its name belongs."""


def closure(name: str) -> dict[str, Distribution]:
    """The distribution and everything that it needs, with all of its extras."""
    found: dict[str, Distribution] = {}
    first = distribution(name)
    extras = tuple(first.metadata.get_all("Provides-Extra") or ())
    waiting = [(name, extras)]
    while waiting:
        name, extras = waiting.pop()
        key = canonicalize_name(name)
        if key in found and not extras:
            continue
        try:
            found[key] = distribution(name)
        except PackageNotFoundError:
            continue  # of an extra that is not installed here
        for text in found[key].requires or ():
            needed = Requirement(text)
            wanted = (*extras, "")
            if needed.marker and not any(needed.marker.evaluate({"extra": e}) for e in wanted):
                continue
            if canonicalize_name(needed.name) not in found:
                waiting.append((needed.name, tuple(needed.extras)))
    return found


def licence_of(package: Distribution) -> str:
    told = package.metadata
    named = [c for c in told.get_all("Classifier") or () if c.startswith("License")]
    return str(
        told.get("License-Expression")
        or " ".join(c.rpartition(":: ")[2] for c in named)
        or (told.get("License") or "")[:TEXT_CHARACTERS]
        or _licence_file(package)
    )


def _licence_file(package: Distribution) -> str:
    """The beginning of what `License-File` names: some say nothing else."""
    for name in package.metadata.get_all("License-File") or ():
        text = package.read_text(f"licenses/{name}") or package.read_text(name)
        if text:
            return " ".join(text[:TEXT_CHARACTERS].split())
    return ""


def known_bad(name: str, version: str) -> Iterator[str]:
    for versions, why in tomllib.loads(KNOWN_BAD.read_text()).get(name, {}).items():
        if SpecifierSet(versions).contains(version, prereleases=True):
            yield f"{name} {version}: {why}"


def image_faults() -> Iterator[str]:
    """What the images are made of: every version has a hash, and every base a digest."""
    for path in (ROOT / "scripts/image/lock.txt", ROOT / "scripts/image/torch.txt"):
        for name, version, hashes in PIN.findall(path.read_text()):
            if "--hash=sha256:" not in hashes:
                yield f"{path.name}: {name} {version} has no hash: run make lock"
            yield from (f"{path.name}: {fault}" for fault in known_bad(name, version))
    for path in sorted(ROOT.glob("Dockerfile.*")):
        if not BASE.search(path.read_text()):
            yield f"{path.name}: its BASE_IMAGE has no digest"


def faults(packages: dict[str, Distribution]) -> Iterator[str]:
    for name, package in sorted(packages.items()):
        if name not in PROGRAMS and not LICENCES.search(licence_of(package)):
            yield f"{name} {package.version}: licence {licence_of(package)[:60]!r} is not accepted"
        yield from known_bad(name, package.version)
    for text in distribution("flctl").requires or ():
        needed = Requirement(text)
        if not needed.specifier and not needed.name.startswith(("types-", "flctl")):
            yield f"{needed.name}: pyproject.toml names no version"


def main() -> int:
    packages = closure("flctl")
    found = [*faults(packages), *image_faults()]
    checked = subprocess.run(
        [sys.executable, "-m", "pip", "check", "--disable-pip-version-check"],
        capture_output=True,
        text=True,
        check=False,
    )
    if checked.returncode:
        found += checked.stdout.splitlines()
    for line in found:
        print(f"audit: {line}", file=sys.stderr)
    print(f"audit: {len(packages)} packages, {len(found)} faults (advisories: make audit)")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
