"""The coordinator's alerts: observes every few seconds, notifies the sinks, keeps the book.

Everything that may be slow (the webhook, the command, the disk) is in threads of its own that the
loop never waits for.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from flctl.coordinator.alerts.book import load_book, save_book
from flctl.coordinator.alerts.observing import Observer
from flctl.coordinator.alerts.settings import AlertSettings
from flctl.coordinator.background import Background, DaemonBackground
from flctl.core.alerts import KINDS, Alerting, Firing, SinkName
from flctl.core.roster import Roster
from flctl.errors import FlctlError, UsageError, one_line
from flctl.transport.gate import Gate
from flctl.transport.tokens import Token
from flctl.wire import questions as q

if TYPE_CHECKING:
    from flctl.coordinator.alerts.sending import Sink

logger = logging.getLogger(__name__)

Tested: TypeAlias = Callable[[dict[str, Any], FlctlError | None], None]
"""Called with the sinks that got a test alert, and why one of them has not accepted it."""
SOURCE = "(alerts)"
LOOK_S = 5.0
BATCH = 50
"""Notices of one request, or of one start of the command."""
BACKOFF_S = (5.0, 600.0)
KEEP_AGAIN_S = 30.0
TEST_S = 60.0
"""How long a test alert waits for the answers of the sinks."""
UNKEPT_S = 5.0
"""A notice is sent once the book has it, so that a restart does not send it twice; not later than
this: a full disk must not silence alerts."""


class Delivery:
    """Notices to one sink, in order, one attempt at a time, again until it takes them."""

    def __init__(
        self, name: SinkName, sink: "Sink", background: Background, alerting: Alerting, gate: Gate
    ) -> None:
        self._name, self._sink, self._background = name, sink, background
        self._alerting, self._gate = alerting, gate
        self._busy = self._taken = False
        self._pause_s, self._retry_at, self._now = BACKOFF_S[0], float("-inf"), 0.0
        self.failing = ""
        """Why the last attempt failed; empty when it did not."""

    def step(self, upto: int, now: float) -> bool:
        """Send what waits, up to this notice; whether something was taken since the last call."""
        self._now, self._taken = now, False
        self._background.finish()
        if not self._busy and now >= self._retry_at:
            waiting = self._alerting.waiting(self._name)
            batch = [notice for notice in waiting if notice.number <= upto][:BATCH]
            if batch:
                self._busy = True
                last = batch[-1].number
                self._background.submit(
                    lambda: self._sink.send(batch), lambda _, error: self._ended(last, error)
                )
        return self._taken

    def hurry(self) -> None:
        """Try again now."""
        self.failing, self._pause_s, self._retry_at = "", BACKOFF_S[0], float("-inf")

    def outcome(self, number: int, late: bool) -> str | None:
        """Why this notice was not accepted, "" if it was, None while that is open."""
        if all(notice.number != number for notice in self._alerting.waiting(self._name)):
            return ""
        return self.failing or (f"no answer within {TEST_S:.0f} s" if late else None)

    def close(self) -> None:
        self._background.close()  # an attempt that is about to succeed is not made twice
        self._sink.abort()

    def shown(self) -> dict[str, Any]:
        return {"waiting": len(self._alerting.waiting(self._name)), "failing": self.failing}

    def _ended(self, last: int, error: BaseException | None) -> None:
        self._busy = False
        if error is None:
            if self.failing:
                self._gate.info(logger, SOURCE, "the %s accepts alerts again", self._name)
            self.failing, self._pause_s, self._taken = "", BACKOFF_S[0], True
            self._alerting.taken(self._name, last)
            return
        why = one_line(str(error) or type(error).__name__)
        if not self.failing:
            text = "the %s does not accept alerts: %s; retrying at growing intervals"
            self._gate.warning(logger, SOURCE, text, self._name, why)
        self.failing = why
        self._retry_at = self._now + self._pause_s
        self._pause_s = min(2 * self._pause_s, BACKOFF_S[1])


class Alarms:
    """Alerts of the coordinator whose state folder this is. `enrolled`, `run` and `tokens` say
    what there is; `sinks` and `background` are those of the settings unless a test has others."""

    def __init__(
        self,
        state: Path,
        settings: AlertSettings,
        roster: Roster,
        enrolled: Callable[[], Sequence[str]],
        run: Callable[[], dict[str, Any] | None],
        tokens: Callable[[], Sequence[Token]],
        gate: Gate,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        sinks: "Mapping[SinkName, Sink] | None" = None,
        background: Callable[[str], Background] = DaemonBackground,
    ) -> None:
        self._state, self._enrolled, self._run, self._tokens = state, enrolled, run, tokens
        self._gate, self._clock, self._wall = gate, clock, wall_clock
        sinks = sinks_of(settings) if sinks is None else sinks
        now = clock()
        self._alerting = Alerting(settings.spans, sinks.keys(), load_book(state), now, self._wall())
        self._observer = Observer(settings, roster, self._alerting.expected, self._alerting.heard)
        self._deliveries: dict[SinkName, Delivery] = {
            name: Delivery(name, sink, background(name), self._alerting, gate)
            for name, sink in sinks.items()
        }
        self._disk, self._keeping, self._dirty = background("alerts"), False, False
        self._kept = self._alerting.book(now, self._wall())
        """What the file has."""
        self._unkept_since: float | None = None
        """Since then the file is behind."""
        self._keep_at = self._look_at = now
        self._fault = ""
        self._tests: list[tuple[int, float, Tested]] = []

    def on_time(self, now: float) -> None:
        """To be called several times a second. Raises nothing."""
        try:
            self._disk.finish()
            if now >= self._look_at:
                self._look_at = now + LOOK_S
                self._look(now)
            self._keep(now)
            late = self._unkept_since is not None and now - self._unkept_since > UNKEPT_S
            upto = self._alerting.last_notice if late else self._kept.last_notice
            for delivery in self._deliveries.values():
                if delivery.step(upto, now):
                    self._change(now)
            self._tests = [test for test in self._tests if not self._ended(*test, now)]
        except Exception as bug:  # whatever fails here, rounds continue
            self._gate.bug(logger, SOURCE, bug, "alerts could not be processed")

    def close(self) -> None:
        for delivery in self._deliveries.values():
            delivery.close()
        self.on_time(self._clock())  # what was taken last goes into the book
        self._disk.close()

    # For operators --------------------------------------------------------------------------

    def since_round_s(self) -> float:
        """Since the last commit of the run in progress, or since it began, or went on here."""
        return round(self._observer.since_round_s(self._clock()), 1)

    def shown(self) -> dict[str, Any]:
        now = self._clock()
        return {
            "firing": [self._shown(alert) for alert in self._alerting.firing.values()],
            "muted": [
                {"name": name, "left_s": left_s}
                for name, left_s in self._alerting.muted(now).items()
            ],
            **{name: delivery.shown() for name, delivery in self._deliveries.items()},
        }

    def counts(self) -> dict[str, Any]:
        """For `flctl status`."""
        firing = self._alerting.firing.values()
        return {
            "firing": dict(self._alerting.counts()),
            "acknowledged": sum(alert.acknowledged for alert in firing),
            "muted": sum(self._alerting.is_muted(alert) for alert in firing),
        }

    def of_subjects(self) -> dict[str, list[str]]:
        """Kinds of the alerts that fire, by agent, run or token."""
        found: dict[str, list[str]] = {}
        for alert in self._alerting.firing.values():
            found.setdefault(alert.subject, []).append(alert.kind)
        return found

    def past_of(self, agent: str) -> dict[str, Any]:
        """What is known of an agent that this life of the coordinator may not have seen."""
        expected, heard = self._past
        return {"expected": agent in expected, "last_heard": heard.get(agent)}

    def acknowledge(self, id_: int) -> dict[str, Any]:
        """Raises UsageError."""
        alert = self._alerting.acknowledge(id_)
        self._change(self._clock())
        return self._shown(alert)

    def test(self, done: Tested) -> None:
        """Send a notice of no alert to every sink, at once. Raises UsageError."""
        self._alerting.test(self._wall())
        for delivery in self._deliveries.values():
            delivery.hurry()
        self._change(self._clock())
        self._tests.append((self._alerting.last_notice, self._clock() + TEST_S, done))

    def mute(self, name: str, for_s: float) -> dict[str, Any]:
        """`name` is an alert's or an agent's; 0 ends it. Raises UsageError."""
        if for_s and name not in (*KINDS, *self._enrolled()):
            raise UsageError(
                f"{name} is neither an enrolled agent nor a kind of alert ({', '.join(KINDS)})"
            )
        now = self._clock()
        self._alerting.mute(name, for_s, now)
        self._change(now)
        return {"name": name, "for_s": for_s}

    # Steps ----------------------------------------------------------------------------------

    @property
    def _past(self) -> tuple[set[str], dict[str, float]]:
        return {*self._alerting.expected}, {**self._alerting.heard}

    def _shown(self, alert: Firing) -> dict[str, Any]:
        return {
            "id": alert.id,
            "alert": alert.kind,
            "subject": alert.subject,
            "text": alert.text,
            "since": alert.since,
            "for_s": round(self._clock() - alert.began, 1),
            "acknowledged": alert.acknowledged,
            "muted": self._alerting.is_muted(alert),
        }

    def _ended(self, number: int, until: float, done: Tested, now: float) -> bool:
        """Whether the test alert with this number has its answers, or waits for them no longer."""
        found = {name: each.outcome(number, now > until) for name, each in self._deliveries.items()}
        if None in found.values():
            return False
        said = [f"the {n} has not accepted the test alert: {w}" for n, w in found.items() if w]
        said += [f"the {n} has accepted it" for n, w in found.items() if not w and said]
        then = "the coordinator keeps the alert, and tries again at growing intervals"
        done({"accepted": [*found]}, FlctlError("; ".join([*said, then])) if said else None)
        return True

    def _look(self, now: float) -> None:
        alerting = self._alerting
        before, dropped, told = self._past, alerting.dropped, alerting.last_notice
        run, tokens, wall = self._run(), self._tokens(), self._wall()
        observed = self._observer.observe(self._enrolled(), run, tokens, now, wall)
        changes = alerting.observe(observed, now, wall)
        for change in changes:
            alert, text = change.alert, change.text
            say = self._gate.info if change.event == "resolved" else self._gate.warning
            say(
                logger, alert.subject, "alert=%s subject=%s %s%s",
                alert.kind, alert.subject, change.event, text and f": {text}",
            )  # fmt: skip
        if alerting.dropped > dropped:
            self._gate.error(
                logger, SOURCE, "alerts were dropped: they could not be delivered for too long"
            )
        if changes or alerting.last_notice > told or before != self._past:
            self._change(now)

    def _change(self, now: float) -> None:
        self._dirty = True
        if self._unkept_since is None:
            self._unkept_since = now

    def _keep(self, now: float) -> None:
        """Write the book when it has changed and the disk has done with the last one."""
        if not self._dirty or self._keeping or now < self._keep_at:
            return
        book = self._alerting.book(now, self._wall())
        self._keeping, self._dirty = True, False

        def done(_: None, error: BaseException | None) -> None:
            self._keeping = False
            if error is None:
                self._kept, self._fault = book, ""
                self._unkept_since = now if self._dirty else None
                return
            self._dirty, self._keep_at = True, now + KEEP_AGAIN_S
            if not self._fault:
                text = "%s; a restart may send alerts twice"
                self._gate.error(logger, SOURCE, text, one_line(error))
            self._fault = one_line(error)

        self._disk.submit(lambda: save_book(self._state, book), done)


def sinks_of(settings: AlertSettings) -> "dict[SinkName, Sink]":
    """Raises SettingsError."""
    if settings.webhook is None and settings.command is None:
        return {}
    from flctl.coordinator.alerts.sending import Command, Webhook

    found: dict[SinkName, Sink] = {}
    if settings.webhook is not None:
        found["webhook"] = Webhook(settings.webhook)
    if settings.command is not None:
        found["command"] = Command(settings.command)
    return found


def about_alerts(
    alarms: Alarms | None,
    asked: q.ShowAlerts | q.AckAlert | q.MuteAlerts | q.TestAlerts,
    tested: Tested,
) -> Any:
    """The answer to an operator; None: `tested` is called later. Raises UsageError."""
    if alarms is None:
        raise UsageError("this coordinator ends with its run, and has no alerts")
    match asked:
        case q.ShowAlerts():
            return alarms.shown()
        case q.AckAlert(id=id_):
            return alarms.acknowledge(id_)
        case q.MuteAlerts(name=name, for_s=for_s):
            return alarms.mute(name, for_s)
        case q.TestAlerts():
            return alarms.test(tested)
