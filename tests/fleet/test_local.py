"""The folder of local agents: gone with its process, or with the next one."""

import tempfile

from flctl.files import Lock
from flctl.fleet.local import PREFIX, agents_folder


def test_what_kill_9_has_left_is_removed_at_the_next_start(tmp_path, monkeypatch):
    """The folder of a process that is gone; not one in use, nor a stranger's, nor a link."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left, used, other, link = (
        tmp_path / name for name in (f"{PREFIX}left", f"{PREFIX}used", "flctl-x", f"{PREFIX}link")
    )
    for folder in (left, used, other):
        (folder / "keys").mkdir(parents=True)
        (folder / "lock").touch()
    link.symlink_to(other)
    lock = Lock(used / "lock", "busy")
    with agents_folder() as own:
        assert own.parent == tmp_path and own.stat().st_mode & 0o777 == 0o700
        assert sorted(tmp_path.iterdir()) == sorted([used, other, link, own])
        with agents_folder() as another:
            assert own.exists() and another != own
    assert sorted(tmp_path.iterdir()) == sorted([used, other, link])
    lock.release()
