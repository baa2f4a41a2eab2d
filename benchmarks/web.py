"""What the page costs, and how fast it is, over a real coordinator with played agents, in Chromium.

python benchmarks/web.py --agents 300                 # paint, filter, events, viewers, scrapes
python benchmarks/web.py --agents 300 --leak-min 60   # memory each minute, and its slope

It needs what `make test-web` installs. The agents are real supervisors over real links, in a few
processes; their machines and their training are played (tests/web/played_agents.py).
"""

import argparse
import json
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "web")]

import httpx  # noqa: E402
import psutil  # noqa: E402
from page_rig import PlayedFleet  # noqa: E402
from playwright.sync_api import Browser, sync_playwright  # noqa: E402
from playwright.sync_api import Page as Tab  # noqa: E402
from real_fleet import wait_for  # noqa: E402

MIB = 2**20
PROCESSES = 6
SCRAPE_S = 15.0
"""How often a Prometheus asks, as ops/prometheus.yml has it."""
SETTLED = 1 / 6
"""Share of the leak test in which caches fill; the slope is of what follows."""
LONG_TASKS = """() => {
  window.tasks = [];
  new PerformanceObserver((list) => {
    for (const each of list.getEntries()) window.tasks.push(Math.round(each.duration));
  }).observe({ entryTypes: ['longtask'] });
}"""
PAINT = "() => performance.getEntriesByName('first-contentful-paint')[0].startTime"
HEAP = "() => performance.memory.usedJSHeapSize"


def say(**figures: Any) -> None:
    print(json.dumps(figures), flush=True)


def cpu_percent(process: psutil.Process, seconds: float) -> float:
    """Of one core."""
    before, began = process.cpu_times(), time.monotonic()
    time.sleep(seconds)
    after = process.cpu_times()
    used = after.user + after.system - before.user - before.system
    return round(100 * used / (time.monotonic() - began), 2)


def mib(process: psutil.Process) -> float:
    return round(process.memory_info().rss / MIB, 2)


def slope_per_hour(minutes: list[float], values: list[float]) -> float:
    """Of the line that fits best."""
    middle, mean = sum(minutes) / len(minutes), sum(values) / len(values)
    spread = sum((at - middle) ** 2 for at in minutes)
    rise = sum((at - middle) * (v - mean) for at, v in zip(minutes, values, strict=True))
    return 60 * rise / spread if spread else 0.0


class Crowd:
    """A coordinator, its agents and `flctl web`, each in processes of their own."""

    def __init__(self, folder: Path, agents: int) -> None:
        self.names = [f"pi-{number:03}" for number in range(agents)]
        self.fleet = PlayedFleet(folder)
        for part in range(PROCESSES):
            if mine := self.names[part::PROCESSES]:
                self.fleet.start_played(*mine, process=f"part-{part}")
        wait_for(lambda: self.fleet.all_ready(*self.names), "the agents are ready")
        self.coordinator = self.process("coordinator")
        self.web: psutil.Process
        self.url = ""

    def process(self, name: str) -> psutil.Process:
        return psutil.Process(self.fleet.processes[name].pid)

    def serve(self) -> None:
        log = self.fleet.folder / "web.log"
        self.fleet.start("web", log, "web", "--state", self.fleet.state, "--bind", "127.0.0.1:0")
        wait_for(lambda: "page " in log.read_text(), "the page")
        lines = log.read_text().splitlines()
        self.url = next(line.split()[-1] for line in lines if line.startswith("page"))
        self.web = self.process("web")
        wait_for(self.all_shown, "all agents are on the page")

    def all_shown(self) -> bool:
        return httpx.get(self.url, timeout=60).text.count("data-state=") == len(self.names)

    def scrape_ms(self) -> float:
        began = time.monotonic()
        httpx.get(f"{self.url}/metrics", timeout=60).raise_for_status()
        return round(1000 * (time.monotonic() - began), 1)

    def train(self, *options: object) -> None:
        given = ("--test-data", self.fleet.data, "--quorum", 1, *options)
        self.fleet.start_training(*given)
        wait_for(lambda: self.fleet.named("opened"), "a round")


def paint_ms(tab: Tab, url: str) -> int:
    tab.goto(url)
    tab.wait_for_timeout(1500)
    return round(tab.evaluate(PAINT))


def filter_tasks_ms(tab: Tab, name: str) -> list[int]:
    """Tasks over 50 ms while 300 rows are filtered and sorted."""
    tab.evaluate(LONG_TASKS)
    for text in (name[:-2], name[:-1], name, ""):
        tab.get_by_label("Text").fill(text)
        tab.wait_for_timeout(700)
    tab.get_by_label("State").select_option("ready")
    tab.wait_for_timeout(700)
    tab.get_by_label("Sort by").select_option("temperature")
    tab.wait_for_timeout(700)
    return list(tab.evaluate("() => window.tasks"))


def seen_after_s(tab: Tab, name: str, state: str, event: Callable[[], object]) -> float:
    began = time.monotonic()
    event()
    tab.locator(f"#agent-{name} [data-cell=state]:has-text('{state}')").wait_for()
    return round(time.monotonic() - began, 2)


def figures(crowd: Crowd, browser: Browser, viewers: int) -> None:
    time.sleep(8)
    alone = {"coordinator_percent": cpu_percent(crowd.coordinator, 20)}
    say(what="no page", **alone, coordinator_mib=mib(crowd.coordinator))
    crowd.serve()
    tab = browser.new_page(viewport={"width": 1440, "height": 860})
    say(what="first paint", ms=[paint_ms(tab, crowd.url) for _ in range(4)][1:])
    say(what="filter", tasks_over_50_ms=filter_tasks_ms(tab, crowd.names[-1]))
    tab.goto(crowd.url)
    tab.wait_for_timeout(3000)
    one, part = crowd.names[0], crowd.names[0::PROCESSES]
    with crowd.fleet.console() as console:
        cordon = seen_after_s(tab, one, "cordoned", lambda: console.cordon(one))
        console.uncordon(one)
    lost = seen_after_s(tab, one, "lost", lambda: crowd.fleet.kill("part-0"))
    say(what="event to page", cordon_s=cordon, lost_s=lost)
    crowd.fleet.start_played(*part, process="part-0")
    wait_for(lambda: crowd.fleet.all_ready(*crowd.names), "they are back")
    for _ in range(viewers - 1):
        browser.new_page().goto(crowd.url)
    time.sleep(8)
    say(
        what="viewers", count=viewers, coordinator_percent=cpu_percent(crowd.coordinator, 20),
        coordinator_mib=mib(crowd.coordinator), web_percent=cpu_percent(crowd.web, 10),
        web_mib=mib(crowd.web),
    )  # fmt: skip
    say(what="scrape", ms=[crowd.scrape_ms() for _ in range(10)])


class Reader(threading.Thread):
    """A viewer without a browser: reads the stream, and loads its page each minute."""

    def __init__(self, url: str, path: str, topics: str) -> None:
        super().__init__(daemon=True)
        self._url, self._path, self._topics = url, path, topics
        self.over = False

    def run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=60) as client:
            while not self.over:
                try:
                    self._minute(client)
                except httpx.HTTPError as error:  # a leak test says it, and goes on
                    say(what="viewer", error=str(error))
                    time.sleep(5)

    def _minute(self, client: httpx.Client) -> None:
        client.get(self._path).raise_for_status()
        until = time.monotonic() + 60
        with client.stream("GET", "/events", params={"topics": self._topics}) as answer:
            for _ in answer.iter_lines():
                if time.monotonic() > until:
                    return


def leak(crowd: Crowd, browser: Browser, viewers: int, minutes: int) -> None:
    """A run goes on, viewers look, a Prometheus scrapes; memory of each process every minute."""
    for name in crowd.names:
        crowd.fleet.plays[name] = {"batch_s": 3.0}
    crowd.fleet.play(crowd.names[0], batch_s=3.0)
    crowd.train("--rounds", 10_000, "--fraction", max(0.05, 3 / len(crowd.names)))
    crowd.serve()
    run = crowd.fleet.named("begun")[0]["run"] if crowd.fleet.named("begun") else ""
    pages = [("/", "fleet,keys"), ("/runs", "runs"), ("/security", "keys"),
             (f"/agents/{crowd.names[1]}", "fleet,run"),
             (f"/runs/{run}", "run,runs")]  # fmt: skip
    tab = browser.new_page(viewport={"width": 1440, "height": 860})
    tab.goto(f"{crowd.url}/runs/{run}")
    readers = [Reader(crowd.url, path, topics) for path, topics in pages[: viewers - 1]]
    for reader in readers:
        reader.start()
    found: dict[str, list[float]] = {
        "minute": [],
        "coordinator_mib": [],
        "web_mib": [],
        "tab_mib": [],
    }
    began = time.monotonic()
    for minute in range(minutes + 1):
        while time.monotonic() < began + 60 * minute:
            crowd.scrape_ms()
            tab.wait_for_timeout(
                1000 * min(SCRAPE_S, max(0.0, began + 60 * minute - time.monotonic()))
            )
        now = {
            "minute": minute, "coordinator_mib": mib(crowd.coordinator), "web_mib": mib(crowd.web),
            "tab_mib": round(tab.evaluate(HEAP) / MIB, 2),
        }  # fmt: skip
        for key, value in now.items():
            found[key].append(value)
        more = {"files": crowd.web.num_fds(), "threads": crowd.web.num_threads()}
        say(**now, **more, rounds=len(crowd.fleet.named("round")))
    for reader in readers:
        reader.over = True
    first = round(minutes * SETTLED)
    at = found["minute"][first:]
    say(what="slope", unit="MiB an hour", from_minute=first,
        **{key: round(slope_per_hour(at, values[first:]), 2)
           for key, values in found.items() if key != "minute"})  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--agents", type=int, default=300)
    parser.add_argument("--viewers", type=int, default=5)
    parser.add_argument("--leak-min", type=int, default=0, help="minutes; 0 measures the figures")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        crowd = Crowd(Path(folder), given.agents)
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        try:
            if given.leak_min:
                leak(crowd, browser, given.viewers, given.leak_min)
            else:
                figures(crowd, browser, given.viewers)
        finally:
            browser.close()
            crowd.fleet.close()


if __name__ == "__main__":
    main()
