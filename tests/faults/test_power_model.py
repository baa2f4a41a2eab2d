"""The model of a disk that loses power, against a real process that writes."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from bed import UNDER
from power import Disk, File

pytestmark = pytest.mark.smoke

WRITER = """
import os, sys
from pathlib import Path
root = Path(sys.argv[1])
os.chdir(root)
def sync(path):
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
Path("old").write_text("changed")
with open("both", "wb") as file:
    file.write(b"both")
    file.flush()
    os.fsync(file.fileno())
Path("name").write_text("its bytes are lost")
Path("made").mkdir()
sync(".")
with open("bytes", "wb") as file:
    file.write(b"its name is lost")
    file.flush()
    os.fsync(file.fileno())
Path("made/inside").write_text("folder not synced")
os.rename("both", "renamed")
os.link("renamed", "linked")
"""


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    root = tmp_path / "root"
    root.mkdir()
    (root / "old").write_text("old")
    made = Disk(root)
    record = tmp_path / "record"
    faults = {"record": str(record), "root": str(root)}
    subprocess.run(
        [sys.executable, "-c", WRITER, root],
        check=True,
        env={**os.environ, "PYTHONPATH": str(UNDER), "FLCTL_FAULTS": json.dumps(faults)},
    )
    made.replay(record)
    return made


def there(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()
    }


def test_the_worst_disk_holds_what_was_synced_and_nothing_else(disk: Disk):
    """Bytes and names each have an fsync of their own, and a rename needs the folder's."""
    before = there(disk.root)
    disk.rebuild("worst", random.Random(0))
    assert there(disk.root) == {"old": "old", "both": "both", "name": ""}
    assert (disk.root / "made").is_dir()
    disk.rebuild("names", random.Random(0))
    assert there(disk.root) == {
        "old": "old", "renamed": "both", "linked": "both", "name": "", "made/inside": "",
        "bytes": "its name is lost",
    }  # fmt: skip
    assert (disk.root / "linked").samefile(disk.root / "renamed")
    disk.rebuild("bytes", random.Random(0))
    assert there(disk.root) == {"old": "changed", "both": "both", "name": "its bytes are lost"}
    assert before["made/inside"] == "folder not synced", "the record is not what changes the folder"


def test_a_mixed_disk_is_the_same_for_the_same_seed(disk: Disk):
    seen = []
    for seed in (1, 1, 2, 3, 4, 5):
        disk.rebuild("mixed", random.Random(seed))
        seen.append(there(disk.root))
        assert "both" in seen[-1].values()
    assert seen[0] == seen[1]
    assert any(other != seen[0] for other in seen[2:])


def test_blocks_that_were_not_written_are_zeros():
    """A length that came before its bytes, as disks know it."""
    file = File(b"")
    file.writes = [(0, b"a" * 512), (512, b"b" * 512), (1024, b"c" * 512)]
    found = {bytes(dict.fromkeys(file.some(random.Random(seed)))) for seed in range(40)}
    assert b"abc" in found and b"\0b" in found and b"\0c" in found and b"" in found


def test_a_file_that_went_to_another_folder_may_have_both_names_or_none(tmp_path: Path):
    """Each folder is synced by itself."""
    root = tmp_path / "root"
    for name in ("one", "two"):
        (root / name).mkdir(parents=True)
    (root / "one/file").write_text("bytes")
    for sync, left in ((False, {"one/file"}), (True, {"one/file", "two/moved"})):
        number = (root / "two").stat().st_ino
        disk = Disk(root)
        record = tmp_path / "record"
        lines: list[list[object]] = [["rename", f"{disk.root}/one/file", f"{disk.root}/two/moved"]]
        lines += [["sync", number]] if sync else []
        record.write_text("".join(json.dumps(line) + "\n" for line in lines))
        disk.replay(record)
        disk.rebuild("worst", random.Random(0))
        assert there(root).keys() == left
