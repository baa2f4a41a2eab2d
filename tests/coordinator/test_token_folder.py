"""The open door for agents that share a folder with the coordinator."""

import stat
from pathlib import Path

import pytest

from flctl.coordinator.front.token_folder import TTL_S, TokenFolder
from flctl.errors import AccessError, StateError
from flctl.transport.keypair import KeyPair
from flctl.transport.keys import Keyring
from flctl.transport.tokens import BY_INVITATION
from flctl.wire.messages import Deal


class Clock:
    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keyring(tmp_path: Path, clock: Clock) -> Keyring:
    return Keyring(tmp_path / "keys", clock)


def read(path: Path) -> str:
    return path.read_text().strip()


def test_the_folder_has_what_an_agent_needs_to_join(tmp_path, keyring, clock):
    folder = tmp_path / "invite"
    invitation = TokenFolder(folder, keyring, Deal(of=2, partition="iid"), clock)
    assert read(folder / "server.pub") == keyring.server.public
    assert stat.S_IMODE((folder / "token").stat().st_mode) == 0o600
    key = KeyPair.make().public
    assert str(keyring.redeem(read(folder / "token"), key, None, shard=True).shard) == "1/2 iid"
    invitation.close()
    assert not (folder / "token").exists()
    assert keyring.role_of(KeyPair.make().public) is None


def join(keyring: Keyring, folder: Path) -> str:
    """The name of an agent that has read the folder, with a new key."""
    return keyring.redeem(read(folder / "token"), KeyPair.make().public, None).name


def test_the_door_is_shut_after_a_while(tmp_path, keyring, clock):
    """A container that was let in cannot read a good token for ever."""
    invitation = TokenFolder(tmp_path, keyring, None, clock)
    first = read(tmp_path / "token")
    join(keyring, tmp_path)
    clock.now += TTL_S / 2
    invitation.keep()
    assert read(tmp_path / "token") == first
    clock.now += TTL_S / 2
    invitation.keep()
    assert not (tmp_path / "token").exists()
    assert keyring.role_of(KeyPair.make().public) is None


def test_a_person_opens_it_again(tmp_path, keyring, clock):
    """What those who have just read the old token hold stays good."""
    invitation = TokenFolder(tmp_path, keyring, None, clock)
    first = read(tmp_path / "token")
    clock.now += TTL_S - 60
    opened = invitation.open()
    assert opened.by == BY_INVITATION and opened.expires == clock.now + TTL_S
    assert read(tmp_path / "token") != first
    assert keyring.open_token(first) is not None
    again = read(tmp_path / "token")
    assert invitation.open(60).id == opened.id, "it lasts as long already"
    assert read(tmp_path / "token") == again


def test_it_is_shut_after_a_restart_once_there_are_agents(tmp_path, keyring, clock):
    """A machine that reboots enrols nobody."""
    TokenFolder(tmp_path, keyring, None, clock).close()
    TokenFolder(tmp_path, keyring, None, clock)
    assert join(keyring, tmp_path) == "pi-01"
    TokenFolder(tmp_path, keyring, None, clock).close()
    again = TokenFolder(tmp_path, keyring, None, clock)
    assert not (tmp_path / "token").exists()
    assert not keyring.open_tokens()
    again.open()
    assert join(keyring, tmp_path) == "pi-02"


def test_a_revoked_agent_does_not_come_back_by_the_folder(tmp_path, keyring, clock):
    """It may make a new key and read the folder again, but the door is shut with its revocation."""
    invitation = TokenFolder(tmp_path, keyring, None, clock)
    name = join(keyring, tmp_path)
    stolen = read(tmp_path / "token")
    (closed,) = keyring.revoke(name)
    assert closed.matches(stolen)
    with pytest.raises(AccessError, match="the token was closed"):
        join(keyring, tmp_path)
    invitation.keep()
    assert not (tmp_path / "token").exists()


def test_as_many_come_in_as_there_are_shards(tmp_path, keyring, clock):
    invitation = TokenFolder(tmp_path, keyring, Deal(of=2, partition="iid"), clock)
    for _ in range(2):
        join(keyring, tmp_path)
    invitation.keep()
    assert not (tmp_path / "token").exists()


def test_a_coordinator_that_was_killed_goes_on_with_its_token(tmp_path, keyring, clock):
    deal = Deal(of=4, partition="record")
    TokenFolder(tmp_path, keyring, deal, clock)
    first = read(tmp_path / "token")
    join(keyring, tmp_path)
    TokenFolder(tmp_path, keyring, deal, clock)
    assert read(tmp_path / "token") == first
    TokenFolder(tmp_path, keyring, Deal(of=8, partition="record"), clock)
    assert read(tmp_path / "token") != first


def test_a_token_that_could_not_be_written_is_made_anew(tmp_path, keyring, clock, monkeypatch):
    """The one in the file stays what is known."""
    invitation = TokenFolder(tmp_path, keyring, None, clock)
    first = read(tmp_path / "token")

    def fails(*_):
        raise StateError("the disk is full")

    clock.now += TTL_S * 0.6
    with monkeypatch.context() as patch:
        patch.setattr("flctl.coordinator.front.token_folder.replace", fails)
        with pytest.raises(StateError):
            invitation.open()
    assert read(tmp_path / "token") == first
    invitation.open()
    assert read(tmp_path / "token") != first


def test_a_token_that_was_closed_by_hand_is_taken_away(tmp_path, keyring, clock):
    invitation = TokenFolder(tmp_path, keyring, None, clock)
    keyring.close_token(read(tmp_path / "token"))
    invitation.keep()
    assert not (tmp_path / "token").exists()
