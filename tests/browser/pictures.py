"""Makes the pictures of README and docs/how-to/web.md: `make pictures`.

A real coordinator and eight real agents with shares of the heartbeats that ship with flctl. This
machine is no Pi, so the temperature and the throttling that the agents report are played.
"""

import os
import pty
import re
import subprocess
import sys
import tempfile
import threading
from io import StringIO
from pathlib import Path

HERE = Path(__file__).parent
for folder in (HERE.parent, HERE.parent / "web"):
    sys.path.insert(0, str(folder))
from page_rig import Page, PlayedFleet  # noqa: E402
from playwright.sync_api import Browser, sync_playwright  # noqa: E402
from real_fleet import FLCTL, QUIET, flctl, wait_for  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.text import Text  # noqa: E402

from flctl.web.serving import WebOptions, site_of  # noqa: E402

NAMES = tuple(f"pi-{number:02}" for number in range(1, 9))
HOT, KILLED, CORDONED = "pi-04", "pi-07", "pi-06"
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
COLUMNS = 92
REDRAWN = re.compile(r"\r\x1b\[2K(?:\x1b\[1A\x1b\[2K)+")
AGENT = """
import os, sys
from flctl.agent.telemetry import Computer
from flctl.__main__ import main
os.nice(10)
degrees, throttled = float(sys.argv.pop(1)), tuple(filter(None, sys.argv.pop(1).split(",")))
Computer.temperature_c = lambda self: degrees
Computer.throttled = lambda self: throttled
main()
"""


def start_agents(fleet: PlayedFleet) -> None:
    shares = fleet.folder / "shares"
    done = flctl("data", "split", "--task", "ecg", "--agents", len(NAMES), "--out", shares)
    assert done.returncode == 0, done.stderr
    token = fleet.folder / "token"
    token.write_text(fleet.joining)
    token.chmod(0o600)
    for number, name in enumerate(NAMES):
        played = ("83.4", "throttled") if name == HOT else (str(48.5 + 17 * number % 13), "")
        with fleet.log_path(name).open("wb") as log:
            fleet.processes[name] = subprocess.Popen(
                [sys.executable, "-c", AGENT, *played, "agent", "--coordinator", fleet.address,
                 f"--server-key={fleet.server_key}", "--name", name, "--task", "ecg",
                 "--state", fleet.folder / name, "--data", shares / name, "--threads", "1",
                 "--join-token-file", token],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=QUIET,
            )  # fmt: skip
    fleet.until_ready(*NAMES)
    with fleet.console() as console:
        for number, name in enumerate(NAMES):
            console.label(name, {"site": f"ward-{number % 3 + 1}"})


def training(fleet: PlayedFleet, rounds: int, rate: float) -> list[object]:
    return [
        "train", "--state", fleet.state, "--task", "ecg", "--rounds", rounds, "--epochs", 1,
        "--lr", rate, "--quorum", 0.6, "--test-data", fleet.folder / "shares" / "test",
    ]  # fmt: skip


class Terminal:
    """A command in a terminal of its own, and what it has drawn there."""

    def __init__(self, fleet: PlayedFleet, arguments: list[object]) -> None:
        self.drawn = ""
        self._ours, theirs = pty.openpty()
        env = {**os.environ, "COLUMNS": str(COLUMNS), "LINES": "40", "TERM": "xterm-256color"}
        fleet.processes["train"] = subprocess.Popen(
            [*FLCTL, *map(str, arguments)], stdin=theirs, stdout=theirs, stderr=theirs, env=env
        )
        os.close(theirs)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            while found := os.read(self._ours, 65536):
                self.drawn += found.decode(errors="replace")
        except OSError:  # the command has ended
            return

    def frame(self, *words: str) -> str:
        """The newest whole frame with those words, else nothing."""
        frames = REDRAWN.split(self.drawn)[1:-1]
        return next((f for f in reversed(frames) if all(word in f for word in words)), "")


def save_terminal(frame: str, path: Path) -> None:
    console = Console(file=StringIO(), record=True, width=COLUMNS, force_terminal=True)
    console.print(Text.from_ansi(frame.replace("\r\n", "\n").strip("\n")))
    drawn = console.export_svg(title="flctl train --task ecg --rounds 30")
    # Rich names a font on another server; the page loads nothing from there.
    drawn = re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.DOTALL)
    path.write_text("\n".join(line.rstrip() for line in drawn.splitlines()) + "\n")


def shoot(browser: Browser, page: Page, folder: Path, done: str, live: str) -> None:
    compare = f"/runs/compare?run={done}&run={live}"
    for name, path, size, scheme in (
        ("fleet", "/?sort=bad", WIDE, "light"), ("run", f"/runs/{live}", WIDE, "light"),
        ("compare", compare, WIDE, "light"), ("agent", f"/agents/{HOT}", WIDE, "light"),
        ("run-dark", f"/runs/{live}", WIDE, "dark"), ("fleet-phone", "/?sort=bad", PHONE, "light"),
    ):  # fmt: skip
        tab = browser.new_page(viewport=size, color_scheme=scheme)
        tab.goto(page.url + path)
        tab.wait_for_timeout(2500)
        tab.screenshot(path=folder / f"web-{name}.png")
        tab.close()


def main(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        fleet = PlayedFleet(Path(temporary))
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        try:
            start_agents(fleet)
            finished = flctl(*training(fleet, 5, 0.005), within_s=900)
            assert finished.returncode == 0, finished.stderr
            with fleet.console() as console:
                done = console.look().summaries[0]["run"]
            assert flctl("cordon", CORDONED, "--state", fleet.state).returncode == 0
            terminal = Terminal(fleet, training(fleet, 30, 0.05))
            frame = wait_for(
                lambda: terminal.frame("round 5/", "training", "waiting"), "round 5", 300
            )
            save_terminal(frame, folder / "train.svg")
            fleet.kill(KILLED)
            page = Page(site_of(fleet.state, None, WebOptions(bind=""), Path(temporary) / "web"))
            with fleet.console() as console:
                runs = [each["run"] for each in console.look().summaries]
            page.until(lambda text: 'data-state="lost"' in text)
            shoot(browser, page, folder, done, next(run for run in runs if run != done))
            page.close()
        finally:
            browser.close()
            fleet.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
