"""The coordinator's alerts over a real coordinator and supervisors, with a passed-in clock."""

import json
import logging
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from memory_fleet import MemoryFleet

from flctl.coordinator.alerts.alarms import Alarms
from flctl.coordinator.alerts.book import FILE
from flctl.coordinator.alerts.sending import SinkError
from flctl.coordinator.alerts.settings import AlertSettings
from flctl.coordinator.background import Background, DaemonBackground, InlineBackground
from flctl.core.alerts import AlertNotice
from flctl.errors import UsageError
from flctl.wire import framing
from flctl.wire.messages import Goodbye, Telemetry


class Ear:
    """A sink that remembers, and fails while it is told to."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str, str]] = []
        self.numbers: list[int] = []
        self.tries = 0
        self.failing = False

    def send(self, notices: list[AlertNotice]) -> None:
        self.tries += 1
        if self.failing:
            raise SinkError("HTTP 500")
        self.heard += [(n.event, n.alert, n.subject) for n in notices]
        self.numbers += [n.number for n in notices]

    def abort(self) -> None:
        pass


class Machine:
    """A Pi whose figures the test sets."""

    def __init__(self, agent: Any) -> None:
        self.told: dict[str, Any] = {"throttled": (), "disk_free_bytes": 20 * 10**9}
        self._device = agent.supervisor._machine.device
        agent.supervisor._machine = self

    def device(self, *args: Any) -> Any:
        return self._device(*args)

    def read(self, uptime_s: float, worker: int | None = None) -> Telemetry:
        return Telemetry(uptime_s=uptime_s, **self.told)


class Watched:
    """A fleet with alerts."""

    def __init__(self, fleet: MemoryFleet, **settings: Any) -> None:
        self.fleet, self.ear = fleet, Ear()
        self.settings = msgspec.convert(settings, AlertSettings)
        self.begin()

    def begin(self, background: Callable[[str], Background] = lambda _: InlineBackground()) -> None:
        fleet = self.fleet
        assert fleet.coordinator is not None
        self.alarms = fleet.coordinator.alarms = Alarms(
            fleet.state, self.settings, fleet.coordinator.roster, fleet.coordinator.agents.enrolled,
            fleet.coordinator.runs.status, fleet.keyring.open_tokens, fleet.coordinator.gate,
            fleet.clock, lambda: fleet.wall, {"webhook": self.ear}, background,
        )  # fmt: skip

    def restart(self) -> None:
        self.fleet.kill_coordinator()
        self.fleet.start_coordinator()
        self.begin()

    def wait(self, seconds: float) -> None:
        end = self.fleet.now + seconds
        while self.fleet.now < end:
            self.fleet.step(1.0)

    def firing(self) -> list[tuple[str, str]]:
        return [(a["alert"], a["subject"]) for a in self.alarms.shown()["firing"]]


@pytest.fixture
def watched(fleet: MemoryFleet) -> Watched:
    found = Watched(fleet)
    found.wait(10)
    return found


def test_nothing_fires_in_a_fleet_that_is_well(watched: Watched):
    watched.fleet.start_run()
    watched.fleet.finish()
    watched.wait(700)
    assert (watched.firing(), watched.ear.heard) == ([], [])


def test_a_lost_agent_fires_after_ten_minutes_and_is_resolved_when_it_is_back(watched: Watched):
    watched.fleet.agents["pi-02"].kill()
    watched.wait(590)
    assert watched.ear.heard == []
    watched.wait(60)
    assert watched.ear.heard == [("firing", "agent_lost", "pi-02")]
    watched.fleet.agents["pi-02"].start()
    watched.wait(20)
    assert watched.ear.heard[1:] == [("resolved", "agent_lost", "pi-02")]


def test_restarts_of_the_coordinator_fire_nothing_twice(watched: Watched):
    """Nor do they mend what is not resolved."""
    watched.fleet.agents["pi-02"].kill()
    watched.wait(650)
    for _ in range(3):
        watched.restart()
        watched.wait(700)
    assert watched.ear.heard == [("firing", "agent_lost", "pi-02")]
    watched.fleet.agents["pi-02"].start()
    watched.wait(20)
    assert watched.ear.heard[1:] == [("resolved", "agent_lost", "pi-02")]


def test_an_agent_that_never_was_here_or_said_goodbye_is_not_lost(watched: Watched):
    """It was enrolled ahead of time, or its owner stopped it; also after a restart."""
    fleet = watched.fleet
    fleet.add("pi-09").kill()
    fleet.agents["pi-01"].link.send(framing.encode(Goodbye()))
    fleet.agents["pi-01"].alive = False
    watched.wait(700)
    watched.restart()
    watched.wait(700)
    assert watched.ear.heard == []


def test_one_that_was_lost_while_the_coordinator_was_down_is_found(watched: Watched):
    """It is remembered that it was here."""
    watched.fleet.kill_coordinator()
    watched.fleet.agents["pi-02"].kill()
    watched.fleet.start_coordinator()
    watched.begin()
    watched.wait(650)
    assert watched.ear.heard == [("firing", "agent_lost", "pi-02")]


def test_a_cordoned_agent_does_not_fire(watched: Watched):
    """Somebody works on it."""
    assert watched.fleet.coordinator is not None
    watched.fleet.coordinator.agents.cordon("pi-02", held=True)
    watched.fleet.agents["pi-02"].kill()
    watched.wait(700)
    assert watched.ear.heard == []


def test_a_revoked_agents_alerts_are_over(watched: Watched):
    watched.fleet.agents["pi-02"].kill()
    watched.wait(650)
    watched.fleet.keyring.revoke("pi-02")
    watched.wait(10)
    assert watched.ear.heard[-1] == ("resolved", "agent_lost", "pi-02")


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ({"throttled": ("throttled",)}, "throttled"),
        ({"throttled": ("under-voltage",)}, "undervoltage"),
        ({"disk_free_bytes": 4 * 10**8}, "card_full"),
        ({"disk_free_bytes": 10**9, "disk_total_bytes": 32 * 10**9}, "card_full"),
    ],
)
def test_a_machine_in_trouble_fires_and_is_resolved(
    watched: Watched, told: dict[str, Any], kind: str
):
    machine = Machine(watched.fleet.agents["pi-03"])
    watched.wait(200)
    assert watched.ear.heard == []
    well = dict(machine.told)
    machine.told |= told
    watched.wait(90)
    assert watched.ear.heard == [("firing", kind, "pi-03")]
    assert watched.fleet.control is not None
    machine.told = well
    watched.wait(200)
    assert watched.ear.heard[1:] == [("resolved", kind, "pi-03")]


def test_a_run_without_a_round_for_an_hour_fires_until_the_next_round(watched: Watched):
    """Also while it waits for agents; a fleet without a run has nothing to miss."""
    fleet = watched.fleet
    watched.wait(4000)
    run = fleet.start_run(rounds=2, wait_s=1e6, deadline_s=1e6)
    fleet.until(lambda: fleet.history().round == 1)
    fleet.agents["pi-02"].kill()
    watched.wait(4000)
    assert ("firing", "no_round", run) in watched.ear.heard
    watched.restart()
    watched.wait(60)
    assert ("no_round", run) in watched.firing()
    fleet.agents["pi-02"].start()
    fleet.finish()
    watched.wait(10)
    assert ("resolved", "no_round", run) in watched.ear.heard
    assert len([h for h in watched.ear.heard if h[1] == "no_round"]) == 2


def test_an_open_token_fires_until_it_is_closed(watched: Watched):
    token = watched.fleet.keyring.new_token(3600, 5)
    watched.wait(10)
    found = watched.fleet.keyring.open_token(token)
    assert found is not None
    assert watched.ear.heard == [("firing", "open_token", found.id)]
    watched.fleet.keyring.close_tokens([found.id])
    watched.wait(10)
    assert watched.ear.heard[1:] == [("resolved", "open_token", found.id)]
    assert token not in json.dumps(watched.alarms.shown())


def test_two_machines_with_one_key_are_a_conflict(watched: Watched):
    keys = watched.fleet.agents["pi-01"].keys
    twin = watched.fleet.add("twin", enrol=False, keys=keys)
    watched.wait(15)
    assert watched.ear.heard == [("firing", "conflict", "pi-01")]
    twin.kill()
    watched.wait(240)
    assert watched.ear.heard[1:] == [("resolved", "conflict", "pi-01")]


def test_a_sink_that_fails_is_tried_ever_more_rarely_and_hears_everything(watched: Watched):
    """In order, each once; the operator is told meanwhile."""
    watched.ear.failing = True
    watched.fleet.agents["pi-02"].kill()
    watched.wait(3600)
    assert 5 < watched.ear.tries < 15
    assert watched.alarms.shown()["webhook"] == {"waiting": 1, "failing": "HTTP 500"}
    watched.fleet.agents["pi-02"].start()
    watched.ear.failing = False
    watched.wait(700)
    assert watched.ear.heard == [
        ("firing", "agent_lost", "pi-02"),
        ("resolved", "agent_lost", "pi-02"),
    ]
    assert watched.alarms.shown()["webhook"] == {"waiting": 0, "failing": ""}


def test_an_alert_that_is_off_or_has_another_threshold(fleet: MemoryFleet):
    watched = Watched(fleet, agent_lost="60s", open_token=False)
    watched.wait(10)
    fleet.keyring.new_token(3600, 5)
    fleet.agents["pi-02"].kill()
    watched.wait(80)
    assert watched.ear.heard == [("firing", "agent_lost", "pi-02")]


def test_a_disk_that_fails_delays_alerts_by_seconds(
    watched: Watched, caplog: pytest.LogCaptureFixture
):
    """It is said once, and the book is written when the disk is back."""
    path = watched.fleet.state / FILE
    path.unlink()
    path.mkdir()
    with caplog.at_level(logging.ERROR):
        watched.fleet.keyring.new_token(3600, 5)
        watched.wait(300)
    assert watched.ear.heard[0][:2] == ("firing", "open_token")
    assert caplog.text.count("a restart may send alerts twice") == 1
    path.rmdir()
    watched.wait(60)
    watched.restart()
    watched.wait(60)
    assert len(watched.ear.heard) == 1


def test_a_damaged_book_is_set_aside(watched: Watched, caplog: pytest.LogCaptureFixture):
    """Alerts do not keep a coordinator from starting."""
    for content in (b"{", b'{"schema": 9}', b'{"firing": [[1]]}'):
        (watched.fleet.state / FILE).write_bytes(content)
        watched.restart()
        assert (watched.fleet.state / "alerts.damaged").read_bytes() == content
    assert caplog.text.count("alerts start over") == 3


def test_a_book_of_an_older_version_is_read(watched: Watched):
    """It called the end of an alert "mended"."""
    watched.ear.failing = True
    token = watched.fleet.keyring.new_token(3600, 5)
    watched.wait(10)
    found = watched.fleet.keyring.open_token(token)
    assert found is not None
    watched.fleet.keyring.close_tokens([found.id])
    watched.wait(10)
    path = watched.fleet.state / FILE
    old = path.read_bytes().replace(b'"event":"resolved"', b'"event":"mended"')
    assert old != path.read_bytes()
    watched.fleet.kill_coordinator()
    path.write_bytes(old)
    watched.ear.failing = False
    watched.fleet.start_coordinator()
    watched.begin()
    watched.wait(10)
    assert watched.ear.heard == [
        ("firing", "open_token", found.id), ("resolved", "open_token", found.id),
    ]  # fmt: skip


def test_a_sink_and_a_disk_that_hang_hold_up_nothing(watched: Watched):
    """A round is trained meanwhile, and a stop does not wait for them."""
    held, release = threading.Event(), threading.Event()

    def hang(_: list[AlertNotice]) -> None:
        held.set()
        release.wait(60)

    watched.ear.send = hang  # type: ignore[method-assign]
    watched.begin(DaemonBackground)
    watched.fleet.keyring.new_token(3600, 5)
    watched.fleet.step()
    began = time.monotonic()
    while not held.wait(0.01):
        watched.fleet.step(1.0)
    watched.fleet.start_run()
    watched.fleet.finish()
    watched.alarms.close()
    assert time.monotonic() - began < 30
    release.set()


def test_when_a_lost_agent_was_heard_survives_a_restart(watched: Watched):
    """It is lost, not unknown; one that was there until the coordinator was killed has no time."""
    fleet = watched.fleet
    heard = fleet.wall
    fleet.agents["pi-02"].kill()
    watched.wait(60)
    watched.restart()
    fleet.agents["pi-03"].kill()
    watched.wait(30)
    past = watched.alarms.past_of("pi-02")
    assert past["expected"] and abs(past["last_heard"] - heard) < 10
    watched.restart()
    assert watched.alarms.past_of("pi-02") == past
    assert watched.alarms.past_of("pi-01") == {"expected": True, "last_heard": None}
    fleet.agents["pi-02"].start()
    watched.wait(20)
    assert watched.alarms.past_of("pi-02") == {"expected": True, "last_heard": None}
    fleet.agents["pi-02"].link.send(framing.encode(Goodbye()))
    watched.wait(10)
    assert watched.alarms.past_of("pi-02") == {"expected": False, "last_heard": None}


def test_a_test_alert_is_sent_at_once(watched: Watched):
    """Also while an earlier failure has made the attempts rare; no alert fires."""
    watched.ear.failing = True
    watched.fleet.keyring.new_token(3600, 5)
    watched.wait(300)
    ended: list[tuple[Any, Any]] = []
    watched.alarms.test(lambda *end: ended.append(end))
    watched.wait(6)
    ((_, error),) = ended
    assert "the webhook has not accepted the test alert: HTTP 500; the coordinator" in str(error)
    watched.ear.failing = False
    watched.alarms.test(lambda *end: ended.append(end))
    watched.wait(6)
    assert ended[1:] == [({"accepted": ["webhook"]}, None)]
    assert watched.ear.heard[-1] == ("firing", "test", "test")
    assert ("test", "test") not in watched.firing()


def test_operators_look_acknowledge_and_mute(watched: Watched, tmp_path: Path):
    alarms = watched.alarms
    watched.fleet.agents["pi-02"].kill()
    watched.wait(650)
    (alert,) = alarms.shown()["firing"]
    assert re.fullmatch(r"last heard at \d{4}-\S+ \S+ UTC", alert["text"])
    assert alarms.counts() == {"firing": {"agent_lost": 1}, "acknowledged": 0, "muted": 0}
    assert alarms.of_subjects() == {"pi-02": ["agent_lost"]}
    assert alarms.acknowledge(alert["id"])["acknowledged"]
    alarms.mute("pi-02", 60)
    assert alarms.counts() == {"firing": {}, "acknowledged": 1, "muted": 1}
    with pytest.raises(UsageError, match="neither an enrolled agent nor a kind of alert"):
        alarms.mute("pi-77", 60)
    with pytest.raises(UsageError, match="no alert 99"):
        alarms.acknowledge(99)
