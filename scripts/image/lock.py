"""Makes lock.txt: what flctl, its extras of the images, and the build need, each with the hashes
of its files. `make lock` runs it; torch has a file of its own, torch.txt.

    python scripts/image/lock.py [PACKAGE ...]     the newest of all, or only of these
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

LOCK = Path(__file__).with_name("lock.txt")
ROOT = LOCK.parents[2]
EXTRAS = ("train", "images", "plot", "backup", "web")
"""Those that the Dockerfiles install; `wanted.py` refuses others."""
HEAD = (
    "# Every package of the images, with the hashes of its files: made by make lock. "
    "torch: torch.txt.\n"
)


def compiled(upgrade: list[str]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        build, out = Path(folder, "build.in"), Path(folder, "lock.txt")
        build.write_text("hatchling\n")
        if upgrade and LOCK.exists():
            out.write_text(LOCK.read_text())  # what is not named stays as it is
        command = [
            sys.executable, "-m", "piptools", "compile", "--quiet", "--generate-hashes",
            "--strip-extras", "--no-header", "--no-emit-find-links", "--no-emit-index-url",
            "--unsafe-package", "torch", "--output-file", str(out),
            *(f"--extra={extra}" for extra in EXTRAS),
            *(f"--upgrade-package={name}" for name in upgrade),
            "pyproject.toml", str(build),
        ]  # fmt: skip
        done = subprocess.run(command, cwd=ROOT, check=False)
        if done.returncode:
            sys.exit("scripts/image/lock.py: no versions fit together, or no index answers")
        text = out.read_text().replace(str(build), "build")
    return HEAD + re.sub(r"^(#.*)?\n", "", text, flags=re.MULTILINE)


if __name__ == "__main__":
    text = compiled(sys.argv[1:])
    new = LOCK.with_suffix(".new")
    new.write_text(text)
    new.replace(LOCK)
    print(f"{LOCK.relative_to(ROOT)}: {len(re.findall('^[a-z0-9]', text, re.MULTILINE))} packages")
