"""Takes from lock.txt what one layer of an image needs, and prints it for pip.

    python3 wanted.py torch              what torch needs, without torch itself
    python3 wanted.py build              what builds wheels
    python3 wanted.py flctl[EXTRAS]      what flctl needs besides, with extras (names with commas)

A package of lock.txt says in its comment which others need it (`# via`): so that a new version
of one that only flctl needs leaves the layer with torch as it is.
"""

import re
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
PIN = re.compile(r"^([a-z0-9][a-z0-9.-]*)==", re.MULTILINE)


def locked(text: str) -> dict[str, tuple[str, set[str]]]:
    """The lines of each package, and the packages that need it."""
    starts = [*PIN.finditer(text)]
    ends = [start.start() for start in starts[1:]] + [len(text)]
    found = {}
    for start, end in zip(starts, ends, strict=True):
        lines, _, why = text[start.start() : end].partition("    # via")
        found[start[1]] = (lines, set(re.findall(r"[a-z0-9][a-z0-9.-]*", why)))
    return found


def needed_by(first: set[str], lock: dict[str, tuple[str, set[str]]]) -> set[str]:
    """`first`, as far as it is locked, and all that these need."""
    found = first & lock.keys()
    while more := {name for name, (_, why) in lock.items() if why & found} - found:
        found |= more
    return found


def canonical(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def main(layer: str) -> str:
    lock = locked((HERE / "lock.txt").read_text())
    of_torch = needed_by({name for name, (_, why) in lock.items() if "torch" in why}, lock)
    if layer == "torch":
        wanted = of_torch
    elif layer == "build":
        wanted = needed_by({"hatchling"}, lock)
    else:
        project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
        asked = list(project["dependencies"])
        for extra in filter(None, layer.removeprefix("flctl").strip("[]").split(",")):
            asked += project["optional-dependencies"][extra]
        first = {canonical(text) for text in asked} - {"torch"}
        if missing := sorted(first - lock.keys()):
            sys.exit(f"scripts/image/lock.txt has no {', '.join(missing)}: run make lock")
        wanted = needed_by(first, lock) - of_torch
    return "".join(lock[name][0] for name in sorted(wanted))


if __name__ == "__main__":
    print(main(sys.argv[1]), end="")
