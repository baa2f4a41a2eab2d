"""What `flctl status` shows of an agent that is silent or away."""

import pytest
from rich.console import Console

from flctl.coordinator.front.views import agent_status
from flctl.core.roster import Member
from flctl.terminal.status import picture
from flctl.wire.messages import Device, Hello, Limits


def shown(state, last_seen_s, **more):
    """The row of one agent, as text, of a coordinator that loses agents after 30 s."""
    live = {
        "rtt_ms": 3.5, "temperature_c": 50.0, "memory_used_bytes": 2**20,
        "memory_total_bytes": 2**30, "load_1m": 0.75, "throttled": ["under-voltage"],
    }  # fmt: skip
    agent = {**agent_status(Member("pi-01"), 0.0), **live, "state": state, "version": "0.1.0"}
    head = {"endpoint": "e", "version": "0", "uptime_s": 1.0, "run": None, "lost_after_s": 30.0}
    found = {
        "coordinator": head,
        "agents": [{**agent, "last_seen_s": last_seen_s, **more}],
        "waiting": [],
    }
    console = Console(width=200)
    with console.capture() as capture:
        console.print(picture(found))
    return capture.get().splitlines()[-1]


def test_an_agent_that_speaks():
    """Its live figures, and not a word of silence."""
    row = shown("ready", 4.0)
    assert "3.5 ms" in row
    assert "silent" not in row


def test_an_agent_that_has_not_spoken_for_two_heartbeats():
    """It still counts as ready, and one sees for how long."""
    assert "silent for 14 s, lost after 30 s" in shown("ready", 14.0)


@pytest.mark.parametrize("state", ["lost", "stopped"])
def test_an_agent_that_is_away(state):
    """No figure of the past is shown as if it were now."""
    row = shown(state, 95.0)
    assert "last seen 1:35 ago" in row
    for old in ("3.5 ms", "50 °C", "1.0 GiB", "0.75", "under-voltage"):
        assert old not in row


def test_an_agent_that_was_not_there_since_the_coordinator_has_been_started():
    """Nobody says that it was never seen: the coordinator does not remember."""
    row = shown("lost", None)
    assert "not seen" in row
    assert "not seen since the coordinator started" in row


def test_an_agent_that_was_here_before_the_coordinator_was_started():
    """It is lost; since when it was not heard, where that is known."""
    past = {"expected": True, "last_heard": 1.8e9}
    row = shown("lost", None, **past)
    assert "not seen" not in row and "not heard since 2027-01-15 08:00:00 UTC" in row


def test_what_an_owner_allows_is_shown_wide():
    """A row for each agent; an older agent has no limits, and says so."""
    members = [Member("pi-01"), Member("pi-02"), Member("pi-03")]
    for member, limits in zip(
        members, (Limits(min_examples=77, max_rounds_per_hour=0), None), strict=False
    ):
        member.hello = Hello(
            session="a" * 32, version="1", role="train", tasks={}, limits=limits,
            device=Device(kind="Pi", arch="a", cores=4, memory_bytes=1),
        )  # fmt: skip
    head = {"endpoint": "e", "version": "0", "uptime_s": 1.0, "run": None}
    agents = [agent_status(member, 0.0) for member in members]
    found = {"coordinator": head, "agents": agents, "waiting": []}
    console = Console(width=200)
    with console.capture() as capture:
        console.print(picture(found, wide=True))
    lines = capture.get().splitlines()[-3:]
    assert lines[0].split() == ["pi-01", "77", "8", "1", "1024", "MiB", "no", "limit", "refused"]
    assert [line.split() for line in lines[1:]] == [[n, *"------"] for n in ("pi-02", "pi-03")]


def test_an_open_token_is_a_warning():
    """With or without agents, and what closes it."""
    head = {"endpoint": "e", "version": "0", "uptime_s": 1.0, "run": None}
    token = {"id": "12345678", "uses_left": 2, "closes_in_s": 2400.0}
    found = {"coordinator": head, "agents": [], "waiting": [], "tokens": [token]}
    console = Console(width=200)
    with console.capture() as capture:
        console.print(picture(found, options=" --context far"))
    last = capture.get().splitlines()[-1]
    assert last == (
        "1 join token open, 2 uses left, closing within 40:00: flctl keys tokens --context far"
    )
