"""Keys in a state folder that no coordinator works on."""

import json
import stat

import pytest

from flctl.transport.keypair import shown
from flctl.transport.keys import Keyring


def test_enrol_and_revoke(flctl, tmp_path):
    """A key pair is made, enrolled, listed and revoked; the secret half is for its owner only."""
    made = flctl("keys", "new", tmp_path / "pi.key")
    public = made.out.strip()
    assert len(public) == 56 and public.startswith("flk_")
    assert stat.S_IMODE((tmp_path / "pi.key").stat().st_mode) == 0o600
    assert flctl("keys", "add", "pi-01", public).code == 0
    assert (
        flctl("keys", "add", "boss", tmp_path / "pi.pub", "--role", "admin").code == 1
    )  # same key
    listed = json.loads(flctl("keys", "list", "--json").out)
    assert set(listed) == {"server_key", "keys", "waiting"}
    assert listed["server_key"].startswith("flk_")
    (entry,) = listed["keys"]
    assert (entry["name"], entry["role"], entry["public_key"]) == ("pi-01", "agent", public)
    assert "pi-01" in flctl("keys", "list").out
    assert flctl("keys", "revoke", "pi-01").out == "pi-01 is revoked\n"
    assert json.loads(flctl("keys", "list", "--json").out)["keys"] == []
    listed = flctl("keys", "list").out
    assert "revoked" in listed and public in listed


def test_a_key_in_z85_is_taken_and_shown_without_what_a_shell_eats(flctl):
    keys = [":[VHX[/:JzA$4DayjHQWB6/tOh{}2k4]CdW?(af<", "kv}rU)LZ#G-5[tA<=KgXA(xnXXL]+?wy:mfhj<+("]
    for number, key in enumerate(keys):
        assert flctl("keys", "add", f"pi-{number}", key).code == 0
    listed = flctl("keys", "list")
    assert listed.code == 0
    assert all(shown(key) in listed.out and key not in listed.out for key in keys)
    entries = json.loads(flctl("keys", "list", "--json").out)["keys"]
    assert [entry["z85"] for entry in entries] == keys


def test_secret_and_public_halves_are_not_mixed_up(flctl, tmp_path):
    """A secret must not get into the list, which others can read."""
    flctl("keys", "new", tmp_path / "my.key")
    done = flctl("keys", "add", "me", tmp_path / "my.key", "--role", "admin")
    assert done.code == 2 and "my.pub" in done.complaint
    (tmp_path / "my.pub").rename(tmp_path / "elsewhere.pub")
    assert flctl("keys", "add", "me", tmp_path / "my.key").code == 2
    assert flctl("keys", "add", "me", tmp_path / "elsewhere.pub").code == 0
    done = flctl("connect", "127.0.0.1:1", "--server-key", "0" * 40, "--key",
                 tmp_path / "elsewhere.pub")  # fmt: skip
    assert done.code == 2 and "public half" in done.complaint


def test_the_servers_own_key_is_nobody_elses(flctl):
    listed = json.loads(flctl("keys", "token").out and flctl("keys", "list", "--json").out)
    done = flctl("keys", "add", "pi-99", listed["server_key"])
    assert done.code == 2 and "coordinator's own" in done.complaint


@pytest.mark.parametrize("command", [("list",), ("revoke", "pi-01")])
def test_a_folder_that_is_no_coordinators_is_not_made(flctl, tmp_path, command):
    done = flctl("keys", *command, "--state", tmp_path / "typo")
    assert done.code == 2 and "typo" in done.complaint
    assert not (tmp_path / "typo").exists()


def test_a_key_that_begins_with_a_hyphen(flctl):
    """It is a key, not an option."""
    key = "-" + "0" * 39
    assert flctl("keys", "add", "pi-01", key).code == 0
    assert shown(key) in flctl("keys", "list").out


def test_a_token_is_all_there_is_on_stdout(flctl, tmp_path):
    """`flctl keys token > file` gives a file that an agent can join with."""
    done = flctl("keys", "token", "--ttl", "10m", "--uses", 2)
    assert (done.code, done.err) == (0, "")
    keyring = Keyring(tmp_path / "state" / "keys")
    assert keyring.redeem(done.out.strip(), "0" * 40, None).name == "pi-01"


@pytest.mark.parametrize(
    "args",
    [
        ("add", "pi-01", "short"),
        ("add", "Pi 1", "0" * 40),
        ("add", "pi-01", "0" * 40, "--role", "boss"),
        ("revoke", "nobody"),
        ("token", "--ttl", "soon"),
        ("token", "--uses", "0"),
        ("token", "--uses", 99999999999999999999),
        ("token", "--ttl", "999999d"),
    ],
)
def test_bad_input(flctl, args):
    """One line, and no key is enrolled."""
    flctl("keys", "token")
    done = flctl("keys", *args)
    assert done.code in (1, 2)
    assert done.complaint
    assert json.loads(flctl("keys", "list", "--json").out)["keys"] == []


def test_a_key_pair_is_never_overwritten(flctl, tmp_path):
    """`keys new` refuses a file that exists."""
    (tmp_path / "mine.key").write_text("precious")
    assert flctl("keys", "new", tmp_path / "mine.key").code == 2
    assert (tmp_path / "mine.key").read_text() == "precious"


def test_tokens_are_shown_and_closed(flctl):
    """By a short id; nothing shown lets anybody in."""
    secret = flctl("keys", "token", "--ttl", "2h", "--uses", "3", "--shards", "8").out.strip()
    flctl("keys", "token")
    short, long = json.loads(flctl("keys", "tokens", "--json").out)
    assert (long["uses_left"], long["deal"]["of"], long["by"]) == (3, 8, "local")
    assert 7190 < long["closes_in_s"] <= 7200
    shown = flctl("keys", "tokens").out
    assert long["id"] in shown and "8 shards, iid" in shown
    assert secret not in shown and long["id"] not in secret
    assert "2 join tokens open, 4 uses left, closing within" in flctl("keys", "list").out
    done = flctl("keys", "tokens", "--close", "nonsense")
    assert done.code == 1 and "no token nonsense is open" in done.complaint
    assert long["id"] in flctl("keys", "tokens", "--close", long["id"]).out
    assert [t["id"] for t in json.loads(flctl("keys", "tokens", "--json").out)] == [short["id"]]
    assert json.loads(flctl("keys", "tokens", "--close-all", "--json").out) == {
        "closed": [short["id"]]
    }
    assert "no join token is open" in flctl("keys", "tokens").out
    assert "none was open" in flctl("keys", "tokens", "--close-all").out


def test_the_token_of_a_revoked_agent_is_closed_with_it(flctl, tmp_path):
    token = flctl("keys", "token", "--uses", "5").out.strip()
    (folder,) = tmp_path.rglob("allowed.json")
    Keyring(folder.parent).redeem(token, "0" * 40, "pi-07")
    done = flctl("keys", "revoke", "pi-07")
    assert done.code == 0
    assert "also closed: token" in done.out and "which pi-07 may hold" in done.out


def test_an_invitation_needs_a_coordinator_that_runs(flctl):
    flctl("keys", "token")
    done = flctl("keys", "invite")
    assert done.code == 2 and "no coordinator runs here" in done.complaint


def test_a_command_that_is_suggested_finds_the_same_folder(flctl, tmp_path, monkeypatch):
    """It repeats --state; where FLCTL_STATE names the folder, it needs nothing."""
    monkeypatch.chdir(tmp_path)
    there = ("--state", "other fleet")
    wrong = flctl("keys", "revoke", "pi-01")
    flctl("keys", "token", *there)
    assert wrong.code == 2  # no coordinator has kept keys there
    for command, text in [
        (("revoke", "pi-99"), "no key is enrolled as pi-99; see flctl keys list{}"),
        (("tokens", "--close", "x"), "no token x is open; see flctl keys tokens{}"),
        (
            ("rotate-server", "--finish"),
            "no server key is being replaced: flctl keys rotate-server{} begins",
        ),
    ]:
        assert flctl("keys", *command, *there).complaint == text.format(" --state 'other fleet'")
        monkeypatch.setenv("FLCTL_STATE", "other fleet")
        assert flctl("keys", *command).complaint == text.format("")
        monkeypatch.delenv("FLCTL_STATE")
    flctl("keys", "tokens", "--close-all", *there)
    assert flctl("keys", "tokens", *there).out == (
        "no join token is open; create one with: flctl keys token --state 'other fleet'\n"
    )
    wrong = flctl("runs", "show", "x", *there)
    assert "'flctl runs list --state 'other fleet'' shows what there is" in wrong.complaint
