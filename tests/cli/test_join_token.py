"""The token of `flctl agent --join-token-file`, which is needed once."""

import pytest

from flctl.agent.given import join_token_of
from flctl.errors import UsageError


def test_an_agent_that_has_joined_starts_without_its_token(tmp_path):
    """The file is gone from a folder that is shared with the coordinator; its key is enough."""
    (tmp_path / "name").write_text("pi-01\n")
    assert join_token_of(str(tmp_path / "token"), tmp_path) is None


def test_a_new_agent_is_told_how_the_door_is_opened(tmp_path):
    with pytest.raises(UsageError, match="no such file; create a token on the coordinator"):
        join_token_of(str(tmp_path / "token"), tmp_path)


def test_an_agent_that_waits_for_a_shard_waits_for_its_token(tmp_path):
    """D19: the door of docker compose is shut when all shards are assigned, and opened again."""
    assert join_token_of(str(tmp_path / "token"), tmp_path, waits=True) is None


def test_a_token_that_is_out_of_reach_is_explained(tmp_path):
    """And is not taken for one that is gone, nor a reason for a traceback."""
    (tmp_path / "name").write_text("pi-01\n")
    with pytest.raises(UsageError, match="cannot be read: File name too long"):
        join_token_of("t" * 5000, tmp_path)
