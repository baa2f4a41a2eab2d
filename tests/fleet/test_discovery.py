"""The inventory against the roster: every row says how it stands and what to do."""

import msgspec
import pytest

from flctl.agent.config import Choices
from flctl.fleet.discovery import all_ready, compare, enrolled
from flctl.fleet.drift import drift
from flctl.fleet.inventory import Expected
from flctl.transport.keypair import shown
from flctl.wire.messages import Limits

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
        "stopped", "shut down 3:20 ago: start its agent again",
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
    assert "3:20 ago" in rows[0].advice
    assert "never seen" in rows[1].advice


def test_an_agent_that_was_here_before_the_coordinator_was_started_is_lost():
    """Nothing is wrong with its key; the time is known, or it is not."""
    known = agent("pi-01", "lost", last_seen_s=None, expected=True, last_heard=1.8e9)
    unknown = agent("pi-02", "lost", last_seen_s=None, expected=True, last_heard=None)
    rows = compare(expected("pi-01", "pi-02"), status(known, unknown))
    assert [row.state for row in rows] == ["lost", "lost"]
    assert rows[0].advice.startswith("not heard since 2027-01-15 08:00:00 UTC: check its power")
    assert rows[1].advice.startswith("not heard since the coordinator was started: check")


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


IMAGE, OTHER_IMAGE = "9c1d" * 16, "3f2a" * 16
LIMITS = msgspec.to_builtins(Limits())


USUAL = Choices()


def deployed(name, settings=USUAL, limits=LIMITS, **more):
    """As the playbooks set one up."""
    about = {"arch": "aarch64", "cores": 4, "image": IMAGE, "limits": limits, **more}
    return agent(name, settings=settings.digest, **about)


def advice(agents, hosts):
    rows = compare(hosts, status(*agents), inventory="fleet.yml")
    assert {row.state for row in rows} == {"ready"}
    return [row.advice for row in rows]


def test_what_differs_from_most_agents_is_named():
    """Version, image, settings and limits, with both values; where most have nothing in common,
    nothing is drift. What a person has set up no playbook sets right."""
    hosts = expected("pi-0", "pi-1", "pi-2", "pi-3", "pi-4")
    agents = [deployed(f"pi-{n}") for n in range(5)]
    assert advice(agents, hosts) == [""] * 5
    agents[1]["version"] = "0"
    agents[2]["image"] = OTHER_IMAGE
    agents[3] = deployed("pi-3", Choices(device="cuda"), {**LIMITS, "min_examples": 1}, image=None)
    usual, other = USUAL.digest[:12], Choices(device="cuda").digest[:12]
    assert advice(agents, hosts) == [
        "",
        "version 0 instead of 0.1.0 as on most; run: flctl deploy -i fleet.yml --limit pi-1",
        "image 3f2a3f2a3f2a instead of 9c1d9c1d9c1d as on most; "
        "run: flctl deploy -i fleet.yml --limit pi-2",
        f"settings {other} instead of {usual} as on most, min_examples 1 instead of 16 as on most",
        "",
    ]
    assert advice(agents[:2], hosts[:2]) == ["", ""]
    (image,) = compare(hosts, status(*agents))[2].drift
    assert msgspec.to_builtins(image) == {
        "what": "image", "has": OTHER_IMAGE, "wanted": IMAGE, "by": "most agents",
    }  # fmt: skip


def test_images_of_two_architectures_are_not_drift():
    """Nor is one of another version beside its version."""
    agents = [deployed("pi-0"), deployed("pi-1"), deployed("pc", arch="x86_64", image=OTHER_IMAGE)]
    assert not drift(agents)
    assert not drift([{**each, "version": f"0.{n}"} for n, each in enumerate(agents)])


@pytest.mark.parametrize(
    ("variables", "is_as_wanted"),
    [
        ({}, False),
        ({"flctl_agent_threads": 3, "flctl_agent_min_examples": "5"}, True),
        ({"flctl_agent_environment": {"FLCTL_THREADS": "3", "FLCTL_MIN_EXAMPLES": "5"}}, True),
        ({"flctl_agent_threads": 3, "flctl_agent_min_examples": 5, "flctl_agent_role": 7}, None),
        ({"flctl_agent_threads": "{{ 2 + 1 }}", "flctl_agent_min_examples": 5}, None),
        ({"flctl_agent_environment": "{{ of_all }}"}, None),
        ({"flctl_agent_environment": ["FLCTL_THREADS"]}, False),
    ],
)
def test_an_inventory_says_how_each_host_should_be(variables, is_as_wanted):
    """What one host is meant to have is no drift, though it is alone with it; all hosts may be
    wrong together. Where only Ansible could evaluate a variable, most agents count (None)."""
    hosts = [Expected("pi-0", "pi-0", "zero", variables), *expected("pi-1", "pi-2")]
    odd = deployed("pi-0", Choices(threads=3), {**LIMITS, "min_examples": 5})
    found = drift([odd, deployed("pi-1"), deployed("pi-2")], hosts).get("pi-0", ())
    assert [(each.what, each.by) for each in found] == (
        []
        if is_as_wanted
        else [(what, "inventory" if is_as_wanted is False else "most agents")
              for what in ("settings", "min_examples")]
    )  # fmt: skip
    assert ["--limit zero" in said for said in advice([odd], hosts[:1])] == [
        bool(found and is_as_wanted is False)
    ]


@pytest.mark.parametrize(
    ("variables", "labels", "advice"),
    [
        ({}, {}, None),
        ({"flctl_labels": {"site": "ward-3", "rack": 7}}, {"rack": "7", "site": "ward-3"}, None),
        ({"flctl_labels": {"site": "ward-4"}}, {"site": "ward-3"},
         "labels site=ward-3 instead of site=ward-4"),
        ({"flctl_labels": {"site": "ward-4"}}, {}, "labels none instead of site=ward-4"),
        ({}, {"site": "ward-3"}, "labels site=ward-3 instead of none"),
        ({"flctl_labels": "{{ of_all }}"}, {"site": "ward-3"}, None),
        ({"flctl_labels": ["site"]}, {"site": "ward-3"}, None),
    ],
)  # fmt: skip
def test_labels_that_differ_from_the_inventory_are_named(variables, labels, advice):
    """Those that agents say; what an operator has set on the coordinator is no drift. Agents do
    not need the same."""
    hosts = [Expected("pi-0", "pi-0", "pi-0", variables), *expected("pi-1", "pi-2")]
    mine = deployed("pi-0", own_labels=labels, labels={"site": "other"})
    found = drift([mine, deployed("pi-1", own_labels={}), deployed("pi-2", own_labels={})], hosts)
    said = [str(each) for each in found.get("pi-0", ())]
    assert said == ([advice] if advice else [])
    assert not drift([mine, deployed("pi-1", own_labels={})])


def test_as_many_threads_as_are_usual_are_the_default():
    """Half of the cores, whether it is said or not; lists may be text, in any order."""
    hosts = [
        Expected(
            "pi-0", "pi-0", "pi-0", {"flctl_agent_threads": 2, "flctl_agent_tasks": ["b", "a"]}
        )
    ]
    assert not drift([deployed("pi-0", Choices(tasks=("a", "b")))], hosts)
    hosts = [Expected("pi-0", "pi-0", "pi-0", {"flctl_agent_environment": {"FLCTL_TASK": "b a"}})]
    assert not drift([deployed("pi-0", Choices(tasks=("a", "b")))], hosts)


def test_an_agent_by_hand_is_not_judged_by_an_inventory():
    """Its options are not made of those variables."""
    hosts = [Expected("pi-0", "pi-0", "pi-0", {"flctl_agent_min_examples": 5})]
    assert not drift([deployed("pi-0", image=None)], hosts)
    assert drift([deployed("pi-0")], hosts)
