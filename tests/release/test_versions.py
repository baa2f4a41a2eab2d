"""Where the version comes from: a tag, a build, or neither."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from flctl.settings import SCHEMA
from flctl.version import BUILT, NEXT, described, version_of
from flctl.wire.framing import PROTOCOL

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
GIT = ("git", "-c", "user.name=x", "-c", "user.email=x", "-c", "commit.gpgsign=false")


@pytest.mark.parametrize(
    ("text", "version", "commit"),
    [
        (f"v0.3.1-0-g{COMMIT}", "0.3.1", COMMIT),
        (f"v0.3.0rc1-0-g{COMMIT}", "0.3.0rc1", COMMIT),
        (f"v0.1.0-12-g{COMMIT}", f"{NEXT}.dev0", COMMIT),
        (COMMIT, f"{NEXT}.dev0", COMMIT),
        ("", f"{NEXT}.dev0", None),
        ("fatal: no names found", f"{NEXT}.dev0", None),
    ],
)
def test_what_git_says_is_a_release_only_at_its_tag(text, version, commit):
    assert described(text) == (version, commit)


@pytest.fixture
def checkout(tmp_path):
    """A repository with the module that asks, as a clone has it."""
    (tmp_path / "flctl").mkdir()
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "flctl" / "version.py").write_text((ROOT / "flctl/version.py").read_text())
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "-m", "x"]):
        subprocess.run([*GIT, *command], cwd=tmp_path, check=True)
    return tmp_path


def asked(folder: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-I", folder / "flctl" / "version.py"],
        capture_output=True, text=True, check=True, cwd="/", env={**os.environ, **environment},
    )  # fmt: skip
    return done.stdout.strip()


def test_a_clone_has_the_version_of_its_tag(checkout):
    """Not before it, and not after the next commit; from any folder."""
    assert asked(checkout) == f"{NEXT}.dev0"
    subprocess.run([*GIT, "tag", "-m", "x", "v7.8.9"], cwd=checkout, check=True)
    assert asked(checkout) == "7.8.9"
    subprocess.run(
        [*GIT, "commit", "--quiet", "--allow-empty", "-m", "y"], cwd=checkout, check=True
    )
    assert asked(checkout) == f"{NEXT}.dev0"


def test_without_git_the_version_is_that_of_the_next_release(checkout, tmp_path):
    """An archive of the sources, and a machine where git is not installed."""
    assert asked(checkout, PATH="/nonexistent") == f"{NEXT}.dev0"
    (checkout / ".git").rename(tmp_path / "gone")
    assert asked(checkout) == f"{NEXT}.dev0"


def test_a_build_carries_its_version(tmp_path, monkeypatch):
    """An image's has no commit in it: that comes from the environment."""
    package = tmp_path / "flctl"
    package.mkdir()
    (package / BUILT).write_text('{"version": "1.2.3", "commit": null}')
    assert version_of(package) == ("1.2.3", None)
    version_of.cache_clear()
    monkeypatch.setenv("FLCTL_COMMIT", COMMIT)
    assert version_of(package) == ("1.2.3", COMMIT)
    version_of.cache_clear()
    monkeypatch.setenv("FLCTL_COMMIT", "unknown")
    assert version_of(package) == ("1.2.3", None)


def test_images_get_their_version_and_their_commit():
    """The build has no git: scripts/image/build brings both, and the last layers have them."""
    build = (ROOT / "scripts/image/build").read_text()
    assert 'flctl/build.json"' in build and "build_hook.py" in build
    for name in ("Dockerfile.arm64", "Dockerfile.coordinator"):
        text = (ROOT / name).read_text()
        assert "COPY scripts/build_hook.py ./scripts/" in text
        assert "ENV FLCTL_COMMIT=${REVISION}" in text
        assert text.index("ENV FLCTL_COMMIT") > text.index("COPY --from=build /opt/own")
    assert "!scripts/build_hook.py" in (ROOT / ".dockerignore").read_text()


def test_flctl_version_says_what_it_works_with(flctl, monkeypatch):
    """As JSON with its keys in this order; torch is not loaded for its version."""
    found = json.loads(flctl("version", "--json").out)
    assert list(found) == ["version", "commit", "protocol", "schema", "python", "torch", "pyzmq"]
    assert (found["version"], found["protocol"]) == (version_of().version, PROTOCOL)
    assert found["schema"] == SCHEMA
    assert re.match(r"\d+\.\d+", found["pyzmq"])
    code = "import sys; from flctl.cli.errors import run; from flctl.cli.app import app;"
    code += "run(app, ['version']); sys.exit('torch' in sys.modules or 'zmq' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(rf"^protocol +{PROTOCOL}$", done.stdout, re.MULTILINE)


def test_the_citation_and_the_licence_are_those_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"license: {project['license']}" in citation
    assert project["license-files"][0] == "LICENSE"
    assert "Apache License" in (ROOT / "LICENSE").read_text()
