"""A real coordinator, played agents, and the page over them, served as `flctl web` does."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
from real_fleet import QUIET, RealFleet, wait_for

from flctl.fleet.connecting import connect_coordinator
from flctl.fleet.console import RemoteRuns
from flctl.transport.keypair import load_or_make, public_key
from flctl.web.serving import WebOptions, listening, server
from flctl.web.site import Site

HERE = Path(__file__).parent
NAMES = ("pi-01", "pi-02", "pi-03")


class PlayedFleet(RealFleet):
    """Its agents are played (played_agents.py), and are steered while they live."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.plays: dict[str, dict[str, Any]] = {}
        self.start_coordinator()
        self.joining = self.token("--uses", 500, "--ttl", "1h")

    def start_coordinator(self) -> None:
        super().start_coordinator()
        self.server_key = public_key(self.server_key, "the server's")

    def play(self, name: str, **how: Any) -> None:
        """How its machine is, or its training goes, from now on."""
        self.plays[name] = {**self.plays.get(name, {}), **how}
        path = self.folder / "play.json"
        new = path.with_suffix(".new")
        new.write_text(json.dumps(self.plays))
        new.replace(path)

    def start_played(self, *names: str, process: str = "played", logs: bool = False) -> None:
        given = {
            "coordinator": self.address, "server_key": self.server_key, "token": self.joining,
            "folder": str(self.folder), "names": names, "logs": logs,
        }  # fmt: skip
        log = self.folder / f"{process}.log"
        with log.open("ab") as out:
            self.processes[process] = subprocess.Popen(
                [sys.executable, str(HERE / "played_agents.py"), json.dumps(given)],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=QUIET,
            )
        wait_for(lambda: "are there" in log.read_text(), f"the agents: {log}")

    def console(self) -> RemoteRuns:
        return connect_coordinator(self.state)

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        process = self.processes[name]
        super().kill(name, number)
        if process.stdin is not None:
            process.stdin.close()

    def close(self) -> None:
        for process in self.processes.values():
            if process.stdin is not None:
                process.stdin.close()
        super().close()

    def all_ready(self, *names: str) -> bool:
        with self.console() as console:
            found = {agent["name"]: agent["state"] for agent in console.status()["agents"]}
        return all(found.get(name) == "ready" for name in names)


class Page:
    """A page, served in a thread as `flctl web` serves it."""

    def __init__(self, site: Site, *names: str, options: WebOptions | None = None) -> None:
        options = options or WebOptions(bind="", names=names)
        socket = listening("127.0.0.1:0")
        self.site = site
        self.url = f"http://127.0.0.1:{socket.getsockname()[1]}"
        self._server = server(self.site, options)
        self._thread = threading.Thread(target=self._server.run, args=([socket],), daemon=True)
        self._thread.start()
        self.client = httpx.Client(
            base_url=self.url, headers={"origin": self.url, "accept": "text/html"}, timeout=200
        )
        wait_for(lambda: self._server.started, "the page")

    def until(self, what: Callable[[str], Any], path: str = "/", within_s: float = 120.0) -> str:
        """The page, once it says that."""
        found = ""

        def there() -> bool:
            nonlocal found
            found = self.client.get(path).text
            return bool(what(found))

        try:
            wait_for(there, f"{path} of the page", within_s)
        except AssertionError as error:
            raise AssertionError(f"{error}: {found[:5000]}") from None
        return found

    def events(self, topics: str, within_s: float = 120.0) -> Iterator[tuple[str, Any]]:
        """Name and data of each."""
        until = time.monotonic() + within_s
        with self.client.stream("GET", "/events", params={"topics": topics}) as answer:
            name = ""
            for line in answer.iter_lines():
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    yield name, json.loads(line.removeprefix("data: "))
                assert time.monotonic() < until, "not within the time"

    def close(self) -> None:
        self.client.close()
        self._server.should_exit = True
        self._thread.join(20)


def enrol(fleet: PlayedFleet, key: Path, name: str, role: str) -> None:
    with fleet.console() as console:
        console.add_key(name, load_or_make(key).public, role)
