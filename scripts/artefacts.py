"""What a release consists of, built and tried: wheel, sources, playbooks, images."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SUMS = "SHA256SUMS"


class Unfit(Exception):
    """One line: what is wrong with what was built, and where."""


def run(*command: object, where: Path = ROOT, **environment: str) -> str:
    """The program's standard output. Raises Unfit."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words, cwd=where, env={**os.environ, **environment}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise Unfit(f"{' '.join(words)}: exit code {done.returncode}: {' '.join(last)}")
    return done.stdout


def build(to: Path, root: Path = ROOT) -> tuple[Path, Path]:
    """The wheel and the source distribution.

    The wheel is built from the sources that were packed, and once more from the checkout: both
    must have the same bytes. Raises Unfit.
    """
    times = {"SOURCE_DATE_EPOCH": run("git", "log", "-1", "--format=%ct", where=root).strip()}
    hatchling = (sys.executable, "-m", "hatchling", "build", "-d")
    run(*hatchling, to, "-t", "sdist", where=root, **times)
    (sources,) = to.glob("*.tar.gz")
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(sources) as archive:
            archive.extractall(folder, filter="data")
        (unpacked,) = Path(folder).iterdir()
        run(*hatchling, to, "-t", "wheel", where=unpacked, **times)
        (wheel,) = to.glob("*.whl")
        run(*hatchling, Path(folder, "again"), "-t", "wheel", where=root, **times)
        if Path(folder, "again", wheel.name).read_bytes() != wheel.read_bytes():
            raise Unfit(f"{wheel.name}: built from the checkout it differs from {sources.name}")
    return wheel, sources


def inspect(wheel: Path, version: str) -> None:
    """That it has what no command would miss. Raises Unfit."""
    names = set(zipfile.ZipFile(wheel).namelist())
    about = f"flctl-{version}"
    needed = {
        f"{about}.dist-info/licenses/LICENSE", f"{about}.data/data/share/man/man1/flctl.1",
        "flctl/build.json", "flctl/py.typed", "flctl/ansible/deploy.yml",
        "flctl/web/static/LICENSES.txt", "flctl/learning/data/ATTRIBUTION-ecg.txt",
    }  # fmt: skip
    if missing := sorted(needed - names):
        raise Unfit(f"{wheel.name} has no {', '.join(missing)}")
    if surplus := sorted(name for name in names if name.startswith(("tests/", "scripts/"))):
        raise Unfit(f"{wheel.name} has {surplus[0]}, which is not part of the package")


def try_out(wheel: Path, version: str, commit: str) -> None:
    """Installs it with what training needs into an empty environment, and uses it. It needs a
    package index. Raises Unfit."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        venv.create(home / "env", with_pip=True)
        programs = home / "env" / "bin"
        run(programs / "pip", "install", "--quiet", f"{wheel.absolute()}[train]", where=home)
        state = {"FLCTL_STATE": str(home / "state"), "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
        said = json.loads(run(programs / "flctl", "version", "--json", where=home, **state))
        if (said["version"], said["commit"]) != (version, commit):
            raise Unfit(f"{wheel.name} calls itself {said['version']}, commit {said['commit']}")
        arguments = ("train", "--task", "ecg", "--virtual", 2, "--rounds", 1)
        run(programs / "flctl", *arguments, where=home, **state)
        if not (home / "env/share/man/man1/flctl-train.1").is_file():
            raise Unfit(f"{wheel.name}: its manual pages are not where man looks")


def images(to: Path, version: str) -> None:
    """All images by this version, and what is in each. Needs Docker. Raises Unfit."""
    run("scripts/image/build", "all", TAG=version)
    for name in ("agent", "coordinator"):
        for tag in (version, f"{version}-arm64"):
            shutil.copy(ROOT / "dist" / f"flctl-{name}-{tag}.cdx.json", to)


def sums(folder: Path) -> Path:
    """Of every file in it, in the form that `sha256sum --check` reads."""
    made = folder / SUMS
    made.write_text("".join(_lines(path for path in folder.iterdir() if path != made)))
    return made


def _lines(paths: Iterable[Path]) -> Iterable[str]:
    for path in sorted(paths):
        yield f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
