"""The coordinator's new key, as an agent is told it, stores it and uses it."""

from pathlib import Path

import pytest
from agent_rig import Rig

from flctl import files
from flctl.agent.state import AgentState
from flctl.errors import StateError
from flctl.transport.keypair import KeyPair
from flctl.wire.messages import Hello, ServerKeys

NEW, OTHER = KeyPair.make().public, KeyPair.make().public


def test_it_is_stored_before_it_is_used_and_told(ready: Rig, tmp_path: Path) -> None:
    """The next Hello says which it has; after a restart it dials with them."""
    given = ready.supervisor._config.server_key
    ready.say(ServerKeys(keys=(NEW, OTHER)))
    ready.step(1.0)
    assert [hello.server_keys for hello in ready.take(Hello)][-1:] == [(NEW, OTHER)]
    assert ready.link.server_keys == (NEW, OTHER)
    (stored,) = tmp_path.rglob("server-keys.json")
    assert stored.stat().st_mode & 0o777 == 0o600
    state = ready.state
    assert state.server_keys(given) == (NEW, OTHER)
    state.save_server_keys(given, (NEW,))
    assert state.server_keys(given) == (NEW,)
    assert state.server_keys(OTHER) == (), "the owner gives another one by now"
    state.save_server_keys(given, (given,))
    assert not stored.exists()


def test_a_power_cut_leaves_the_old_ones_or_the_new(tmp_path: Path, monkeypatch) -> None:
    """And half a file counts as none."""
    state = AgentState(tmp_path / "state")
    state.save_server_keys(OTHER, (NEW, OTHER))

    def fails(*_: object) -> None:
        raise OSError("the power is gone")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "rename", fails)
        patch.setattr(files.os, "replace", fails)
        with pytest.raises((OSError, StateError)):
            state.save_server_keys(OTHER, (NEW,))
    assert state.server_keys(OTHER) == (NEW, OTHER)
    (state.folder / "server-keys.json").write_text('{"given": "')
    assert state.server_keys(OTHER) == ()
    state.close()


def test_one_that_cannot_be_stored_is_not_used(ready: Rig, monkeypatch, caplog) -> None:
    """The coordinator is not told either, so that it counts this agent as without the new key."""
    monkeypatch.setattr(
        AgentState, "save_server_keys", lambda *_: (_ for _ in ()).throw(StateError("disk full"))
    )
    ready.take(Hello)
    ready.say(ServerKeys(keys=(NEW, OTHER)))
    ready.step(1.0)
    assert ready.take(Hello) == []
    assert "the coordinator's new key is not used: disk full" in caplog.text


def test_what_is_no_key_is_not_stored(ready: Rig, caplog) -> None:
    ready.say(ServerKeys(keys=("~" * 40,)))
    ready.step(1.0)
    assert "not a public key" in caplog.text
