"""What a command's log looks like beside its own messages."""

import logging

import pytest

from flctl.terminal import logs


@pytest.fixture(autouse=True)
def _root():
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], level = before
    root.setLevel(level)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"verbose": False, "quiet": True}, "flctl: a row is left out\n"),
        ({"verbose": True, "quiet": True}, "WARNING test_log_form.py"),
        ({"verbose": False}, "WARNING test_log_form.py"),
    ],
)
def test_a_warning_is_like_other_messages_unless_a_log_is_wanted(how, said, capsys):
    """Of a command with other output; those that run for long write a log with times."""
    logs.set_up(**how)
    logging.getLogger("flctl.learning").warning("a row is left out")
    err = capsys.readouterr().err
    assert err == said if said.startswith("flctl") else said in err
