"""`coordinator.toml`: what it says, and one line about what it says wrong."""

import logging
from pathlib import Path

import pytest

from flctl.coordinator.alerts.settings import read_settings, settings_of
from flctl.core.alerts import KINDS, Span
from flctl.errors import SettingsError

WHOLE = """
[alerts]
agent_lost = "20m"
throttled = false
card_free_mb = 2000
resolved_after = "5m"
[alerts.webhook]
url = "https://alerts.example/hook"
secret_file = "secret"
[alerts.command]
run = ["true", "{text}"]
timeout = "5s"
"""


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str | bytes) -> Path:
        path = tmp_path / "coordinator.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    (tmp_path / "secret").write_text("0123456789abcdef\n")
    return write


def test_the_log_says_what_was_read_and_where_alerts_go(write, tmp_path: Path, caplog):
    """The webhook's host alone: its path may be a secret."""
    caplog.set_level(logging.INFO)
    settings_of(tmp_path, None)
    path = write(WHOLE)
    settings_of(tmp_path, None)
    path.write_text("[alerts]\n")
    settings_of(tmp_path, None)
    assert [record.getMessage() for record in caplog.records] == [
        f"read {path}: alerts are sent to the webhook at alerts.example and to the command true",
        f"read {path}: alerts are sent nowhere",
    ]


def test_defaults_watch_everything_and_tell_no_one(tmp_path: Path):
    alerts = settings_of(tmp_path, None).alerts
    assert sorted(alerts.spans) == sorted(KINDS)
    assert alerts.spans["agent_lost"] == Span(600, 0)
    assert alerts.spans["no_round"] == Span(3600, 0)
    assert (alerts.webhook, alerts.command) == (None, None)


def test_the_file_in_the_state_folder_is_read(write, tmp_path: Path):
    """Paths in it are relative to it."""
    write(WHOLE)
    alerts = settings_of(tmp_path, None).alerts
    assert alerts.spans["agent_lost"] == Span(1200, 0)
    assert "throttled" not in alerts.spans
    assert alerts.spans["card_full"].over_s == 300
    assert alerts.webhook is not None
    assert alerts.webhook.secret_file == str(tmp_path / "secret")
    assert alerts.command is not None
    assert alerts.command.run == ("true", "{text}")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[alerts]\nagent_lots = '1m'", "'agent_lots' in [alerts]; did you mean 'agent_lost'?"),
        ("[alert]\n", "unknown key 'alert'; did you mean 'alerts'?"),
        ("[alerts.webhook]\nurl = 'https://a/'\nurls = 1", "in [alerts.webhook]"),
        ("alerts = 3", "alerts"),
        ("[alerts]\nagent_lost = 'soon'", "agent_lost 'soon': not a time"),
        ("[alerts]\nagent_lost = true", "agent_lost"),
        ("[alerts]\ncard_free_percent = 101", "card_free_percent"),
        ("[alerts]\ncard_free_mb = nan", "card_free_mb"),
        ("[alerts.webhook]\n", "url"),
        ("[alerts.webhook]\nurl = 'ftp://a'", "https://HOST/PATH"),
        ("[alerts.webhook]\nurl = 'https://'", "https://HOST/PATH"),
        ("[alerts.webhook]\nurl = 'https://a:99999/'", "url"),
        ("[alerts.webhook]\nurl = 'https://a b/'", "url"),
        ("[alerts.webhook]\nurl = 'https://me:secret@a/'", "secret_file"),
        ("[alerts.webhook]\nurl = 'https://a/'\nauth = 'bearer'", "requires secret_file"),
        ("[alerts.webhook]\nurl = 'http://a/'\nauth = 'bearer'\nsecret_file = 'secret'", "https"),
        ("[alerts.webhook]\nurl = 'https://a/'\nsecret_file = 'none'", "No such file"),
        ("[alerts.webhook]\nurl = 'https://a/'\nca_file = 'secret'", "ca_file"),
        ("[alerts.webhook]\nurl = 'https://a/'\ntimeout = '1h'", "0.1s to 5m"),
        ("[alerts.command]\nrun = []", "run"),
        ("[alerts.command]\nrun = 'rm -rf /'", "run"),
        ("[alerts.command]\nrun = ['no-such-program']", "no program no-such-program"),
        ("alerts = ", "not TOML"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_a_mistake_gets_one_line_with_the_file_and_the_key(write, text: str | bytes, says: str):
    path = write(text)
    with pytest.raises(SettingsError) as failure:
        read_settings(path)
    assert str(failure.value).startswith(str(path))
    assert says in str(failure.value)
    assert "\n" not in str(failure.value)
    assert "me:secret" not in str(failure.value)


A_TIME = "a time in quotation marks, or false"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "[alerts]\nagent_lost = 5\n[alerts.agent_lost]\nafter = '5m'",
            f", line 3: alerts.agent_lost is set twice; alerts.agent_lost must be {A_TIME}; "
            'for instance "10m"',
        ),
        (
            "[alerts.agent_lost]\n",
            f': alerts.agent_lost: must be {A_TIME}, not a table; for instance "10m"',
        ),
        (
            "[alerts]\nagent_lost = 5",
            f': alerts.agent_lost: must be {A_TIME}, not a whole number; for instance "10m"',
        ),
        (
            "[alerts]\nagent_lost = 10m",
            ": not TOML: Expected newline or end of document after a statement (at line 2, "
            f'column 16); alerts.agent_lost must be {A_TIME}; for instance "10m"',
        ),
        (
            "[alerts]\nmended_after = '2m'",
            ": unknown key 'mended_after' in [alerts]; did you mean 'resolved_after'?",
        ),
        ("[alerts.webhook]\nurl = 'ftp://a'", ": alerts.webhook.url: write https://HOST/PATH or "),
        (
            "[alerts.webhook]\nurl = 'https://a'\nauth = 'basic'",
            ": alerts.webhook.auth: 'basic' is unknown; it is one of hmac, bearer",
        ),
        (
            "[alerts.webhook]",
            ': alerts.webhook.url: is missing; for instance "https://alerts.example/hook"',
        ),
        (
            "[alerts]\ncard_free_mb = '1'",
            ": alerts.card_free_mb: must be a number, not text in quotation marks; "
            "for instance 500.0",
        ),
    ],
)
def test_a_wrong_value_is_explained_with_its_full_key_and_an_example(write, text: str, says: str):
    """In the terms of TOML, not of Python."""
    path = write(text)
    with pytest.raises(SettingsError) as failure:
        read_settings(path)
    assert str(failure.value).startswith(f"{path}{says}")


def test_a_file_that_was_named_has_to_be_there(tmp_path: Path):
    with pytest.raises(SettingsError, match="No such file"):
        settings_of(tmp_path, tmp_path / "other.toml")
