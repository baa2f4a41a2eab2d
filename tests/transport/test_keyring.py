"""Keys, the allow-list and join tokens."""

import errno
import json
import logging
import multiprocessing
import re
import threading

import pytest

from flctl import files
from flctl.errors import AccessError, StateError, UsageError
from flctl.transport.keypair import KeyPair, public_key
from flctl.transport.keys import WAITING, Keyring
from flctl.transport.tokens import KEEP_S, KEPT, MOST_OPEN
from flctl.wire.messages import Deal

HOUR = 3600.0


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def keyring(tmp_path, clock):
    return Keyring(tmp_path / "keys", clock)


@pytest.fixture(scope="module")
def pool():
    """Public keys to spend."""
    return [KeyPair.make().public for _ in range(8)]


# The allow-list ------------------------------------------------------------------------


def test_a_lost_list_of_keys_is_not_replaced_in_silence(keyring):
    """Else a revoked key could come in again with the next token."""
    assert keyring.server
    keyring.path.unlink()
    with pytest.raises(StateError, match=r"allowed\.json is missing.*from a backup"):
        Keyring(keyring.path.parent)
    assert not keyring.path.exists()


def test_an_added_key_has_its_name_and_role(keyring, pool, clock):
    """Roles are kept apart, and the list is sorted by name."""
    keyring.add("pi-02", pool[0], "agent")
    keyring.add("laptop", pool[1], "admin")
    keyring.add("pi-01", pool[2], "agent")
    assert [entry.name for entry in keyring.entries()] == ["laptop", "pi-01", "pi-02"]
    assert (keyring.name_of(pool[1]), keyring.role_of(pool[1])) == ("laptop", "admin")
    assert keyring.entries()[0].added == clock.now
    assert keyring.role_of(pool[5]) is None
    assert keyring.name_of(pool[5]) is None


def test_adding_the_same_again_changes_nothing(keyring, pool):
    """A playbook may run twice."""
    keyring.add("pi-01", pool[0], "agent")
    before = keyring.path.stat().st_ino
    keyring.add("pi-01", pool[0], "agent")
    assert keyring.path.stat().st_ino == before


def test_a_name_or_key_that_is_taken_is_refused(keyring, pool):
    """Nothing is overwritten; the message says who has it."""
    keyring.add("pi-01", pool[0], "agent")
    with pytest.raises(
        AccessError, match="name pi-01 is taken by another key: choose another, or on the "
    ):
        keyring.add("pi-01", pool[1], "agent")
    with pytest.raises(AccessError, match="already enrolled, as pi-01"):
        keyring.add("pi-02", pool[0], "agent")
    with pytest.raises(AccessError, match=r"already enrolled, as pi-01 \(agent\)"):
        keyring.add("pi-01", pool[0], "admin")
    assert [entry.key for entry in keyring.entries()] == [pool[0]]


@pytest.mark.parametrize("name", ["", "Pi", "-pi", "pi 1", "../pi", "p" * 64, "pi\n"])
def test_a_bad_name_is_wrong_usage(keyring, pool, name):
    """Names end up in file names and logs."""
    with pytest.raises(UsageError, match="cannot be a name"):
        keyring.add(name, pool[0], "agent")


def test_a_bad_role_or_key_is_wrong_usage(keyring, pool):
    """Guests are not enrolled, and a secret file's name is no key."""
    with pytest.raises(UsageError, match="not a role"):
        keyring.add("pi-01", pool[0], "guest")
    with pytest.raises(UsageError, match="key of pi-01: not a public key"):
        keyring.add("pi-01", "agent.key", "agent")


def test_a_revoked_key_is_out_and_its_name_is_free(keyring, pool):
    """An open token does not let it in again; adding it does."""
    keyring.add("pi-01", pool[0], "agent")
    keyring.revoke("pi-01")
    token = keyring.new_token(HOUR, 5)
    assert keyring.role_of(pool[0]) is None
    assert keyring.is_revoked(pool[0])
    with pytest.raises(AccessError, match="was revoked"):
        keyring.redeem(token, pool[0], None)
    keyring.add("pi-01", pool[1], "agent")
    keyring.add("pi-02", pool[0], "agent")
    assert keyring.role_of(pool[0]) == "agent"
    with pytest.raises(AccessError, match="no key is enrolled as pi-09"):
        keyring.revoke("pi-09")


def test_a_change_by_another_process_is_seen_within_half_a_second(keyring, pool, tmp_path, clock):
    """`refresh` looks twice a second at most and tells whether something changed."""
    other = Keyring(tmp_path / "keys", clock)
    other.add("pi-01", pool[0], "agent")
    assert keyring.role_of(pool[0]) is None
    assert keyring.refresh(now=10.0)
    assert keyring.role_of(pool[0]) == "agent"
    other.revoke("pi-01")
    assert not keyring.refresh(now=10.4)
    assert keyring.refresh(now=10.5)
    assert keyring.role_of(pool[0]) is None
    assert not keyring.refresh(now=20.0)


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"schema": 2}',
        b'{"kyes": []}',
        b'{"keys": [{"name": "pi-01"}]}',
    ],
)
def test_a_damaged_list_is_an_error_and_not_an_empty_list(keyring, pool, damage, caplog):
    """A new start and every change refuse; a running coordinator keeps the last good list."""
    keyring.add("pi-01", pool[0], "agent")
    keyring.path.write_bytes(damage)
    with pytest.raises(StateError, match=r"allowed\.json"):
        Keyring(keyring.path.parent)
    assert not keyring.refresh(now=1.0)
    assert "allowed.json" in caplog.text
    assert keyring.role_of(pool[0]) == "agent"
    with pytest.raises(StateError, match=r"allowed\.json"):
        keyring.add("pi-02", pool[1], "agent")
    assert keyring.path.read_bytes() == damage


def test_a_list_that_could_not_be_read_once_is_read_again(keyring, pool, caplog, monkeypatch):
    """Who was revoked meanwhile is shut out at the next look, and it was said once."""
    keyring.add("pi-01", pool[0], "agent")
    Keyring(keyring.path.parent).revoke("pi-01")

    def fails(path):
        with files.explained(path, "read the keys"):
            raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("flctl.transport.keys.allowlist.read", fails)
        assert not keyring.refresh(now=1.0)
        assert not keyring.refresh(now=2.0)
    assert caplog.text.count("Too many open files") == 1
    assert keyring.role_of(pool[0]) == "agent"
    assert keyring.refresh(now=3.0)
    assert keyring.role_of(pool[0]) is None


def test_a_list_that_vanishes_is_not_an_empty_list(keyring, pool, caplog):
    """Who was let in stays in while the coordinator runs."""
    keyring.add("pi-01", pool[0], "agent")
    keyring.path.unlink()
    assert not keyring.refresh(now=1.0)
    assert keyring.role_of(pool[0]) == "agent"
    assert "allowed.json" in caplog.text


def test_a_name_that_stands_twice_is_damage(keyring, pool):
    """A slip of the editor must not give one name to two keys."""
    keyring.add("pi-01", pool[0], "agent")
    keyring.add("pi-02", pool[1], "agent")
    keyring.path.write_text(keyring.path.read_text().replace("pi-02", "pi-01"))
    with pytest.raises(StateError, match="twice"):
        Keyring(keyring.path.parent)


def test_the_list_is_private_and_readable(keyring, pool):
    """A person finds names, keys and roles in indented JSON; others find nothing."""
    keyring.add("pi-01", pool[0], "agent")
    text = keyring.path.read_text()
    assert json.loads(text)["keys"][0]["key"] == pool[0]
    assert '\n      "name": "pi-01"' in text
    assert keyring.path.stat().st_mode & 0o777 == 0o600
    assert keyring.path.parent.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_cannot_be_used_is_one_clear_line(tmp_path):
    """Here a file stands in the way; as root, nothing is read-only."""
    (tmp_path / "keys").write_text("")
    with pytest.raises(StateError) as error:
        Keyring(tmp_path / "keys")
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_keys_wait_outside_the_newest_sixty_four(keyring, clock):
    """A key that knocks again keeps its first time; the list has a bound."""
    for number in range(WAITING + 6):
        clock.now += 1
        keyring.note_unknown(f"key {number}")
    clock.now += 1
    keyring.note_unknown("key 10")
    waiting = keyring.waiting()
    assert len(waiting) == WAITING
    assert (waiting[0].key, waiting[0].count) == ("key 10", 2)
    assert waiting[0].last_seen - waiting[0].first_seen == WAITING + 6 - 10
    assert "key 5" not in {entry.key for entry in waiting}


# Join tokens -----------------------------------------------------------------------


def test_a_token_enrols_under_the_next_free_name(keyring, pool):
    """Names are given in order; the use is taken."""
    keyring.add("pi-02", pool[0], "agent")
    token = keyring.new_token(HOUR, 2)
    assert re.fullmatch(r"flt_[0-9a-f]{40}", token)
    assert keyring.role_of(pool[1]) == "guest"
    assert keyring.redeem(token, pool[1], None).name == "pi-01"
    assert keyring.redeem(token, pool[2], None).name == "pi-03"
    assert keyring.role_of(pool[2]) == "agent"
    assert keyring.role_of(pool[3]) is None
    with pytest.raises(AccessError, match="used up"):
        keyring.redeem(token, pool[3], None)


def test_a_token_says_who_may_measure_models(keyring, pool):
    """It stands in the enrolment, and outlives the token; such a token deals no data."""
    trains, measures = keyring.new_token(HOUR, 1), keyring.new_token(HOUR, 1, evaluates=True)
    keyring.redeem(trains, pool[0], "pi-01")
    keyring.redeem(measures, pool[1], "pi-test")
    again = Keyring(keyring.path.parent)
    assert not again.evaluates(pool[0]) and again.evaluates(pool[1])
    with pytest.raises(UsageError, match="has its own data"):
        keyring.new_token(HOUR, 1, Deal(of=2, partition="iid"), evaluates=True)


def test_a_token_expires_by_the_clock_of_the_coordinator(keyring, pool, clock):
    """At its time it is over, for guests and for joins."""
    token = keyring.new_token(HOUR, 2)
    clock.now += HOUR - 1
    assert keyring.redeem(token, pool[0], "pi-01").name == "pi-01"
    clock.now += 1
    assert keyring.role_of(pool[1]) is None
    with pytest.raises(AccessError, match="has expired"):
        keyring.redeem(token, pool[1], "pi-02")


def test_a_wrong_token_is_refused_and_costs_no_use(keyring, pool):
    """Also one that differs in the last character, or is not ASCII."""
    token = keyring.new_token(HOUR, 1)
    other = "0" if token[-1] != "0" else "1"
    for wrong in ("", "flt_", token[:-1] + other, token + "0", "flt_é"):
        with pytest.raises(AccessError, match="token is wrong"):
            keyring.redeem(wrong, pool[0], None)
    assert keyring.redeem(token, pool[0], None).name == "pi-01"


def test_a_token_cannot_claim_a_name_that_exists(keyring, pool):
    """Only the key that has the name gets it again, and that costs no use."""
    keyring.add("pi-01", pool[0], "agent")
    token = keyring.new_token(HOUR, 1)
    with pytest.raises(
        AccessError, match="name pi-01 is taken by another key: choose another, or on the "
    ):
        keyring.redeem(token, pool[1], "pi-01")
    assert keyring.redeem("not even a token", pool[0], "pi-01").name == "pi-01"
    assert keyring.redeem("not even a token", pool[0], None).name == "pi-01"
    with pytest.raises(AccessError, match="already enrolled, as pi-01"):
        keyring.redeem(token, pool[0], "pi-05")
    assert keyring.redeem(token, pool[1], None).name == "pi-02"


def test_a_token_is_kept_as_a_hash(keyring, caplog):
    """Whoever reads the list cannot join with it."""
    caplog.set_level(logging.DEBUG)
    token = keyring.new_token(HOUR, 1)
    assert token not in keyring.path.read_text()
    assert token.removeprefix("flt_") not in keyring.path.read_text()
    assert token not in caplog.text


@pytest.mark.parametrize(
    ("ttl_s", "uses"),
    [(0, 1), (-1, 1), (HOUR, 0), (float("inf"), 1), (8 * 86_400, 1), (HOUR, 1_001)],
)
def test_a_token_needs_an_end(keyring, ttl_s, uses):
    """No token is open for ever, for a whole crowd, or of no use."""
    with pytest.raises(UsageError, match="a token lives for up to 7 days and has 1 to 1000 uses"):
        keyring.new_token(ttl_s, uses)


def test_open_tokens_are_listed_and_closed_by_their_ids(keyring, pool, clock):
    """The id opens nothing; who held the token is told that it was closed."""
    first = keyring.new_token(2 * HOUR, 3, by="ada")
    second = keyring.new_token(HOUR, 1)
    late, early = keyring.open_tokens()[1], keyring.open_tokens()[0]
    assert (late.uses_left, late.by, early.by) == (3, "ada", "")
    assert early.expires < late.expires
    assert late.matches(first) and late.id not in first
    with pytest.raises(AccessError, match="the token is wrong"):
        keyring.redeem(f"flt_{late.id}", pool[0], None)
    with pytest.raises(AccessError, match="no token 12345678 is open"):
        keyring.close_tokens([late.id, "12345678"])
    assert [token.id for token in keyring.close_tokens([late.id])] == [late.id]
    assert keyring.open_tokens() == [early]
    with pytest.raises(AccessError, match="the token was closed"):
        keyring.redeem(first, pool[0], None)
    assert keyring.role_of(pool[0]) == "guest"
    assert keyring.close_tokens(None) == [early]
    assert keyring.role_of(pool[0]) is None
    assert keyring.open_token(second) is None
    assert Keyring(keyring.path.parent, clock).open_tokens() == []


def test_a_revoked_agent_cannot_come_back_with_its_token(keyring, pool):
    """Under a new key and name: it still has the file. Tokens of others stay open."""
    token, other = keyring.new_token(HOUR, 20), keyring.new_token(HOUR, 1)
    name = keyring.redeem(token, pool[0], None).name
    keyring.redeem(token, pool[1], None)
    assert [t.uses_left for t in keyring.revoke(name)] == [18]
    with pytest.raises(AccessError, match="the token was closed"):
        keyring.redeem(token, pool[2], None)
    assert keyring.redeem(other, pool[2], None).name == "pi-01"
    assert keyring.revoke("pi-02") == [], "it was closed already"


def test_only_so_many_tokens_are_open_at_a_time(keyring, pool, clock):
    """And of those that are over the newest are remembered: the file has a bound."""
    for _ in range(MOST_OPEN):
        keyring.new_token(HOUR, 1)
    with pytest.raises(AccessError, match="64 tokens are open, the maximum"):
        keyring.new_token(HOUR, 1)
    for _ in range(5):
        clock.now += HOUR
        for _ in range(MOST_OPEN):
            keyring.new_token(HOUR, 1)
    assert len(json.loads(keyring.path.read_text())["tokens"]) == MOST_OPEN + KEPT


def test_the_list_of_an_older_version_is_read(keyring, pool, clock):
    """Its tokens have neither maker nor id in the file."""
    token = keyring.new_token(HOUR, 2)
    keyring.redeem(token, pool[0], None)
    old = json.loads(keyring.path.read_text())
    del old["keys"][0]["token"]
    assert set(old["tokens"][0]) == {"salt", "hash", "opened", "expires", "uses_left"}
    keyring.path.write_text(json.dumps(old))
    again = Keyring(keyring.path.parent, clock)
    assert [(t.uses_left, len(t.id)) for t in again.open_tokens()] == [(1, 8)]
    assert again.redeem(token, pool[1], None).name == "pi-02"


def test_old_tokens_are_forgotten(keyring, pool, clock):
    """A week after its end a token is wrong like any other, and the file is small again."""
    keyring.new_token(HOUR, 1)
    clock.now += HOUR + KEEP_S
    keyring.add("pi-01", pool[0], "agent")
    assert json.loads(keyring.path.read_text())["tokens"] == []


# Many at once ----------------------------------------------------------------------


def _join(folder, token, number, results):
    keyring = Keyring(folder)
    try:
        results.put(keyring.redeem(token, KeyPair.make().public, None).name)
    except AccessError:
        results.put(None)


def test_many_processes_join_with_one_token(tmp_path):
    """As many get in as the token has uses, each under a name of its own."""
    folder = tmp_path / "keys"
    token = Keyring(folder).new_token(HOUR, 3)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    children = [
        context.Process(target=_join, args=(folder, token, number, results)) for number in range(5)
    ]
    for child in children:
        child.start()
    names = [results.get(timeout=100) for _ in children]
    for child in children:
        child.join()
    assert sorted(name for name in names if name) == ["pi-01", "pi-02", "pi-03"]
    assert names.count(None) == 2
    assert [entry.name for entry in Keyring(folder).entries()] == ["pi-01", "pi-02", "pi-03"]


def test_threads_ask_while_others_change(keyring, pool):
    """The gatekeeper's thread never sees a list by halves."""
    keyring.add("always", pool[0], "agent")
    roles, stop = set(), threading.Event()

    def ask():
        while not stop.is_set():
            roles.add(keyring.role_of(pool[0]))
            keyring.note_unknown("stranger")

    thread = threading.Thread(target=ask)
    thread.start()
    for _ in range(5):
        keyring.add("now-and-then", pool[1], "read")
        keyring.revoke("now-and-then")
    stop.set()
    thread.join()
    assert roles == {"agent"}


def test_nothing_is_left_behind(keyring, pool):
    """After changes the folder holds the list and its lock."""
    keyring.add("pi-01", pool[0], "agent")
    keyring.revoke("pi-01")
    assert {path.name for path in keyring.path.parent.iterdir()} == {
        ".allowed.lock",
        "allowed.json",
    }


def test_a_revoked_key_that_knocks_does_not_wait_to_be_let_in(tmp_path):
    """Whoever reads the waiting list would be told to enrol it again."""
    keyring = Keyring(tmp_path)
    stolen, strange = KeyPair.make().public, KeyPair.make().public
    keyring.add("pi-01", stolen, "agent")
    keyring.revoke("pi-01")
    assert not keyring.authorise(stolen) and not keyring.authorise(strange)
    assert [waiting.key for waiting in keyring.waiting()] == [strange]
    assert [entry.name for entry in keyring.revoked()] == ["pi-01"]


def test_forty_characters_that_are_too_large_a_number_are_no_key():
    """By the fuzzer: each five stand for 32 bits, and these do not fit."""
    with pytest.raises(UsageError, match="not a public key"):
        public_key("#####" * 8, "KEY")
