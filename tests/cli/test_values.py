"""What a person types becomes what the program needs, or one line that says how to type it."""

import pytest

from flctl.errors import UsageError
from flctl.values import arguments, named_paths, names, seconds, share_of


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("60", 60),
        ("60s", 60),
        ("10m", 600),
        ("1.5m", 90),
        ("2h", 7200),
        ("7d", 604800),
        (".5", 0.5),
    ],
)
def test_times(text, value):
    """A time is a number with s, m, h or d behind it; without one it is in seconds."""
    assert seconds(text, "--wait") == value


@pytest.mark.parametrize("text", ["", "ten", "-5", "5x", "1m30s", "inf", "nan", "9" * 400])
def test_what_is_no_time(text):
    """Anything else is refused with the flag's name and an example."""
    with pytest.raises(UsageError, match="--wait"):
        seconds(text, "--wait")


def test_arguments_of_an_optimiser():
    """Numbers, truth values and lists, as TOML writes them."""
    found = arguments("momentum=0.9,nesterov=true,betas=[0.9,0.99]", "--optimizer-args")
    assert found == {"momentum": 0.9, "nesterov": True, "betas": [0.9, 0.99]}
    with pytest.raises(UsageError, match="NAME=VALUE"):
        arguments("momentum:0.9", "--optimizer-args")


def test_names():
    """Commas separate names; an empty one is a slip."""
    assert names("pi-01, pi-02", "--agents") == ("pi-01", "pi-02")
    with pytest.raises(UsageError, match="commas"):
        names("pi-01,,pi-02", "--agents")


def test_named_paths(tmp_path, monkeypatch):
    """PATH is the data set "default"; an equals sign within a path does not make a name."""
    monkeypatch.chdir(tmp_path)
    assert named_paths(["a/x=1.npz"], "--data") == {"default": str(tmp_path / "a/x=1.npz")}
    assert named_paths(["icu=b", "c"], "--data") == {
        "icu": str(tmp_path / "b"),
        "default": str(tmp_path / "c"),
    }
    with pytest.raises(UsageError, match="twice"):
        named_paths(["a", "b"], "--data")
    with pytest.raises(UsageError, match="write PATH or NAME=PATH"):
        named_paths(["a="], "--data")
    with pytest.raises(UsageError, match="'c': write NAME=PATH"):
        named_paths(["c"], "--data", None)


def test_shares_count_from_one():
    """2/4 is the second of four: index 1."""
    assert share_of("2/4", "--shard") == (1, 4)
    for text in ("0/4", "5/4", "2", "a/b"):
        with pytest.raises(UsageError, match="K/N"):
            share_of(text, "--shard")
