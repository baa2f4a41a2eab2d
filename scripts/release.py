"""Makes a release: checks everything, builds everything into dist/VERSION, and says how to
publish it. `make release VERSION=0.2.0` runs it; CONTRIBUTING.md has the steps before it.

    python scripts/release.py VERSION [--no-images] [--publish]

Nothing leaves this machine without --publish, and that needs the owner's credentials.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import artefacts
from artefacts import Unfit

ROOT = artefacts.ROOT
VERSION = re.compile(r"(\d+\.\d+\.\d+)((?:a|b|rc)\d+)?")
CHECKED = "dist/checked"
"""The commit that `make check` has passed on, with nothing changed beside it."""
CREDENTIALS = {
    "the package index (TWINE_PASSWORD or ~/.pypirc)": ("TWINE_PASSWORD", "~/.pypirc"),
    "Ansible Galaxy (~/.ansible/galaxy_token)": ("", "~/.ansible/galaxy_token"),
    "the images (FLCTL_REGISTRY, after docker login)": ("FLCTL_REGISTRY", ""),
}


def git(*args: str, where: Path) -> str:
    done = subprocess.run(["git", *args], cwd=where, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def faults(version: str, root: Path = ROOT) -> Iterator[str]:
    """Each with what to do."""
    match = VERSION.fullmatch(version)
    if match is None:
        yield f"{version} is no version: X.Y.Z, or X.Y.Zrc1"
        return
    head = git("rev-parse", "HEAD", where=root)
    if git("status", "--porcelain", where=root):
        yield "there are changes that are not committed: commit them, or stash them"
    if git("rev-parse", "--verify", "--quiet", f"v{version}^{{commit}}", where=root) != head:
        yield f"HEAD is not v{version}: git tag -m 'flctl {version}' v{version}"
    following = re.search(r'^NEXT = "(.+)"', (root / "flctl/version.py").read_text(), re.MULTILINE)
    if following is None or following[1] != match[1]:
        yield f"flctl/version.py: NEXT is not {match[1]}"
    date = yield from _changelog_faults(version, root / "CHANGELOG.md")
    citation = (root / "CITATION.cff").read_text()
    for line in (f"version: {version}", f"date-released: {date}"):
        if not re.search(f"^{re.escape(line)}$", citation, re.MULTILINE):
            yield f"CITATION.cff: it has no line '{line}'"
    checked = root / CHECKED
    if not checked.exists() or checked.read_text().strip() != head:
        yield "make check has not passed on this commit: run it"


def _changelog_faults(version: str, path: Path) -> Iterator[str]:
    """Returns the date of the version."""
    text = path.read_text()
    heading = re.search(rf"^## \[{re.escape(version)}\] - (\d{{4}}-\d\d-\d\d)$", text, re.MULTILINE)
    if heading is None:
        yield f"{path.name}: it has no heading '## [{version}] - YYYY-MM-DD'"
    unreleased = text.partition("## [Unreleased]\n")[2].partition("\n## ")[0]
    if unreleased.strip():
        yield f"{path.name}: entries below Unreleased: move them to [{version}]"
    return heading[1] if heading else "YYYY-MM-DD"


def without_credentials(with_images: bool) -> str:
    """What --publish lacks, in words; empty when nothing is."""
    lacking = [
        what
        for what, (variable, file) in CREDENTIALS.items()
        if not os.environ.get(variable) and not (file and Path(file).expanduser().exists())
        if with_images or variable != "FLCTL_REGISTRY"
    ]
    return ", ".join(lacking)


def make(version: str, with_images: bool) -> Path:
    """The folder with all of it, complete or not there. Raises Unfit."""
    folder, new = ROOT / "dist" / version, ROOT / "dist" / f"{version}.new"
    for old in (folder, new):
        shutil.rmtree(old, ignore_errors=True)
    new.mkdir(parents=True)
    wheel, sources = artefacts.build(new)
    artefacts.inspect(wheel, version)
    artefacts.run(sys.executable, "-m", "twine", "check", "--strict", wheel, sources)
    print("built: wheel and sources, the same bytes twice")
    artefacts.try_out(wheel, version, git("rev-parse", "HEAD", where=ROOT))
    print("tried: the wheel in an empty environment")
    import collection

    collection.build(ROOT / "ansible", new)
    if with_images:
        print("building the images, which takes a while: --no-images leaves them out")
        artefacts.images(new, version)
        print("built: images and their bills of materials")
    artefacts.sums(new)
    new.rename(folder)
    return folder


def publishing(version: str, folder: Path, with_images: bool) -> Iterator[list[str]]:
    """The commands, in their order: what cannot be taken back comes last."""
    yield ["git", "push", "origin", f"v{version}"]
    if with_images:
        registry = os.environ.get("FLCTL_REGISTRY", "REGISTRY")
        for name in ("agent", "coordinator"):
            for tag in (version, f"{version}-arm64"):
                target = f"{registry}/flctl-{name}:{tag}"
                yield ["docker", "tag", f"flctl-{name}:{tag}", target]
                yield ["docker", "push", target]
    (playbooks,) = folder.glob("flctl-fleet-*.tar.gz")
    yield ["ansible-galaxy", "collection", "publish", str(playbooks)]
    packages = [str(path) for path in sorted(folder.glob(f"flctl-{version}*")) if path.is_file()]
    yield [sys.executable, "-m", "twine", "upload", "--non-interactive", *packages]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/release.py")
    parser.add_argument("version")
    parser.add_argument("--no-images", action="store_true", help="where there is no Docker")
    parser.add_argument("--publish", action="store_true", help="also publish it")
    given = parser.parse_args(arguments)
    with_images = not given.no_images
    found = list(faults(given.version))
    if given.publish and (lacking := without_credentials(with_images)):
        found.append(f"cannot publish without credentials for {lacking}")
    for fault in found:
        print(f"release: {fault}", file=sys.stderr)
    if found:
        return 1
    try:
        folder = make(given.version, with_images)
        print(f"{folder.relative_to(ROOT)}: {len(list(folder.iterdir()))} files, {artefacts.SUMS}")
        if not given.publish:
            print("publish it with --publish, or with these commands:")
        for command in publishing(given.version, folder, with_images):
            if given.publish:
                artefacts.run(*command)
            print(("done: " if given.publish else "  ") + " ".join(command))
    except Unfit as fault:
        print(f"release: {fault}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
