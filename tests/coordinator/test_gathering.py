"""Waiting for agents, with the time passed in."""

import pytest

from flctl.coordinator.run.crew import Crew
from flctl.coordinator.run.gathering import QUIET_S, Gathering
from flctl.core.roster import Roster
from flctl.core.round import STARTING_S
from flctl.errors import NoAgents
from flctl.settings import RunSettings
from flctl.wire.messages import DatasetInfo, Device, Hello

DIGEST = "d" * 64
DEVICE = Device(kind="test", arch="x86_64", cores=1, memory_bytes=2**30)


class Waiting:
    """A gathering with its roster; `enrolled` and `ready` are names in one string."""

    def __init__(
        self, enrolled="", ready="", first=True, patient=False, accepted=(), **settings
    ) -> None:
        self.roster = Roster()
        self.enrolled = enrolled.split()
        self.come(*ready.split())
        settings.setdefault("wait_s", 60.0)
        run = RunSettings(task="ecg", **settings)
        crew = Crew(run, DIGEST, self.roster, lambda: self.enrolled)
        self.gathering = Gathering(crew, 1000.0, first, accepted=accepted, patient=patient)

    def come(self, *names, examples=9, role="train", digest=DIGEST, error=None, **datasets) -> None:
        for name in names:
            datasets = datasets or {"default": examples}
            hello = Hello(
                session="0" * 32,
                version="1",
                role=role,
                device=DEVICE,
                tasks={"ecg": digest} if digest else {},
                datasets=tuple(
                    DatasetInfo(name=n, task="ecg", examples=e) for n, e in datasets.items() if e
                ),
                error=error,
            )
            self.roster.on_hello(name, name.encode(), hello, 1, 1000.0)

    def go(self, name: str) -> None:
        self.roster.on_goodbye(name.encode())

    def look(self, after_s: float) -> list[str] | None:
        return self.gathering.look(1000.0 + after_s)

    def gives_up(self, after_s: float) -> str:
        with pytest.raises(NoAgents) as caught:
            self.look(after_s)
        assert "\n" not in str(caught.value)
        return str(caught.value)


# Nobody is named -------------------------------------------------------------------------


def test_when_all_enrolled_are_here_the_round_opens_at_once():
    """There is nobody else who could come."""
    assert Waiting("a b", "b a").look(0) == ["a", "b"]


def test_the_first_round_gives_those_who_are_not_here_yet_time_to_come():
    """A fleet that boots: each newcomer renews the quiet time; then whoever is here goes."""
    waiting = Waiting("a b c d", "a", quorum=0.25)
    assert waiting.look(0) is None
    assert waiting.look(QUIET_S - 0.1) is None
    waiting.come("b")
    assert waiting.look(QUIET_S) is None
    assert waiting.look(2 * QUIET_S - 0.1) is None
    assert waiting.look(2 * QUIET_S) == ["a", "b"]


def test_the_last_one_who_comes_ends_the_wait():
    """At once, and not after the quiet time."""
    waiting = Waiting("a b", "a")
    assert waiting.look(0) is None
    waiting.come("b")
    assert waiting.look(1) == ["a", "b"]


def test_later_rounds_take_those_that_are_here():
    """An agent that is away does not hold up every round; two of three do."""
    assert Waiting("a b c", "b c", first=False).look(0) == ["b", "c"]
    alone = Waiting("a b c", "b", first=False)
    assert alone.look(59.9) is None
    assert alone.gives_up(60) == (
        "1 of 2 required agents ready (a: not connected; c: not connected)"
    )


def test_the_quorum_counts_those_that_are_enrolled():
    """And not those that happen to be here: 0.8 of five are four."""
    waiting = Waiting("a b c d e", "a b c", first=False, quorum=0.8)
    assert waiting.look(0) is None
    waiting.come("d")
    assert waiting.look(1) == list("abcd")


def test_a_cordon_takes_an_agent_out_of_the_quorum():
    """At once, whether it is here or not; but it does not make one agent enough."""
    waiting = Waiting("a b c", "a b", first=False, quorum=1.0)
    assert waiting.look(0) is None
    waiting.roster.cordoned = {"c"}
    assert waiting.look(0) == ["a", "b"]
    waiting.roster.cordoned = {"b", "c"}
    assert waiting.look(0) is None
    assert waiting.gathering.missing() == []


def test_agents_for_other_work_are_not_counted():
    """They evaluate, or have the data of another task only; one without any data is missing, one
    whose data have run out is not."""
    waiting = Waiting("a b c d e", "a b", first=False, quorum=1.0)
    waiting.come("c", role="evaluate")
    waiting.come("d", other=7)
    waiting.come("e", examples=0, error="no file in /data")
    assert waiting.look(0) is None
    waiting.come("e")
    assert waiting.look(1) == ["a", "b", "e"]
    waiting.come("e", examples=0, error="no file in /data")
    assert waiting.look(2) == ["a", "b"] and waiting.gathering.draw(1).absent == ("e",)


def test_a_fleet_of_one_is_enough_for_itself():
    assert Waiting("a", "a").look(0) == ["a"]


def test_a_patient_one_waits_for_ever():
    """For a run that is paused until enough agents are here."""
    waiting = Waiting("a b c", "a", patient=True)
    assert waiting.look(10**6) is None
    waiting.come("c")
    assert waiting.look(10**6 + 1) is None
    assert waiting.look(10**6 + 1 + QUIET_S) == ["a", "c"]


def test_a_patient_one_does_not_wait_for_all_that_are_named():
    """The quorum of them is enough."""
    waiting = Waiting("a b c", "a", patient=True, agents=("a", "b", "c"))
    assert waiting.look(10**6) is None
    waiting.come("c")
    waiting.look(10**6 + 1)
    assert waiting.look(10**6 + 1 + QUIET_S) == ["a", "b", "c"]


def test_updates_that_are_here_count_as_their_agents_do():
    """Their agents may be away by now."""
    assert Waiting("a b c", "c", first=False, accepted=("a",)).look(0) == ["c"]


def test_a_round_waits_for_the_first_agent():
    """With nobody there is nothing to do, until the wait is over."""
    waiting = Waiting("a", first=False)
    assert waiting.look(59.9) is None
    assert waiting.gives_up(60) == ("0 of 1 required agent ready (a: not connected)")


def test_without_any_enrolled_agent_the_error_says_how_to_enrol_one():
    """The first thing that goes wrong for everybody."""
    assert "flctl keys token" in Waiting().gives_up(60)


def test_a_quorum_in_numbers_is_waited_for():
    """Also in later rounds; agents above it are welcome, not required."""
    waiting = Waiting("a b c d", "a b", first=False, quorum=3)
    assert waiting.look(30) is None
    waiting.come("d")
    assert waiting.look(31) == ["a", "b", "d"]
    waiting.go("d")
    assert "2 of 3 required agents" in waiting.gives_up(60)


def test_a_quorum_of_those_drawn_needs_a_larger_fleet():
    """Three updates from half of the agents: five must be enrolled, or no draw is large enough."""
    waiting = Waiting("a b c d", "a b c d", first=False, quorum=3, fraction=0.5)
    assert waiting.look(0) is None
    assert "4 of 5 required agents" in waiting.gives_up(60)
    waiting.enrolled.append("e")
    assert waiting.look(60) == list("abcd")


def test_when_the_wait_is_over_whoever_is_here_goes():
    """Even if agents came and went all the time."""
    waiting = Waiting("a b c", "a", wait_s=4.0, quorum=0.3)
    assert waiting.look(0) is None
    waiting.come("b")
    assert waiting.look(3.9) is None
    assert waiting.look(4.0) == ["a", "b"]


def test_agents_that_still_look_at_their_data_are_waited_for():
    """A Pi takes its time to import torch; but not for ever."""
    waiting = Waiting("a b", "a", wait_s=10.0, quorum=0.5)
    waiting.come("b", examples=0)
    assert waiting.roster.member("b").state == "starting"
    assert waiting.look(QUIET_S + 1) is waiting.look(100) is None
    assert waiting.look(10 + STARTING_S) == ["a"]
    waiting.come("b")
    assert waiting.look(10 + STARTING_S) == ["a", "b"]


def test_it_is_news_when_somebody_comes_or_goes():
    """Then it reports again for whom it waits."""
    waiting = Waiting("a b", "")
    assert waiting.look(2) is None
    before = waiting.gathering.news(1002.0)
    assert waiting.look(3) is None and waiting.gathering.news(1003.0) == before
    waiting.come("a")
    assert waiting.look(4) is None and waiting.gathering.news(1004.0) != before


# Agents are named ------------------------------------------------------------------------


def test_named_agents_begin_when_all_are_here():
    """The others of the fleet neither take part nor count."""
    waiting = Waiting("a b c", "c a b", agents=("b", "a"))
    assert waiting.look(0) == ["a", "b"]
    assert waiting.gathering.ready() == ["a", "b"]


def test_others_do_not_stand_in_for_the_named():
    """Two strangers do not make the quorum of the two that were named."""
    waiting = Waiting("a b c d", "c d", agents=("a", "b"))
    assert waiting.look(59) is None
    assert "0 of 2 required agents ready" in waiting.gives_up(60)


def test_the_start_of_others_is_not_waited_for():
    """An agent that is not named may look at its data as long as it likes."""
    waiting = Waiting("a b c", "a", agents=("a", "b"), quorum=0.5)
    waiting.come("c", examples=0)
    assert waiting.look(60) == ["a", "b"]


def test_the_named_that_are_missing_can_come_back_until_the_deadline():
    """With the quorum: after the wait in the first round, at once in later ones."""
    options = {"agents": ("a", "b", "c"), "quorum": 2}
    waiting = Waiting("a b c", "a b", **options)
    assert waiting.look(59.9) is None
    assert waiting.look(60) == ["a", "b", "c"]
    assert Waiting("a b c", "a b", first=False, **options).look(0) == ["a", "b", "c"]
    below = Waiting("a b c", "a", first=False, **options)
    assert below.look(59.9) is None
    assert "1 of 2 required agents ready" in below.gives_up(60)


def test_named_agents_without_data_end_the_wait_at_once():
    """All are here, and waiting puts no data on a disk."""
    waiting = Waiting("a b", "a", agents=("a", "b"), quorum=1.0)
    waiting.come("b", examples=0, error="no file in /data")
    assert waiting.gives_up(0) == ("1 of 2 required agents ready (b: no file in /data)")


# Why not? --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("agent", "excuse"),
    [
        (
            {"digest": "e" * 64},
            "its task ecg differs from the run's: upgrade it; if it is the run that is older, "
            "begin a new one",
        ),
        ({"digest": None}, "no data for task ecg, data set default"),
        ({"other": 5}, "no data for task ecg, data set default"),
        ({"role": "evaluate"}, "its role is to evaluate"),
        ({"examples": 0, "error": "no file in /data"}, "no file in /data"),
        ({"examples": 0}, "starting"),
    ],
)
def test_every_agent_that_does_not_fit_has_its_reason(agent, excuse):
    """So that a person knows what to do."""
    waiting = Waiting("a b", "a", agents=("a", "b"), quorum=1.0)
    waiting.come("b", **agent)
    assert waiting.gathering.ready() == ["a"]
    assert waiting.gathering.why_not() == f"b: {excuse}"


def test_the_roster_has_reasons_too():
    """A conflict, a protocol, silence, an unknown name."""
    waiting = Waiting("a b c", "a b", agents=("a", "b", "c", "d"))
    waiting.roster.on_wrong_protocol("a", "too old", "upgrade the agent", 1000.0)
    waiting.roster.on_time(2000.0)
    assert waiting.gathering.why_not() == (
        "a: upgrade the agent; b: lost; c: not connected; d: not enrolled (flctl keys add)"
    )


def test_a_large_fleet_does_not_fill_the_screen():
    """Six reasons are enough."""
    text = Waiting(" ".join(f"pi-{n}" for n in range(500))).gives_up(60)
    assert text.count("not connected") == 6 and text.endswith(" …)")
