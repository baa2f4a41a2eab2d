"""Key pairs in files: made once, never replaced in silence."""

import re
import shlex
import threading

import pytest
from zmq.utils import z85

from flctl.errors import StateError, UsageError
from flctl.transport.keypair import KeyPair, load_or_make, public_key, shown


def test_a_pair_is_made_once_and_its_secret_is_private(tmp_path):
    """The second call reads what the first has written; only the public half is open."""
    path = tmp_path / "agent" / "agent.key"
    pair = load_or_make(path)
    assert load_or_make(path) == pair
    assert path.read_text().strip() == pair.secret
    assert path.with_suffix(".pub").read_text().strip() == shown(pair.public)
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(p.name for p in path.parent.iterdir()) == ["agent.key", "agent.pub"]


def test_two_that_make_a_pair_at_once_get_the_same(tmp_path):
    """Whoever comes first wins."""
    path = tmp_path / "agent.key"
    barrier = threading.Barrier(6)
    pairs = []

    def make():
        barrier.wait()
        pairs.append(load_or_make(path))

    threads = [threading.Thread(target=make) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pairs) == 6
    assert len(set(pairs)) == 1


def test_a_secret_that_others_can_read_is_closed_to_them(tmp_path, caplog):
    """The mode is mended and the log says so, without the secret."""
    path = tmp_path / "agent.key"
    pair = load_or_make(path)
    path.chmod(0o644)
    assert load_or_make(path) == pair
    assert path.stat().st_mode & 0o777 == 0o600
    assert "readable by other users" in caplog.text
    assert pair.secret not in caplog.text


@pytest.mark.parametrize("text", ["", "short", "x" * 39, "~" * 40, "é" * 40, "0" * 41])
def test_a_damaged_secret_names_its_file(tmp_path, text):
    """It is never replaced in silence: the public half is enrolled somewhere."""
    path = tmp_path / "agent.key"
    path.write_text(text)
    with pytest.raises(StateError, match=r"agent\.key: not a secret key"):
        load_or_make(path)
    assert path.read_text() == text


def test_a_lost_secret_is_not_replaced_in_silence(tmp_path):
    """Somebody knows the public half that is still there."""
    path = tmp_path / "server.key"
    pair = load_or_make(path)
    path.unlink()
    with pytest.raises(
        StateError, match=r"server\.pub exists, but its secret half .*server\.key is missing"
    ):
        load_or_make(path)
    assert path.with_suffix(".pub").read_text().strip() == shown(pair.public) and not path.exists()


@pytest.mark.parametrize("name", ["id", "id.key"])
def test_a_file_of_somebody_else_is_not_overwritten(tmp_path, name):
    """As ssh's id.pub, whether the secret half is there or not."""
    other = tmp_path / "id.pub"
    other.write_text("ssh-ed25519 AAAA me\n")
    for secret in (None, KeyPair.make().secret):
        if secret is not None:
            (tmp_path / name).write_text(secret)
        with pytest.raises(StateError, match=r"id\.pub"):
            load_or_make(tmp_path / name)
    assert other.read_text() == "ssh-ed25519 AAAA me\n"


def test_no_two_pairs_share_a_file(tmp_path):
    """Only the suffix of a key's own kind is replaced."""
    for name in ("b.x", "b.y", "b.key"):
        load_or_make(tmp_path / name)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "b.key", "b.pub", "b.x", "b.x.pub", "b.y", "b.y.pub",
    ]  # fmt: skip


def test_a_public_half_of_zeros_is_written_again(tmp_path):
    """As a card leaves a file whose bytes were not written before the power failed."""
    path = tmp_path / "agent.key"
    pair = load_or_make(path)
    path.with_suffix(".pub").write_bytes(bytes(57))
    assert load_or_make(path) == pair
    assert path.with_suffix(".pub").read_text().strip() == shown(pair.public)


@pytest.mark.parametrize("half", ["agent.key", "agent.pub"])
def test_a_folder_in_place_of_a_key_is_named(tmp_path, half, caplog):
    """And nothing is said of its mode."""
    load_or_make(tmp_path / "agent.key")
    (tmp_path / half).unlink()
    (tmp_path / half).mkdir(mode=0o755)
    with pytest.raises(StateError, match=half):
        load_or_make(tmp_path / "agent.key")
    assert not caplog.text and (tmp_path / half).stat().st_mode & 0o777 == 0o755


def test_a_public_key_is_checked_where_it_is_typed():
    """White space around it is fine, anything else names the place."""
    key = KeyPair.make().public
    assert public_key(f" {key}\n", "--key") == key
    with pytest.raises(UsageError, match="--key: not a public key"):
        public_key(key[:-1], "--key")


@pytest.mark.parametrize("first", [b"\0", b"\xff", b"-"])
def test_a_key_as_it_is_shown_needs_no_quotes_and_is_read_back(first):
    """In Z85 it may begin with a hyphen, and hold what a shell would eat."""
    key = z85.encode(first * 32).decode()
    assert re.fullmatch(r"flk_[a-z2-7]{52}", shown(key)) and shlex.quote(shown(key)) == shown(key)
    for text in (shown(key), "flk_" + shown(key)[4:].upper(), key):
        assert public_key(f" {text}\n", "here") == key


@pytest.mark.parametrize("end", ["b", "1", "", "aa", "é"])
def test_what_only_looks_like_a_key_is_refused(end):
    """Of the last character a single bit counts: another spelling is another key."""
    good = shown(z85.encode(bytes(32)).decode())
    with pytest.raises(UsageError, match="here: not a public key"):
        public_key(good[:-1] + end, "here")


def test_a_public_half_of_an_older_version_stays_as_it_is(tmp_path):
    """In Z85, so that the older version still reads it after a rollback."""
    pair = load_or_make(tmp_path / "id.key")
    (tmp_path / "id.pub").write_text(f"{pair.public}\n")
    assert load_or_make(tmp_path / "id.key") == pair
    assert (tmp_path / "id.pub").read_text() == f"{pair.public}\n"


def test_a_file_that_a_link_points_to_keeps_its_mode_unless_it_is_a_key(tmp_path):
    """It is somebody else's."""
    victim, link = tmp_path / "victim", tmp_path / "server.key"
    victim.write_text("precious")
    victim.chmod(0o644)
    link.symlink_to(victim)
    with pytest.raises(StateError, match="not a secret key"):
        load_or_make(link)
    assert victim.stat().st_mode & 0o777 == 0o644


def test_the_secret_half_is_refused_where_the_public_one_is_asked_for(tmp_path, flctl):
    """An agent would dial with it for ever."""
    load_or_make(tmp_path / "server.key")
    done = flctl(
        "agent", "--coordinator", "127.0.0.1:1", "--server-key-file", tmp_path / "server.key"
    )
    assert done.code == 2 and f"name {tmp_path / 'server.pub'}" in " ".join(done.err.split())
