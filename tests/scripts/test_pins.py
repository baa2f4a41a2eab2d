"""What `make check` says of the packages that the images hold, without a network."""

import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))
sys.path.insert(0, str(SCRIPTS / "image"))

import audit  # noqa: E402
import wanted  # noqa: E402

HASH = "    --hash=sha256:" + "0" * 64


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose images are made as they should be."""
    (tmp_path / "scripts" / "image").mkdir(parents=True)
    (tmp_path / "scripts/image/lock.txt").write_text(f"rich==15.0.0 \\\n{HASH}\n    # via flctl\n")
    pin = f'torch==2.9.1 ; platform_machine == "aarch64" \\\n{HASH}\n'
    (tmp_path / "scripts/image/torch.txt").write_text(pin)
    base = f"ARG BASE_IMAGE=debian:bookworm-slim@sha256:{'0' * 64}\n"
    (tmp_path / "Dockerfile.arm64").write_text(base)
    monkeypatch.setattr(audit, "ROOT", tmp_path)
    return tmp_path


def test_the_images_of_this_checkout_are_pinned():
    assert list(audit.image_faults()) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "fault"),
    [
        ("scripts/image/lock.txt", HASH, "", "lock.txt: rich 15.0.0 has no hash: run make lock"),
        ("scripts/image/torch.txt", HASH, "", "torch.txt: torch 2.9.1 has no hash: run make lock"),
        ("scripts/image/torch.txt", "2.9.1", "2.10.0", "torch.txt: torch 2.10.0: dies with SIGILL"),
        (
            "Dockerfile.arm64",
            "@sha256",
            ":sha256",
            "Dockerfile.arm64: its BASE_IMAGE has no",
        ),
    ],
)
def test_what_is_not_pinned_or_known_to_be_bad_is_named(
    root: Path, file: str, old: str, new: str, fault: str
):
    assert list(audit.image_faults()) == []
    path = root / file
    path.write_text(path.read_text().replace(old, new))
    (found,) = audit.image_faults()
    assert found.startswith(fault)


def test_each_layer_gets_its_own_part_of_the_lock():
    """Together they are the whole lock, with no package in two layers of the image."""
    lock = wanted.locked((SCRIPTS / "image" / "lock.txt").read_text())
    torch, build, flctl = (
        set(wanted.locked(wanted.main(layer)))
        for layer in ("torch", "build", "flctl[train,plot,backup,web]")
    )
    assert {"sympy", "mpmath", "jinja2", "markupsafe"} <= torch
    assert {"pyzmq", "matplotlib", "pyrage"} <= flctl
    assert not torch & flctl
    assert torch | build | flctl == lock.keys()


def test_an_extra_that_is_not_locked_is_refused_in_one_line():
    with pytest.raises(SystemExit, match=r"lock.txt has no pandas, wfdb: run make lock"):
        wanted.main("flctl[wfdb]")
