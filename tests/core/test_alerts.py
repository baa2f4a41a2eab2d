"""When alerts fire, are sent and are resolved: with both clocks in the test's hand."""

import msgspec
import pytest

from flctl.core.alerts import NOTICES, AlertBook, Alerting, Observed, Span
from flctl.errors import UsageError

SPANS = {"agent_lost": Span(600, 0), "throttled": Span(60, 120), "no_round": Span(3600, 0)}


class Watch:
    """An Alerting with clocks that only the test moves."""

    def __init__(self, sinks=("webhook",), spans=SPANS):
        self.now, self.wall, self.sinks, self.spans = 1000.0, 1.7e9, sinks, spans
        self.alerting = Alerting(spans, sinks, AlertBook(), self.now, self.wall)

    def look(self, *observed, after=0.0):
        self.now, self.wall = self.now + after, self.wall + after
        changes = self.alerting.observe(observed, self.now, self.wall)
        return [(change.event, change.alert.kind, change.alert.subject) for change in changes]

    def told(self, sink="webhook"):
        return [(notice.event, notice.alert) for notice in self.alerting.waiting(sink)]

    def restart(self, wall=0.0):
        """Through the bytes of the file; the monotonic clock begins at another value."""
        data = msgspec.json.encode(self.alerting.book(self.now, self.wall))
        self.now, self.wall = 5.0, self.wall + wall
        book = msgspec.json.decode(data, type=AlertBook)
        self.alerting = Alerting(self.spans, self.sinks, book, self.now, self.wall)


def lost(bad=True, since=None):
    return Observed("agent_lost", "pi-01", bad, "away", since)


def hot(bad=True):
    return Observed("throttled", "pi-01", bad, "throttled")


def test_it_fires_once_when_it_has_lasted_and_is_resolved_once():
    """However often it is looked at in between."""
    watch = Watch()
    assert watch.look(lost()) == []
    assert watch.look(lost(), after=599) == []
    assert watch.look(lost(), after=1) == [("firing", "agent_lost", "pi-01")]
    assert watch.look(lost(), after=5000) == []
    assert watch.look(lost(bad=False), after=5) == [("resolved", "agent_lost", "pi-01")]
    assert watch.look(lost(bad=False), after=5) == []
    assert watch.told() == [("firing", "agent_lost"), ("resolved", "agent_lost")]


def test_a_known_beginning_counts():
    """An agent that was last heard ten minutes ago is lost at the first look."""
    watch = Watch()
    assert watch.look(lost(since=watch.now - 601)) == [("firing", "agent_lost", "pi-01")]


def test_a_recent_beginning_mends_what_fired():
    """The run has had a round since."""
    watch = Watch()
    watch.look(Observed("no_round", "run", True, "", watch.now - 4000))
    changes = watch.look(Observed("no_round", "run", True, "", watch.now + 5), after=5)
    assert changes == [("resolved", "no_round", "run")]


def test_one_that_comes_and_goes_does_not_fire_each_time():
    """Throttling has to last a minute, and to be over for two."""
    watch = Watch()
    changes = []
    for step in range(200):  # ten seconds each
        changes += watch.look(hot(bad=step < 10 or step % 3 == 0), after=10)
    assert changes == [("firing", "throttled", "pi-01")]
    watch.look(hot(bad=False), after=10)
    assert watch.look(hot(bad=False), after=120) == [("resolved", "throttled", "pi-01")]


def test_what_cannot_be_known_changes_nothing():
    """An agent that is away is neither throttled nor cool."""
    watch = Watch()
    watch.look(hot())
    watch.look(hot(), after=60)
    for _ in range(5):
        assert watch.look(hot(bad=None), after=1000) == []
    assert [a.kind for a in watch.alerting.firing.values()] == ["throttled"]


def test_what_is_no_longer_there_is_over():
    """A revoked agent, a run that has ended, a token that has closed."""
    watch = Watch()
    watch.look(lost(since=0))
    assert watch.look() == [("resolved", "agent_lost", "pi-01")]


@pytest.mark.parametrize("jump", [0.0, 3600.0, -86400.0 * 365, 86400.0 * 365 * 30])
def test_a_restart_fires_nothing_twice_whatever_the_clock_says(jump):
    """Also if the computer has no battery for its clock."""
    watch = Watch()
    watch.look(lost(since=0))
    watch.alerting.taken("webhook", watch.alerting.last_notice)
    watch.restart(wall=jump)
    assert watch.look(lost()) == []
    assert watch.look(lost(), after=5000) == []
    assert watch.told() == []
    assert watch.look(lost(bad=False)) == [("resolved", "agent_lost", "pi-01")]
    assert watch.told() == [("resolved", "agent_lost")]


def test_what_was_not_taken_before_a_restart_is_told_after_it():
    """With the same number, so that a receiver that had it can tell."""
    watch = Watch()
    watch.look(lost(since=0))
    before = watch.alerting.waiting("webhook")
    watch.restart()
    assert watch.alerting.waiting("webhook") == before


def test_each_sink_takes_at_its_own_pace():
    """One that does not answer keeps the other from nothing."""
    watch = Watch(sinks=("webhook", "command"))
    watch.look(lost(since=0))
    watch.alerting.taken("command", watch.alerting.last_notice)
    assert (watch.told(), watch.told("command")) == ([("firing", "agent_lost")], [])


def test_what_is_kept_for_a_dead_sink_is_bounded():
    """The oldest are dropped, and counted."""
    watch = Watch()
    for _ in range(NOTICES):
        watch.look(lost(since=0))
        watch.look(lost(bad=False))
    assert len(watch.alerting.waiting("webhook")) == NOTICES
    assert watch.alerting.dropped == NOTICES


def test_without_a_sink_alerts_are_listed_and_a_later_sink_hears_of_them():
    """A webhook that is set up while something is wrong."""
    watch = Watch(sinks=())
    assert watch.look(lost(since=0)) == [("firing", "agent_lost", "pi-01")]
    watch.sinks = ("webhook",)
    watch.restart()
    watch.look(lost())
    assert watch.told() == [("firing", "agent_lost")]


@pytest.mark.parametrize("name", ["pi-01", "agent_lost"])
def test_a_muted_alert_is_told_when_the_mute_ends_if_it_still_fires(name):
    """By its name or by the agent's; it is listed all the time."""
    watch = Watch()
    watch.alerting.mute(name, 7200, watch.now)
    assert watch.look(lost(since=0)) == [("firing", "agent_lost", "pi-01")]
    assert (watch.told(), watch.alerting.counts()) == ([], {})
    watch.look(lost(), after=7201)
    assert watch.told() == [("firing", "agent_lost")]


def test_a_mute_ends_early_and_what_was_told_is_told_to_be_resolved():
    """A page that was opened gets closed."""
    watch = Watch()
    watch.look(lost(since=0))
    watch.alerting.mute("pi-01", 7200, watch.now)
    watch.look(lost(bad=False))
    assert watch.told() == [("firing", "agent_lost"), ("resolved", "agent_lost")]
    watch.alerting.mute("pi-01", 0, watch.now)
    assert watch.alerting.muted(watch.now) == {}


@pytest.mark.parametrize(("jump", "left"), [(0, 7200), (3600, 3600), (-1e8, 7200), (1e8, 0)])
def test_a_mute_survives_a_restart_and_no_clock_makes_it_longer(jump, left):
    watch = Watch()
    watch.alerting.mute("pi-01", 7200, watch.now)
    watch.restart(wall=jump)
    assert watch.alerting.muted(watch.now) == {"pi-01": left}


def test_an_acknowledged_alert_counts_no_longer_until_it_fires_again():
    watch = Watch()
    watch.look(lost(since=0))
    watch.alerting.acknowledge(1)
    assert watch.alerting.counts() == {}
    watch.restart()
    assert watch.alerting.counts() == {}
    watch.look(lost(bad=False))
    watch.look(lost(since=watch.now - 601))
    assert watch.alerting.counts() == {"agent_lost": 1}
    with pytest.raises(UsageError, match="no alert 1 is firing"):
        watch.alerting.acknowledge(1)


def test_an_agents_words_stay_one_printable_line():
    """Whatever it sends: escapes, line ends, characters that turn the direction."""
    watch = Watch()
    words = "\x1b[31m<b>\n'; rm -rf /\u202e" + "x" * 5000
    watch.look(Observed("agent_lost", "pi-01", True, words, 0))
    text = watch.alerting.waiting("webhook")[0].text
    assert text.isprintable()
    assert len(text) < 400
