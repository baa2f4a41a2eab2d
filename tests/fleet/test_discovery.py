"""The inventory against the roster: every row says how it stands and what to do."""

import pytest

from flctl.fleet.discovery import all_ready, compare, enrolled
from flctl.fleet.inventory import Expected
from flctl.transport.keypair import shown

KEY, OTHER = "k" * 40, "o" * 40


def agent(name, state="ready", **more):
    version = "0.1.0" if state not in ("lost",) else None
    seen = {"last_seen_s": 1.0, "version": version, "note": None, "last_error": None}
    return {"name": name, "state": state, **seen, **more}


def status(*agents, waiting=()):
    return {"agents": list(agents), "waiting": [{"public_key": key} for key in waiting]}


def expected(*names):
    return [Expected(name, f"{name}.lan") for name in names]


@pytest.mark.parametrize("state", ["ready", "training", "evaluating", "offering"])
def test_an_agent_that_works_is_ready(state):
    """Whatever it does just now, there is nothing to be done about it."""
    (row,) = compare(expected("pi-01"), status(agent("pi-01", state)))
    assert (row.name, row.host, row.state, row.advice) == ("pi-01", "pi-01.lan", "ready", "")
    assert all_ready([row])


@pytest.mark.parametrize("state", ["starting", "no data", "too old", "too new", "conflict"])
def test_what_the_agent_says_itself_is_the_advice(state):
    """Its own note is better than a general one, and there is always one."""
    (row,) = compare(expected("pi-01"), status(agent("pi-01", state)))
    assert row.state == state
    assert row.advice
    (row,) = compare(expected("pi-01"), status(agent("pi-01", state, note="upgrade it")))
    assert row.advice == "upgrade it"
    assert not all_ready([row])


def test_nobody_expected_is_not_all_ready():
    """Neither an empty fleet nor one that the inventory does not know passes a check."""
    assert not all_ready([])
    assert not all_ready(compare([], status(agent("pi-01"))))


def test_an_agent_that_said_goodbye_is_stopped():
    """Its power is fine."""
    (row,) = compare(expected("pi-01"), status(agent("pi-01", "stopped", last_seen_s=200.0)))
    assert (row.state, row.advice) == (
        "stopped", "stopped in order 3 min ago: start its agent again",
    )  # fmt: skip
    assert not all_ready([row])


def test_a_wrong_inventory_revokes_nobody():
    """Where most agents are not in it, it is not they who are wrong."""
    there = status(*(agent(f"pi-{n}") for n in range(4)))
    _, *extra = compare(expected("pi-0"), there)
    assert {row.advice for row in extra} == {
        "not in the inventory (ready): add it there, or name the right one"
    }
    *_, last = compare(expected("pi-0", "pi-1", "pi-2"), there, " --state 'my fleet'")
    assert last.advice.endswith("add it there, or flctl keys revoke pi-3 --state 'my fleet'")


def test_an_enrolled_agent_that_is_away_is_lost_or_missing():
    """Lost when it was there once, with the time; missing when it never was."""
    lost = agent("pi-01", "lost", last_seen_s=200.0)
    never = agent("pi-02", "lost", last_seen_s=None)
    rows = compare(expected("pi-01", "pi-02"), status(lost, never))
    assert [row.state for row in rows] == ["lost", "missing"]
    assert "3 min ago" in rows[0].advice
    assert "never seen" in rows[1].advice


def test_one_unknown_key_and_one_missing_agent_belong_together():
    """The advice is the whole command."""
    rows = compare(expected("pi-01", "pi-02"), status(agent("pi-01"), waiting=[KEY]))
    assert [row.state for row in rows] == ["ready", "waiting key"]
    key = shown(KEY)
    told = f"if agent.pub on pi-02.lan says {key}: flctl keys add pi-02 {key}"
    assert rows[1].advice == told


def test_several_unknown_keys_have_to_be_compared():
    """Which key is whose cannot be guessed: the operator is told where to look."""
    rows = compare(expected("pi-01", "pi-02"), status(waiting=[KEY, OTHER]))
    assert [(row.name, row.state) for row in rows] == [
        (name, "waiting key") for name in ("pi-01", "pi-02", None, None)
    ]
    assert all("flk_" not in row.advice and "agent.pub" in row.advice for row in rows[:2])
    assert shown(KEY) in rows[2].advice and shown(OTHER) in rows[3].advice


def test_one_key_is_not_offered_for_two_hosts():
    rows = compare(expected("pi-01", "pi-02"), status(waiting=[KEY]))
    assert [shown(KEY) in row.advice for row in rows] == [False, False, True]


def test_a_revoked_agent_does_not_wait():
    """The key that waits is somebody else's."""
    found = {**status(waiting=[KEY]), "revoked": ["pi-01"]}
    rows = compare(expected("pi-01", "pi-02"), found)
    assert [row.state for row in rows] == ["revoked", "waiting key"]
    assert "was revoked" in rows[0].advice and shown(KEY) not in rows[0].advice
    assert not all_ready(rows)


def test_without_an_unknown_key_an_unknown_agent_is_missing():
    """It is not enrolled, and nobody knocks."""
    (row,) = compare(expected("pi-01"), status())
    assert row.state == "missing"
    assert "flctl keys add pi-01 KEY" in row.advice


def test_what_is_not_in_the_inventory_is_shown():
    """An enrolled agent too many is extra; a key that nobody is expected to have waits."""
    rows = compare(expected("pi-01"), status(agent("pi-01"), agent("pi-09"), waiting=[KEY]))
    assert [(row.name, row.state) for row in rows] == [
        ("pi-01", "ready"), ("pi-09", "extra"), (None, "waiting key"),
    ]  # fmt: skip
    assert "flctl keys revoke pi-09" in rows[1].advice


def test_without_an_inventory_those_enrolled_are_expected():
    """Then nobody is extra."""
    there = status(agent("pi-01"), agent("pi-02", "lost", last_seen_s=None))
    assert [row.state for row in compare(enrolled(there), there)] == ["ready", "missing"]


def test_what_differs_from_most_agents_is_named():
    """Versions and owners' limits; where most have nothing in common, nothing is drift."""
    from flctl.fleet.discovery import drift

    agents = [{"name": f"pi-{n}", "version": "1", "limits": {"min_examples": 16}} for n in range(4)]
    assert drift({"agents": agents}) == []
    agents[2]["version"] = "0"
    agents[3]["limits"] = {"min_examples": 1}
    version, limits = drift({"agents": agents})
    assert version.startswith("version not as on most agents: pi-2;")
    assert limits.startswith("limits not as on most agents: pi-3;")
    assert drift({"agents": agents[1:3]}) == []
