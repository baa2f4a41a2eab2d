"""Keys in a state folder that no coordinator works on."""

import json
import stat

import pytest

from flctl.transport.keys import Keyring


def test_enrol_and_revoke(flctl, tmp_path):
    """A key pair is made, enrolled, listed and revoked; the secret half is for its owner only."""
    made = flctl("keys", "new", tmp_path / "pi.key")
    public = made.out.strip()
    assert len(public) == 40
    assert stat.S_IMODE((tmp_path / "pi.key").stat().st_mode) == 0o600
    assert flctl("keys", "add", "pi-01", public).code == 0
    assert (
        flctl("keys", "add", "boss", tmp_path / "pi.pub", "--role", "admin").code == 1
    )  # same key
    listed = json.loads(flctl("keys", "list", "--json").out)
    assert set(listed) == {"server_key", "keys", "waiting"}
    assert len(listed["server_key"]) == 40
    (entry,) = listed["keys"]
    assert (entry["name"], entry["role"], entry["public_key"]) == ("pi-01", "agent", public)
    assert "pi-01" in flctl("keys", "list").out
    assert flctl("keys", "revoke", "pi-01").code == 0
    assert json.loads(flctl("keys", "list", "--json").out)["keys"] == []


def test_a_key_that_begins_with_a_hyphen(flctl):
    """It is a key, not an option."""
    key = "-" + "0" * 39
    assert flctl("keys", "add", "pi-01", key).code == 0
    assert key in flctl("keys", "list").out


def test_a_token_is_all_there_is_on_stdout(flctl, tmp_path):
    """`flctl keys token > file` gives a file that an agent can join with."""
    done = flctl("keys", "token", "--ttl", "10m", "--uses", 2)
    assert (done.code, done.err) == (0, "")
    keyring = Keyring(tmp_path / "state" / "keys")
    assert keyring.redeem(done.out.strip(), "0" * 40, None) == "pi-01"


@pytest.mark.parametrize(
    "args",
    [
        ("add", "pi-01", "short"),
        ("add", "Pi 1", "0" * 40),
        ("add", "pi-01", "0" * 40, "--role", "boss"),
        ("revoke", "nobody"),
        ("token", "--ttl", "soon"),
        ("token", "--uses", "0"),
    ],
)
def test_bad_input(flctl, args):
    """One line, and no key is enrolled."""
    done = flctl("keys", *args)
    assert done.code in (1, 2)
    assert done.complaint
    assert json.loads(flctl("keys", "list", "--json").out)["keys"] == []


def test_a_key_pair_is_never_overwritten(flctl, tmp_path):
    """`keys new` refuses a file that exists."""
    (tmp_path / "mine.key").write_text("precious")
    assert flctl("keys", "new", tmp_path / "mine.key").code == 2
    assert (tmp_path / "mine.key").read_text() == "precious"
