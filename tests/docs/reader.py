"""Someone who reads a page and types what it says, on one machine without a network.

Commands run in one bash, as they are written: it keeps its folder and its jobs. A coordinator runs
in a terminal of its own. Each Pi is a folder, which `ssh` and `scp` reach; what `flctl service`
would have systemd start is started as it is. Everything lies in one folder, the home included.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psutil
from blocks import ROOT
from marks import Saved, Shown, Step, parts
from real_fleet import WITHIN_S, free_port, wait_for
from shapes import missing

PIS = ("pi-01", "pi-02", "pi-03")
READY = r"(?s)" + ".*".join(f"{name} +ready" for name in PIS)
STAYS = {
    r"flctl coordinator": r"server key +\S+",
    r"flctl web": r"http://\S+",
    r"flctl status .*--watch": READY,
    r"flctl logs .*--follow": r"\S",
    r"flctl agent [^&]*$": r"welcome",
}
"""What runs until Ctrl-C, and what it prints when it is at work."""
SAME_EVERYWHERE = ("flctl data ", "head ", "ls ")
"""Their figures depend on nothing but data that ship with flctl."""
RUN = re.compile(r"(?:^|/runs/)([a-z]+-\d{4}-\d{6}-[0-9a-f]{4})(?: +finished|/last)", re.MULTILINE)
"""In what `runs list` and a finished `train` print."""
LOOP = """
set -m -o pipefail
trap 'failed=$?' ERR
while IFS= read -r file; do
    failed=0
    . "$file" </dev/null >"$file.out" 2>&1
    echo "$failed $PWD"
done
"""
SSH = """#!/bin/bash
pi=$1; shift
cd "$PIS/$pi" && HOME=$PWD exec bash -c "$*"
"""
SCP = """#!/bin/bash
for last; do :; done
cp -rp "${@:2:$#-2}" "$PIS/${last%:}/"
"""
# `flctl` on a Pi.
ON_A_PI = """#!/bin/bash
[ "$1 $2" = "service install" ] || exec flctl "$@"
unit=$(flctl "$@" --user --dry-run) || exit
start=$(sed -n 's/^ExecStart=//p' <<<"$unit")
eval "$start" </dev/null >>agent.log 2>&1 &
echo $! >agent.pid
"""
Replaced = str | Callable[[re.Match[str]], str]


class Page(NamedTuple):
    """What a reader has and does beyond the text."""

    given: tuple[str, ...] = ()
    """Commands that make what the page takes for granted."""
    instead: Mapping[str, Replaced] = {}
    """In a command: patterns, and what stands for them."""
    until: Mapping[str, str] = {}
    """Commands that are repeated until they print something like this."""
    afterwards: tuple[str, ...] = ()
    """Commands that leave the fleet as the page found it."""


PLAIN = Page()
EVERYWHERE = {
    r"--bind \S+": "--bind 127.0.0.1:0",
    r"^flctl coordinator(?!.*--bind)": "flctl coordinator --bind 127.0.0.1:0",
    r"^flctl web(?!.*--bind)": "flctl web --bind 127.0.0.1:0",
    # Two rounds, and as few agents as will do, show what many show.
    r"\b(rounds[ =]+)(?!1\b)\d+": r"\g<1>2",
    r"flctl train(?!(?s:.*)(--rounds|--resume|\.toml))": "flctl train --rounds 1",
    r"--local [345]\b": "--local 2",
    r"--epochs \d+": "--epochs 2",
    r"(/home/me|/srv)/": "~/",
    r"pip install \./": "pip install --quiet --no-build-isolation ./",
    r"^ls ": "ls -C ",  # as on a terminal
}


class Reader:
    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, folder / "home"
        self.home.mkdir()
        self._environment = self._machine()
        self._count = 0
        self._staying: list[tuple[str, subprocess.Popen[bytes], Path]] = []
        self._known = {"9000": str(free_port())}
        self._open()

    def read(self, path: Path, page: Page = PLAIN) -> int:
        """Do all that it says. Returns how many outputs were compared; raises AssertionError."""
        compared = 0
        self._type(f"mkdir -p ~/{path.stem} && cd ~/{path.stem}")
        for command in page.given:
            self._type(self._filled(command, PLAIN))
        printed: list[tuple[Step, str]] = []
        found = list(parts(path))
        for part, after in zip(found, [*found[1:], None], strict=True):
            if isinstance(part, Saved):
                name = self._filled(part.name, page)
                file = self._where / name.replace("~", str(self.home))
                file.write_text(self._filled(part.block.text, page))
            elif isinstance(part, Shown):
                last = next(
                    step for step, _ in reversed(printed) if step.text.startswith(part.of or "")
                )
                out = "".join(out for step, out in printed if step.block == last.block)
                out = out.replace(f" on {socket.gethostname()} ", " on server ")
                lacks = missing(part.lines, out, last.text.startswith(SAME_EVERYWHERE))
                assert lacks is None, f"{part.block}: {last} did not print: {lacks}\n{out}"
                compared += 1
            elif part.not_run is None:
                shown = after.lines if isinstance(after, Shown) and after.of is None else None
                began = time.monotonic()
                printed.append((part, self._do(part, page, shown)))
                print(f"{time.monotonic() - began:5.1f} s  {part}: {part.text}")
        for command in page.afterwards:
            self._type(self._filled(command, PLAIN))
        return compared

    def close(self) -> None:
        """Stop everything, and see that it goes."""
        try:
            while self._staying:
                self._interrupt()
            self._end_jobs()
            for process in self.left():
                if process.pid != self._bash.pid:
                    process.terminate()  # the agents on the Pis
            wait_for(lambda: len(self.left()) == 1, "all ends")
        finally:
            self._kill_all()
            self._bash.communicate()

    def left(self) -> list[psutil.Process]:
        """All processes that any command has started."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("READER") == str(self.folder):
                    found.append(process)
            except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        return found

    def _do(self, step: Step, page: Page, shown: list[str] | None) -> str:
        text = self._filled(step.text, page)
        for pattern, sign in STAYS.items():
            if re.match(pattern, text):
                return self._stay(step, text, sign)
        until = next((sign for what, sign in page.until.items() if re.match(what, step.text)), None)
        if until is None and shown and text.startswith("flctl status"):
            until = ""

        def attempt() -> str | None:
            failed, out = self._command(text)
            right = not failed and re.search(until or "", out) and not missing(shown or [], out)
            last[:] = [out]
            return out if right else None

        last = [""]
        if until is None:
            failed, out = self._command(text)
            assert not failed, f"{step}: {text}\nexit code {failed}\n{out}"
        else:
            try:
                out = wait_for(attempt, "")
            except AssertionError:
                raise AssertionError(f"{step}: {text}\nprints:\n{last[0]}") from None
        if found := RUN.findall(out):
            self._known["RUN"] = found[0]
        return out

    def _stay(self, step: Step, text: str, sign: str) -> str:
        if text.startswith("flctl coordinator") and self._staying:
            self._end_jobs()
            while self._staying:  # one at a time, on this machine
                self._interrupt()
        self._count += 1
        log = self.folder / f"{self._count}.out"
        with log.open("wb") as out:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {text}"], cwd=self._where, env=self._environment,
                stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            )  # fmt: skip
        self._staying.append((f"{step}: {text}", process, log))
        with suppress(AssertionError):
            wait_for(lambda: process.poll() is not None or re.search(sign, log.read_text()), "")
        assert re.search(sign, log.read_text()), f"{step}: {text}\nprinted:\n{log.read_text()}"
        if process.poll() is not None:
            self._staying.pop()
            raise AssertionError(f"{step}: {text}\nhas ended:\n{log.read_text()}")
        printed = log.read_text()
        if text.startswith("flctl coordinator"):
            for name, pattern in (
                ("KEY", r"server key +(\S+)"),
                ("7700", r"coordinator +\S+:(\d+)"),
            ):
                found = re.search(pattern, printed)
                assert found, printed
                self._known[name] = found[1]
        else:
            self._interrupt()
        return printed

    def _interrupt(self) -> None:
        """Ctrl-C in the last terminal that was opened."""
        text, process, log = self._staying.pop()
        process.send_signal(signal.SIGINT)
        try:
            code = process.wait(WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"{text}\nstays after Ctrl-C:\n{log.read_text()}") from None
        ended = (0,) if "flctl coordinator" in text else (0, 130)
        assert code in ended, f"{text}\nexit code {code} after Ctrl-C:\n{log.read_text()}"

    def _end_jobs(self) -> None:
        """As the pages say it."""
        self._command("kill $(jobs -p) || true; wait")

    def _filled(self, text: str, page: Page) -> str:
        for pattern, instead in page.instead.items():
            text = re.sub(
                pattern, instead if callable(instead) else lambda _, text=instead: text, text
            )
        for pattern, template in EVERYWHERE.items():
            text = re.sub(pattern, template, text)
        text = re.sub(r"\b(SERVER|LAPTOP|[\d.]{7,}):7700", "127.0.0.1:7700", text)
        return re.sub(
            r"\b(KEY|RUN|7700|9000)\b", lambda found: self._known.get(found[0], found[0]), text
        )

    def _type(self, text: str) -> None:
        failed, out = self._command(text)
        assert not failed, f"{text}\nexit code {failed}\n{out}"

    def _command(self, text: str) -> tuple[int, str]:
        """In the reader's shell: the last exit code of a command in it that failed, its output."""
        self._count += 1
        file = self.folder / str(self._count)
        file.write_text(text + "\n")
        late = threading.Timer(WITHIN_S, self._kill_all)
        late.start()
        assert self._bash.stdin is not None and self._bash.stdout is not None
        self._bash.stdin.write(f"{file}\n")
        self._bash.stdin.flush()
        answer = self._bash.stdout.readline()
        late.cancel()
        out = Path(f"{file}.out").read_text(errors="replace")
        assert answer, f"{text}\nhas ended the shell, or takes over {WITHIN_S:.0f} s:\n{out}"
        failed, _, where = answer.rstrip("\n").partition(" ")
        self._where = Path(where)
        return int(failed), out

    def _kill_all(self) -> None:
        for process in self.left():
            process.kill()

    def _open(self) -> None:
        self._bash = subprocess.Popen(
            ["bash", "--norc", "-c", LOOP], cwd=self.home, env=self._environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        self._where = self.home

    def _machine(self) -> dict[str, str]:
        """A home with the environment of the install instructions, which borrows the packages of
        this one, and the Pis, which have it too."""
        own = self.home / "flctl-env"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", own], check=True)
        packages = next(own.glob("lib/python*/site-packages"))
        (packages / "borrowed.pth").write_text(
            "".join(f"import site; site.addsitedir({path!r})\n"
                    for path in sys.path if path.endswith("site-packages"))
        )  # fmt: skip
        for name, module in (("flctl", "flctl"), ("pip", "pip")):
            _script(own / "bin" / name, f'#!/bin/sh\nexec {own}/bin/python -m {module} "$@"\n')
        for pi in PIS:
            _script(self.folder / "pis" / pi / "flctl-env/bin/flctl", ON_A_PI)
        _script(self.folder / "bin/ssh", SSH)
        _script(self.folder / "bin/scp", SCP)
        return {
            "HOME": str(self.home),
            "PATH": f"{self.folder}/bin:{own}/bin:{os.environ['PATH']}",
            "READER": str(self.folder), "PIS": str(self.folder / "pis"),
            "CLONE": str(ROOT), "SHARED": str(ROOT.parent / "shared/data"),
            "LANG": "C.UTF-8", "NO_COLOR": "1", "COLUMNS": "200", "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": "1", "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }  # fmt: skip


@contextmanager
def reader() -> Iterator[Reader]:
    """In an empty folder that systemd would take for a lasting one; nothing is left of it."""
    with tempfile.TemporaryDirectory(prefix="flctl-", dir="/var/tmp") as folder:
        made = Reader(Path(folder))
        try:
            yield made
        finally:
            made.close()


def _script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
