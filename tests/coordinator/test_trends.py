"""The coordinator's history: what is kept, how much, and that nothing waits for it."""

import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from memory_fleet import MemoryFleet

from flctl.coordinator.background import Background, DaemonBackground, InlineBackground
from flctl.coordinator.trends import database
from flctl.coordinator.trends.database import FILE, MOST_BYTES, Points
from flctl.coordinator.trends.looking_back import look_back
from flctl.coordinator.trends.points import COLUMNS, Minute
from flctl.coordinator.trends.trends import Trends
from flctl.core.roster import Roster
from flctl.errors import StateError
from flctl.transport.gate import Gate
from flctl.wire.messages import Telemetry
from flctl.wire.questions import ReadHistory


class Past:
    """A coordinator's history over a roster that the test fills; all clocks are the test's."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.now, self.wall, self.run = 100.0, 1.7e9, None
        self.roster = Roster()
        self.begin()

    def begin(self, background: Callable[[str], Background] = lambda _: InlineBackground()) -> None:
        self.trends = Trends(
            self.state, self.roster, lambda: self.run, Gate(lambda: self.now),
            lambda: self.wall, lambda: self.now, background,
        )  # fmt: skip
        self.trends.on_time(self.now)

    def hear(self, name: str, **told: Any) -> None:
        member = self.roster.member(name)
        member.peer, member.rtt_ms = name.encode(), told.pop("rtt_ms", 2.5)
        member.telemetry = Telemetry(**told)

    def wait(self, minutes: float, wall: float | None = None) -> None:
        """In steps of ten seconds; `wall` is how far the clock goes meanwhile."""
        steps = round(minutes * 6)
        for _ in range(steps):
            self.now += 10
            self.wall += 10 if wall is None else wall / steps
            self.trends.on_time(self.now)
        self.trends.on_time(self.now)

    def look(self, agent: str, figure: str, since_s: float = 86400.0, points: int = 1440) -> Any:
        asked = ReadHistory(agent=agent, figure=figure, since_s=since_s, points=points)
        return look_back(self.state, asked, lambda: self.wall)

    def values(self, *asked: Any) -> list[float | None]:
        return [value for _, value in self.look(*asked)["points"]]


@pytest.fixture
def past(tmp_path: Path) -> Past:
    return Past(tmp_path)


def test_each_figure_of_an_agent_comes_back(past: Past):
    """Averages of a minute; what an agent counts from its start, as what it has added."""
    past.run = {"round": 3}
    past.hear(
        "pi-01", temperature_c=61.23, throttled=("throttled",), memory_used_bytes=4 << 20,
        disk_free_bytes=9 << 30, written_bytes=5 << 20, sent_bytes=1 << 20,
    )  # fmt: skip
    past.wait(1)
    past.hear(
        "pi-01", temperature_c=50, throttled=(), memory_used_bytes=8 << 20,
        disk_free_bytes=8 << 30, written_bytes=7 << 20, sent_bytes=3 << 20,
    )  # fmt: skip
    past.wait(1)
    found = {figure: past.values("pi-01", figure) for figure in COLUMNS}
    assert found == {
        "temperature_c": [pytest.approx(61.2), pytest.approx(50)],
        "throttled": [1, 0],
        "memory_used_bytes": [4 << 20, 8 << 20],
        "disk_free_bytes": [9 << 30, 8 << 30],
        "rtt_ms": [2.5, 2.5],
        "written_bytes": [None, 2 << 20],
        "sent_bytes": [None, 2 << 20],
        "state": [1, 1],
    }
    assert past.values("", "round") == [3, 3]
    assert past.look("pi-01", "state")["step_s"] == 60
    assert past.values("pi-77", "state") == []


def test_an_agent_that_starts_again_counts_from_zero(past: Past):
    past.hear("pi-01", written_bytes=9 << 20)
    past.wait(1)
    past.hear("pi-01", written_bytes=1 << 20)
    past.wait(1)
    assert past.values("pi-01", "written_bytes") == [None, 1 << 20]


def test_an_agent_that_is_away_has_a_state_and_no_figures(past: Past):
    past.hear("pi-01", temperature_c=40)
    past.wait(1)
    past.roster.member("pi-01").peer = None
    past.wait(1)
    assert past.values("pi-01", "state") == [1, 0]
    assert past.values("pi-01", "temperature_c") == [pytest.approx(40), None]


def test_figures_at_their_bounds_are_stored(past: Past):
    """Whatever an agent says of itself fits a row."""
    for count in (0, 2**53, 0):
        past.hear("pi-01", temperature_c=10_000, rtt_ms=1e300, disk_free_bytes=2**53,
                  written_bytes=count, sent_bytes=2**53 - count)  # fmt: skip
        past.wait(1)
    assert len(past.values("pi-01", "rtt_ms")) == 3


def test_minutes_of_a_day_then_quarters_of_an_hour(past: Past, monkeypatch: pytest.MonkeyPatch):
    """Longer points are averages; bytes add up."""
    monkeypatch.setattr(database, "MINUTES", 30)
    monkeypatch.setattr(database, "QUARTERS", 4)
    for minute in range(90):
        past.hear("pi-01", temperature_c=minute // 15, sent_bytes=minute << 20)
        past.wait(1)
    assert len(past.look("pi-01", "temperature_c")["points"]) == 30
    month = past.look("pi-01", "temperature_c", 30 * 86400.0, 2000)
    assert month["step_s"] == 2 * 900
    assert past.values("pi-01", "temperature_c", 20 * 86400.0, 2000) == [2, 3, 4, 5]
    assert past.values("pi-01", "sent_bytes", 20 * 86400.0, 2000)[1:] == [15 << 20] * 3
    with sqlite3.connect(past.state / FILE) as connection:
        counts = [
            connection.execute(f"SELECT count(*) FROM tick{n}").fetchone()[0] for n in (1, 15)
        ]
    assert counts == [30, 4]


def test_an_answer_is_bounded_and_marks_gaps(past: Past):
    past.hear("pi-01", temperature_c=40)
    past.wait(120)
    past.now, past.wall = past.now + 3600, past.wall + 3600
    past.wait(120)
    found = past.look("pi-01", "temperature_c", 86400.0, 100)
    assert found["step_s"] == 900
    assert None in [value for _, value in found["points"]]
    assert len(found["points"]) < 30
    whole = past.look("pi-01", "temperature_c", 86400.0, 2000)["points"]
    assert [value for _, value in whole].count(None) == 1
    assert [at for at, _ in whole] == sorted(at for at, _ in whole)


@pytest.mark.parametrize("jump", [3.2e8, -3.2e8, 3600.0, -3600.0])
def test_a_clock_that_is_set_dates_this_life_again(past: Past, jump: float):
    """A computer without a battery starts in another year; once it knows the time, its earlier
    points are where they belong, and none is lost."""
    past.hear("pi-01", temperature_c=40)
    past.wait(10)
    past.wall += jump
    past.wait(10)
    points = past.look("pi-01", "temperature_c")["points"]
    assert [value for _, value in points] == [pytest.approx(40)] * 20
    assert points[-1][0] == pytest.approx(past.wall, abs=30)
    assert points[-1][0] - points[0][0] == pytest.approx(19 * 60, abs=2)


def test_a_clock_that_goes_wild_and_back_throws_nothing_away(past: Past):
    """Also if the coordinator restarts while it is wrong."""
    past.hear("pi-01", temperature_c=40)
    past.wait(30)
    past.wall += 1e9
    past.begin()
    past.wait(3)
    past.wall -= 1e9
    past.begin()
    past.wait(30)
    values = past.values("pi-01", "temperature_c")
    assert [value for value in values if value is not None] == [pytest.approx(40)] * 60


@pytest.mark.parametrize(
    "damage", [b"not a database, but long enough to be one" * 200, b"", "schema", "page", "table"]
)
def test_a_file_that_is_not_usable_is_set_aside_and_begun_again(
    past: Past, damage: bytes | str, caplog: pytest.LogCaptureFixture
):
    """With one line."""
    past.hear("pi-01", temperature_c=40)
    past.wait(3)
    past.trends.close()
    path = past.state / FILE
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        if damage == "schema":
            connection.execute("PRAGMA user_version = 9")
        elif damage == "table":
            connection.execute("DROP TABLE point1")
    connection.close()
    if damage == "page":
        data = bytearray(path.read_bytes())
        data[4096:] = b"\xa5" * (len(data) - 4096)
        path.write_bytes(data)
    elif isinstance(damage, bytes):
        path.write_bytes(damage)
    past.begin()
    past.wait(3)
    assert past.values("pi-01", "temperature_c") == [pytest.approx(40)] * 3
    assert caplog.text.count("a new one is started") == (damage != b"")
    assert path.with_suffix(".damaged").exists() == (damage != b"")


def test_a_file_that_is_damaged_while_it_is_used_is_set_aside(past: Past):
    past.hear("pi-01", temperature_c=40)
    past.wait(3)
    path = past.state / FILE
    path.unlink()
    past.wait(2)
    assert path.exists()
    for each in past.state.iterdir():
        each.write_bytes(b"\xa5" * 8192)
    with pytest.raises(StateError, match="cannot be read"):
        past.look("pi-01", "temperature_c")
    past.wait(3)
    assert len(past.values("pi-01", "temperature_c")) >= 2


def test_a_disk_that_does_not_take_it_is_said_once(
    past: Past, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    """A full disk, one that is locked by another program, one that is not there; and when it is
    back."""
    past.hear("pi-01", temperature_c=40)
    past.wait(2)
    monkeypatch.setattr(database, "BUSY_S", 0.01)
    past.begin()
    with sqlite3.connect(past.state / FILE) as other:
        other.execute("BEGIN EXCLUSIVE")
        past.wait(3)
        other.execute("ROLLBACK")
    other.close()
    assert caplog.text.count("points of the history are dropped: database is locked") == 1
    with caplog.at_level(logging.INFO):
        past.wait(2)
    assert caplog.text.count("the history is written again") == 1
    assert len([v for v in past.values("pi-01", "temperature_c") if v is not None]) == 4


def test_a_full_database_forgets_earlier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """More agents than it was made for have a shorter past, in the same room."""
    monkeypatch.setattr(database, "MOST_BYTES", 1 << 20)
    points = Points(tmp_path / FILE)
    rows = [(f"pi-{n:03d}", (400, 0, 9 << 20, 9000, 250, 300, 300, 1000)) for n in range(300)]
    for minute in range(150):
        points.add(Minute(1.7e9 + 60 * minute, 0.0, None, rows))
    points.close()
    assert (tmp_path / FILE).stat().st_size <= 1 << 20
    newest = database.read(tmp_path / FILE, "pi-299", "state", 0, 1e11, minutes=True)
    assert newest[-1][0] == 1.7e9 + 60 * 149
    assert len(newest) > 20


def test_a_month_of_300_agents_fits(tmp_path: Path):
    """By the bytes that its rows take; docs/how-to/alerts.md has what a real month took."""
    points = Points(tmp_path / FILE)
    rows = [(f"pi-{n:03d}", (612, 0, 3 << 20, 22000, 1234, 300, 3000, 1000)) for n in range(300)]
    for minute in range(120):
        points.add(Minute(1.7e9 + 60 * minute, 0.0, 7, rows))
    points.close()
    row = (tmp_path / FILE).stat().st_size / (300 * (120 + 8))
    assert row * 300 * (database.MINUTES + database.QUARTERS) < MOST_BYTES


def test_a_disk_that_hangs_holds_up_nothing(
    past: Past, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    """Minutes are dropped, which is said once; a stop does not wait for it."""
    release, hung = threading.Event(), threading.Event()

    def hang(*_: object) -> None:
        hung.set()
        release.wait(60)

    monkeypatch.setattr(Points, "add", hang)
    past.begin(DaemonBackground)
    past.hear("pi-01", temperature_c=40)
    began = time.monotonic()
    past.wait(10)
    assert hung.wait(10)
    past.wait(3)
    past.trends.close()
    assert time.monotonic() - began < 10
    assert caplog.text.count("points of the history are dropped") == 1
    release.set()


def test_an_operator_asks_a_coordinator(make_fleet: Callable[..., MemoryFleet]):
    """In a whole fleet, beside a run."""
    fleet = make_fleet(2)
    assert fleet.coordinator is not None
    fleet.coordinator.trends = Trends(
        fleet.state, fleet.coordinator.roster, fleet.coordinator.runs.status,
        fleet.coordinator.gate, lambda: fleet.wall, fleet.clock, lambda _: InlineBackground(),
    )  # fmt: skip
    for _ in range(400):
        fleet.step(1.0)
    found = look_back(fleet.state, ReadHistory(agent="pi-01", figure="state"), lambda: fleet.wall)
    assert [value for _, value in found["points"]][1:] == [1.0] * 5
