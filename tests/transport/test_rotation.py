"""The server's key and the one that is to replace it, as files."""

import json

import pytest

from flctl.errors import StateError, UsageError
from flctl.transport import rotation
from flctl.transport.keypair import load_or_make
from flctl.transport.keys import Keyring
from flctl.transport.rotation import KeyRotation

DAY = 86_400.0
NOW = 1_700_000_000.0


def keys_in(folder):
    return KeyRotation(folder, lambda: NOW)


def test_one_key_until_a_rotation_begins(tmp_path):
    keys = keys_in(tmp_path)
    assert keys.public == (keys.current.public,)
    assert keys.next is None and keys.overlap is None
    assert not (tmp_path / "rotation.json").exists()


def test_both_are_good_from_the_beginning_to_the_end(tmp_path):
    """The new one comes first; the secret half is for its owner only."""
    keys = keys_in(tmp_path)
    old = keys.current.public
    begun = keys.begin(7 * DAY)
    assert begun.ends == NOW + 7 * DAY
    again = keys_in(tmp_path)
    assert again.public == keys.public == (begun.new, old)
    assert again.next is not None and again.next.public == begun.new != old
    assert (tmp_path / "next.key").stat().st_mode & 0o777 == 0o600
    with pytest.raises(UsageError, match="is already being replaced"):
        again.begin(DAY)
    again.finish()
    after = keys_in(tmp_path)
    assert after.public == (begun.new,) and after.overlap is None
    assert after.rotation is not None and after.rotation.old == old
    assert load_or_make(tmp_path / "server.key").public == begun.new
    assert not (tmp_path / "next.key").exists() and not (tmp_path / "next.pub").exists()
    assert after.begin(DAY).old == begun.new


def test_an_abort_leaves_the_old_one(tmp_path):
    """The key that was to come is not used again."""
    keys = keys_in(tmp_path)
    first = keys.begin(DAY)
    keys.abort()
    again = keys_in(tmp_path)
    assert again.public == (first.old,)
    assert again.begin(DAY).new != first.new
    with pytest.raises(UsageError, match="no server key is being replaced"):
        keys_in(tmp_path / "other").abort()
    with pytest.raises(UsageError, match="no server key is being replaced"):
        keys_in(tmp_path / "other").finish()


@pytest.mark.parametrize("step", ["begin", "finish", "abort"])
def test_cut_off_anywhere_a_rotation_has_begun_or_ended_or_not(tmp_path, step, monkeypatch):
    """After each write, rename or removal the power fails; then the same command does it."""
    for cut in range(12):
        folder = tmp_path / f"{step}-{cut}"
        keys = keys_in(folder)
        if step != "begin":
            keys.begin(DAY)
        good = set(keys.public)
        calls = iter(range(100))

        def count(real, calls=calls, cut=cut):
            def call(*arguments, **options):
                beside = getattr(arguments[0], "name", "").startswith(".")  # a temporary file
                if not beside and next(calls) == cut:
                    raise KeyboardInterrupt
                return real(*arguments, **options)

            return call

        with monkeypatch.context() as patch:
            for name in ("replace", "sync_folder", "load_or_make"):
                patch.setattr(rotation, name, count(getattr(rotation, name)))
            for name in ("replace", "unlink"):
                patch.setattr(rotation.Path, name, count(getattr(rotation.Path, name)))
            try:
                getattr(keys, step)(*([DAY] if step == "begin" else []))
                done = True
            except KeyboardInterrupt:
                done = False
        again = keys_in(folder)
        assert again.current.public in again.public
        assert step == "begin" or set(again.public) <= good
        pair = again.next  # raises if the two files do not agree
        if again.overlap is None and step == "begin":
            again.begin(DAY)
        elif again.overlap is not None and step != "begin":
            assert pair is not None
            getattr(again, step)()
        last = keys_in(folder)
        assert (last.overlap is not None) == (step == "begin")
        if done:
            return
    raise AssertionError("it never came to its end")


def test_a_new_key_that_is_lost_is_not_made_again(tmp_path):
    """Agents were told another one. It can be put back, or the rotation ended."""
    keys = keys_in(tmp_path)
    keys.begin(DAY)
    (tmp_path / "next.key").unlink()
    again = keys_in(tmp_path)
    with pytest.raises(StateError, match="put it back from a backup, or end the rotation"):
        _ = again.next
    again.abort()
    assert keys_in(tmp_path).overlap is None


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"schema": 1}', b"\xff"])
def test_a_damaged_file_is_an_error(tmp_path, damage):
    keys_in(tmp_path).begin(DAY)
    (tmp_path / "rotation.json").write_bytes(damage)
    with pytest.raises(StateError, match=r"rotation\.json: damaged"):
        keys_in(tmp_path)


def test_a_rotation_has_bounds(tmp_path):
    for overlap_s in (0.0, -1.0, 91 * DAY, float("inf"), float("nan")):
        with pytest.raises(UsageError, match="from 1m to 90d"):
            keys_in(tmp_path).begin(overlap_s)
    assert not (tmp_path / "next.key").exists()


def test_neither_of_the_servers_keys_can_be_enrolled(tmp_path):
    keyring = Keyring(tmp_path / "keys")
    new = keyring.server_keys.begin(DAY).new
    for key in (new, keyring.server.public):
        with pytest.raises(UsageError, match="the coordinator's own key"):
            keyring.add("pi-01", key, "agent")
    assert json.loads((tmp_path / "keys" / "rotation.json").read_text())["new"] == new
