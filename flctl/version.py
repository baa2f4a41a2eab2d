"""Which version this is. A release has that of its git tag; everything else is NEXT.dev0.

A wheel, a source distribution and an image carry build.json, written when they were built; a
checkout asks git. Only the standard library: the build and scripts/ run this file by itself.
"""

import json
import os
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import NamedTuple

NEXT = "0.2.0"
"""The release that this code leads to. One number for all commits between two releases: it names
images (`flctl emulate` looks for that of this version), and the commit is a field of its own."""
PACKAGE = Path(__file__).resolve().parent
BUILT = "build.json"
COMMIT = "FLCTL_COMMIT"
"""Set in images, whose layers do not depend on the commit."""
DESCRIBED = re.compile(r"(?:v(?P<tag>.+)-(?P<distance>\d+)-g)?(?P<commit>[0-9a-f]{40})")
GIT_S = 5.0


class Version(NamedTuple):
    version: str
    commit: str | None

    def as_json(self) -> str:
        return json.dumps(self._asdict()) + "\n"


@cache
def version_of(package: Path = PACKAGE) -> Version:
    """Of the folder with the package's modules."""
    try:
        found = Version(**json.loads((package / BUILT).read_text()))
    except FileNotFoundError:
        found = described(git_describe(package.parent))
    commit = found.commit or os.environ.get(COMMIT, "")
    return found._replace(commit=commit if re.fullmatch("[0-9a-f]{40}", commit) else None)


def described(text: str) -> Version:
    """What `git describe` says: v0.2.0-0-gCOMMIT at a tag, COMMIT alone where no tag is known."""
    match = DESCRIBED.fullmatch(text)
    if match is None:
        return Version(f"{NEXT}.dev0", None)
    released = match["tag"] is not None and match["distance"] == "0"
    return Version(match["tag"] if released else f"{NEXT}.dev0", match["commit"])


def git_describe(root: Path) -> str:
    """Empty where `root` is no checkout of flctl, or git does not answer."""
    if not ((root / ".git").exists() and (root / "pyproject.toml").exists()):
        return ""
    command = ["git", f"--git-dir={root / '.git'}", "describe", "--tags", "--long", "--always"]
    command += ["--abbrev=40", "--match=v[0-9]*"]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=True,
            timeout=GIT_S,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


if __name__ == "__main__":
    print(version_of().version)
