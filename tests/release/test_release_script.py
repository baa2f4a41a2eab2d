"""make release stops at everything that is missing, and builds the same bytes twice."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import artefacts  # noqa: E402
import release  # noqa: E402

from flctl.version import version_of  # noqa: E402

GIT = ("git", "-c", "user.name=x", "-c", "user.email=x", "-c", "commit.gpgsign=false")
CHANGELOG = "# Changelog\n\n## [Unreleased]\n\n## [0.2.0] - 2026-11-28\n\n### Added\n\n- All.\n"
CITATION = "cff-version: 1.2.0\nversion: 0.2.0\ndate-released: 2026-11-28\n"


class Checkout:
    """In which version 0.2.0 could be released."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.git("init", "--quiet")
        self.write("CHANGELOG.md", CHANGELOG)
        self.write("CITATION.cff", CITATION)
        self.write("flctl/version.py", 'NEXT = "0.2.0"\n')
        self.write(".gitignore", "/dist/\n")
        self.commit()

    def git(self, *args: str) -> str:
        command = [*GIT, *args]
        return subprocess.run(
            command, cwd=self.folder, check=True, capture_output=True, text=True
        ).stdout.strip()

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "-m", "x")
        self.git("tag", "--force", "-m", "flctl 0.2.0", "v0.2.0")
        self.write("dist/checked", self.git("rev-parse", "HEAD"))

    @property
    def faults(self) -> list[str]:
        return list(release.faults("0.2.0", self.folder))


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def test_a_release_that_is_ready_has_no_faults(checkout):
    assert checkout.faults == []


@pytest.mark.parametrize("version", ["v0.2.0", "0.2", "0.2.0.dev0", "latest", "0.2.0+x", ""])
def test_only_a_version_is_released(version, checkout):
    (fault,) = release.faults(version, checkout.folder)
    assert "is no version" in fault


def test_a_change_that_is_not_committed_is_named(checkout):
    checkout.write("new", "")
    assert "not committed" in checkout.faults[0]


def test_the_tag_belongs_to_this_commit(checkout):
    checkout.git("commit", "--quiet", "--allow-empty", "-m", "y")
    assert "HEAD is not v0.2.0: git tag -m 'flctl 0.2.0' v0.2.0" in checkout.faults
    assert any("make check has not passed" in fault for fault in checkout.faults)


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        ("CHANGELOG.md", "## [0.2.0] - 2026-11-28", "## [0.2.0]", "no heading"),
        ("CHANGELOG.md", "\n\n## [0.2.0]", "\n\n- Late.\n\n## [0.2.0]", "below Unreleased"),
        ("CITATION.cff", "0.2.0", "0.1.0", "no line 'version: 0.2.0'"),
        ("CITATION.cff", "2026-11-28", "2026-11-27", "no line 'date-released: 2026-11-28'"),
        ("flctl/version.py", "0.2.0", "0.3.0", "NEXT is not 0.2.0"),
    ],
)
def test_a_text_that_is_behind_is_named(checkout, file, old, new, expected):
    """One line, with the file."""
    checkout.write(file, (checkout.folder / file).read_text().replace(old, new, 1))
    checkout.commit()
    found = [fault for fault in checkout.faults if expected in fault]
    assert len(found) == 1
    assert found[0].startswith(f"{file}: ")


def test_without_credentials_nothing_is_published(capsys, monkeypatch, tmp_path):
    """One line names all that are missing, before anything is built."""
    monkeypatch.setattr(release, "faults", lambda version: [])
    monkeypatch.setattr(release, "make", lambda *_: pytest.fail("it built something"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in ("TWINE_PASSWORD", "FLCTL_REGISTRY"):
        monkeypatch.delenv(variable, raising=False)
    assert release.main(["0.2.0", "--publish"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert all(name in said for name in ("TWINE_PASSWORD", "galaxy_token", "FLCTL_REGISTRY"))
    assert release.main(["0.2.0", "--publish", "--no-images"]) == 1
    assert "FLCTL_REGISTRY" not in capsys.readouterr().err


def test_the_index_comes_last(tmp_path):
    """What is uploaded there cannot be taken back."""
    names = ("flctl-0.2.0-py3-none-any.whl", "flctl-0.2.0.tar.gz", "flctl-fleet-0.2.0.tar.gz")
    for name in (*names, "flctl-agent-0.2.0.cdx.json"):
        (tmp_path / name).touch()
    *before, last = release.publishing("0.2.0", tmp_path, with_images=True)
    assert last[-2:] == [str(tmp_path / name) for name in names[:2]]
    assert before[0] == ["git", "push", "origin", "v0.2.0"]
    pushed = [command[-1] for command in before if command[:2] == ["docker", "push"]]
    assert [name.partition("/")[2] for name in pushed] == [
        "flctl-agent:0.2.0", "flctl-agent:0.2.0-arm64",
        "flctl-coordinator:0.2.0", "flctl-coordinator:0.2.0-arm64",
    ]  # fmt: skip


def test_wheel_and_sources_are_built_the_same_twice(tmp_path):
    """`build` compares the wheel of the packed sources with that of the checkout, byte by byte."""
    wheel, sources = artefacts.build(tmp_path)
    version = version_of().version
    assert sources.name == f"flctl-{version}.tar.gz"
    artefacts.inspect(wheel, version)
    text = artefacts.sums(tmp_path).read_text()
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert f"{digest}  {wheel.name}\n" in text and artefacts.SUMS not in text


def test_a_wheel_without_a_licence_is_refused(tmp_path):
    import zipfile

    wheel = tmp_path / "flctl-1.0.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("flctl/py.typed", "")
    with pytest.raises(artefacts.Unfit, match=r"has no .*licenses/LICENSE"):
        artefacts.inspect(wheel, "1.0.0")
