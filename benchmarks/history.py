"""What a month of the coordinator's history takes: bytes, and CPU a minute.

python benchmarks/history.py --agents 300 --days 31
"""

import argparse
import random
import tempfile
import time
from pathlib import Path

from flctl.coordinator.trends.database import FILE, Points
from flctl.coordinator.trends.looking_back import look_back
from flctl.coordinator.trends.points import Minute, Sampler
from flctl.core.roster import Roster
from flctl.wire.messages import Telemetry
from flctl.wire.questions import ReadHistory

SAMPLES = 6
"""A minute."""
VARIETY = 50
"""Different minutes, which are written again and again."""


def fill(roster: Roster, agents: int, minute: int) -> None:
    chance = random.Random(minute)
    for number in range(agents):
        member = roster.member(f"pi-{number:03d}")
        member.peer, member.rtt_ms = b"", chance.uniform(1, 200)
        member.telemetry = Telemetry(
            temperature_c=chance.uniform(35, 85),
            throttled=("throttled",) if chance.random() < 0.1 else (),
            memory_used_bytes=chance.randrange(1 << 32),
            disk_free_bytes=chance.randrange(1 << 35),
            written_bytes=minute * 300_000 + chance.randrange(300_000),
            sent_bytes=minute * 2_000_000 + chance.randrange(2_000_000),
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--agents", type=int, default=300)
    parser.add_argument("--days", type=float, default=31)
    given = parser.parse_args()
    minutes = round(given.days * 1440)
    sampler, roster, variety = Sampler(), Roster(), []
    sampling = writing = slowest = 0.0
    for minute in range(VARIETY):
        fill(roster, given.agents, minute)
        began = time.thread_time()
        for _ in range(SAMPLES):
            sampler.sample(roster.members.values())
        variety.append(sampler.rows())
        sampling += time.thread_time() - began
    with tempfile.TemporaryDirectory() as folder:
        points = Points(Path(folder) / FILE)
        for minute in range(minutes):
            began, wall = time.thread_time(), time.perf_counter()
            rows = variety[minute % VARIETY]
            points.add(Minute(1.7e9 + 60 * minute, 0.0, minute // 10, rows))
            writing += time.thread_time() - began
            slowest = max(slowest, time.perf_counter() - wall)
        points.close()
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
        now = 1.7e9 + 60 * minutes
        asking: list[float] = []
        for since_s in (86400.0, 31 * 86400.0):
            began = time.perf_counter()
            asked = ReadHistory(agent="pi-007", figure="temperature_c", since_s=since_s)
            look_back(Path(folder), asked, lambda: now)
            asking.append(time.perf_counter() - began)
    print(
        f"{given.agents} agents, {minutes} minutes: {size / 2**20:.1f} MiB; CPU a minute: "
        f"{1000 * sampling / VARIETY:.1f} ms in the loop, "
        f"{1000 * writing / minutes:.1f} ms in the thread (the slowest took "
        f"{1000 * slowest:.0f} ms); a day is read in {1000 * asking[0]:.0f} ms, a month in "
        f"{1000 * asking[1]:.0f} ms"
    )


if __name__ == "__main__":
    main()
