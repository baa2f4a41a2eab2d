"""Makes the pictures of docs/how-to/web.md and README: played agents and simulated runs.

python tests/browser/pictures.py docs/pictures
"""

import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
for folder in (HERE, HERE.parent, HERE.parent / "web"):
    sys.path.insert(0, str(folder))
from page_rig import Page, PlayedFleet  # noqa: E402
from playwright.sync_api import sync_playwright  # noqa: E402
from real_fleet import flctl, wait_for  # noqa: E402

from flctl.web.serving import WebOptions, site_of  # noqa: E402

NAMES = tuple(f"pi-{number:02}" for number in range(1, 13))
WIDE, PHONE = {"width": 1440, "height": 860}, {"width": 390, "height": 844}


def played(fleet: PlayedFleet) -> None:
    for number, name in enumerate(NAMES):
        warm = 46.0 + 17 * number % 13
        fleet.play(name, telemetry={"temperature_c": warm}, batch_s=0.3)
    fleet.play("pi-04", telemetry={"temperature_c": 83.0, "throttled": ["throttled"]})
    fleet.play("pi-09", telemetry={"temperature_c": 58.0, "throttled": ["under-voltage"]})
    fleet.play("pi-07", batch_s=8)
    fleet.play("pi-11", telemetry={"temperature_c": 52.0, "disk_free_bytes": 180 << 20})
    fleet.start_played(*NAMES[:-1])
    fleet.start_played(NAMES[-1], process="last")
    with fleet.console() as console:
        for number, name in enumerate(NAMES):
            console.label(name, {"site": f"ward-{number % 3 + 1}"})
        wait_for(lambda: fleet.all_ready(*NAMES), "they are ready")


def simulated(fleet: PlayedFleet) -> list[str]:
    """Two runs that differ in their learning rate."""
    for rate in (0.05, 0.005):
        done = flctl(
            "train", "--state", fleet.state, "--context", "local", "--task", "ecg", "--virtual", 16,
            "--partition", "record", "--rounds", 15, "--lr", rate, within_s=900,
        )  # fmt: skip
        print(done.stderr[-300:])
    with fleet.console() as console:
        return [each["run"] for each in console.look().summaries]


def main(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        fleet = PlayedFleet(Path(temporary))
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        try:
            played(fleet)
            runs = simulated(fleet)
            page = Page(site_of(fleet.state, None, WebOptions(bind=""), Path(temporary) / "web"))
            given = {"task": "ecg", "rounds": "20", "more": f'test_data = "{fleet.data}"'}
            page.until(lambda t: t.count("data-state=") == len(NAMES))
            answer = page.client.post("/runs/start", data=given)
            live = answer.text.partition('href="/runs/')[2].partition('"')[0]
            page.until(lambda t: "Waiting for" in t, f"/runs/{live}/now")
            fleet.kill("last")
            page.until(lambda t: 'data-state="lost"' in t)
            pair = "&".join(f"run={run}" for run in runs[:2])
            shots = {
                "fleet": "/?sort=bad", "run": f"/runs/{runs[0]}" if runs else "/runs",
                "live": f"/runs/{live}", "runs": "/runs", "compare": f"/runs/compare?{pair}",
                "agent": "/agents/pi-04", "security": "/security",
            }  # fmt: skip
            for name, path in shots.items():
                for kind, size, scheme in (("", WIDE, "light"), ("-dark", WIDE, "dark"),
                                           ("-phone", PHONE, "light")):  # fmt: skip
                    tab = browser.new_page(viewport=size, color_scheme=scheme)
                    tab.goto(page.url + path)
                    tab.wait_for_timeout(2500)
                    tab.screenshot(path=folder / f"web-{name}{kind}.png")
                    tab.close()
            page.close()
        finally:
            browser.close()
            fleet.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
