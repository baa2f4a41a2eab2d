"""The open door for agents that share a folder with the coordinator."""

import stat
from pathlib import Path

import pytest

from flctl.coordinator.invitation import TTL_S, Invitation
from flctl.errors import StateError
from flctl.transport.keypair import KeyPair
from flctl.transport.keys import Keyring
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
    invitation = Invitation(folder, keyring, Deal(of=2, partition="iid"), clock)
    assert read(folder / "server.pub") == keyring.server.public
    assert stat.S_IMODE((folder / "token").stat().st_mode) == 0o600
    key = KeyPair.make().public
    assert str(keyring.redeem(read(folder / "token"), key, None, shard=True).shard) == "1/2 iid"
    invitation.close()
    assert not (folder / "token").exists()
    assert keyring.role_of(KeyPair.make().public) is None


def test_the_token_is_renewed_before_it_ends(tmp_path, keyring, clock):
    """And whoever has just read the old one can still join."""
    invitation = Invitation(tmp_path, keyring, None, clock)
    first = read(tmp_path / "token")
    for _ in range(30):
        clock.now += TTL_S / 60
        invitation.keep()
    assert read(tmp_path / "token") == first
    for _ in range(3):
        clock.now += TTL_S / 60
        invitation.keep()
    second = read(tmp_path / "token")
    assert second != first
    assert keyring.open_token(first) is not None
    for _ in range(600):
        clock.now += TTL_S / 60
        invitation.keep()
        assert keyring.open_token(read(tmp_path / "token")) is not None
    assert keyring.open_token(first) is None


def test_a_coordinator_that_was_killed_goes_on_with_its_token(tmp_path, keyring, clock):
    deal = Deal(of=4, partition="record")
    Invitation(tmp_path, keyring, deal, clock)
    first = read(tmp_path / "token")
    Invitation(tmp_path, keyring, deal, clock)
    assert read(tmp_path / "token") == first
    Invitation(tmp_path, keyring, Deal(of=8, partition="record"), clock)
    assert read(tmp_path / "token") != first


def test_a_token_that_could_not_be_written_is_made_anew(tmp_path, keyring, clock, monkeypatch):
    """The one in the file had gone on counting as fresh."""
    invitation = Invitation(tmp_path, keyring, None, clock)
    first = read(tmp_path / "token")

    def fails(*_):
        raise StateError("the disk is full")

    clock.now += TTL_S * 0.6
    with monkeypatch.context() as patch:
        patch.setattr("flctl.coordinator.invitation.replace", fails)
        invitation.keep()
    assert read(tmp_path / "token") == first
    clock.now += TTL_S / 30
    invitation.keep()
    assert read(tmp_path / "token") != first


def test_a_token_that_was_closed_by_hand_is_replaced(tmp_path, keyring, clock):
    invitation = Invitation(tmp_path, keyring, None, clock)
    first = read(tmp_path / "token")
    keyring.close_token(first)
    clock.now += TTL_S / 30
    invitation.keep()
    assert read(tmp_path / "token") != first
