"""Parts of a data set, dealt to the agents that join with a token."""

import json
from pathlib import Path

import pytest

from flctl.errors import AccessError, UsageError
from flctl.transport.keypair import KeyPair
from flctl.transport.keys import Keyring
from flctl.wire.messages import Deal, Shard

DEAL = Deal(of=3, partition="record", seed=7)


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path / "keys", lambda: 1_700_000_000.0)


@pytest.fixture(scope="module")
def pool() -> list[str]:
    return [KeyPair.make().public for _ in range(5)]


def index(keyring: Keyring, token: str, key: str) -> int:
    shard = keyring.redeem(token, key, None, shard=True).shard
    assert shard is not None
    assert shard.deal == DEAL
    return shard.index


def test_each_who_joins_gets_a_part_of_its_own(keyring, pool):
    token = keyring.new_token(60, 9, DEAL)
    assert [index(keyring, token, key) for key in pool[:3]] == [0, 1, 2]


def test_the_same_key_gets_the_same_part_again_after_any_restart(keyring, pool, tmp_path):
    token = keyring.new_token(60, 2, DEAL)
    first = [index(keyring, token, key) for key in pool[:2]]
    later = Keyring(tmp_path / "keys", lambda: 1_800_000_000.0)  # its token has expired
    assert [index(later, token, key) for key in pool[:2]] == first
    assert [index(later, "", key) for key in pool[:2]] == first


def test_the_part_of_a_revoked_agent_goes_to_the_next(keyring, pool):
    token = keyring.new_token(60, 9, DEAL)
    for key in pool[:3]:
        keyring.redeem(token, key, None, shard=True)
    keyring.revoke("pi-02")  # and closes the token, which pi-02 still has
    token = keyring.new_token(60, 9, DEAL)
    assert index(keyring, token, pool[3]) == 1


def test_nobody_is_enrolled_when_all_parts_are_dealt(keyring, pool):
    token = keyring.new_token(60, 9, DEAL)
    for key in pool[:3]:
        keyring.redeem(token, key, None, shard=True)
    with pytest.raises(AccessError, match=r"all 3 shards are assigned: revoke an agent"):
        keyring.redeem(token, pool[3], None, shard=True)
    assert keyring.name_of(pool[3]) is None
    assert keyring.open_token(token).uses_left == 6


def test_several_tokens_deal_one_data_set(keyring, pool):
    """As a coordinator's open invitation does, which is renewed."""
    first, second = keyring.new_token(60, 1, DEAL), keyring.new_token(60, 1, DEAL)
    assert [index(keyring, first, pool[0]), index(keyring, second, pool[1])] == [0, 1]


def test_a_token_that_deals_otherwise_deals_anew(keyring, pool):
    """So more agents can share: one restart later each has a part of the new deal."""
    token = keyring.new_token(60, 9, DEAL)
    for key in pool[:2]:
        keyring.redeem(token, key, None, shard=True)
    more = keyring.new_token(60, 9, Deal(of=5, partition="iid"))
    dealt = [keyring.redeem(more, key, None, shard=True).shard for key in pool[:3]]
    assert [str(shard) for shard in dealt] == ["1/5 iid", "2/5 iid", "3/5 iid"]
    assert keyring.open_token(more).uses_left == 8  # only the third was new


def test_whoever_does_not_ask_gets_none(keyring, pool):
    token = keyring.new_token(60, 9, DEAL)
    assert keyring.redeem(token, pool[0], None).shard is None
    assert index(keyring, token, pool[1]) == 0
    assert index(keyring, token, pool[0]) == 1  # it asks later


def test_a_token_without_shards_is_told(keyring, pool):
    token = keyring.new_token(60, 9)
    with pytest.raises(AccessError, match="assigns no shards"):
        keyring.redeem(token, pool[0], None, shard=True)
    keyring.redeem(token, pool[0], "pi-07")
    with pytest.raises(AccessError, match="no shard is recorded for pi-07"):
        keyring.redeem("", pool[0], None, shard=True)


def test_a_list_without_shards_is_as_it_was(keyring, pool, tmp_path):
    """An older version reads it."""
    keyring.new_token(60, 2)
    keyring.add("pi-01", pool[0], "agent")
    stored = json.loads((tmp_path / "keys" / "allowed.json").read_text())
    assert stored["keys"][0].keys() == {"name", "key", "role", "added"}
    assert "deal" not in stored["tokens"][0]


def test_a_shard_is_shown_as_it_is_typed():
    assert str(Shard(index=0, of=8, partition="iid")) == "1/8 iid"


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["keys", "token", "--partition", "iid"], "require --shards N"),
        (["keys", "token", "--shards", "4", "--partition", "x"], "--partition x: one of iid"),
        (["keys", "token", "--shards", "4", "--alpha", "-1"], "--alpha -1.0: a number above 0"),
        (["coordinator", "--shards", "4"], "--shards requires --invite"),
    ],
)
def test_options_that_make_no_sense_are_wrong_usage(flctl, args, complaint):
    done = flctl(*args)
    assert done.code == UsageError.exit_code
    assert complaint in done.complaint
