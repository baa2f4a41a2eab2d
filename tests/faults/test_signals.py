"""Ctrl-C, SIGTERM and SIGHUP at moments that the seed chooses, on every command; a terminal
that is closed; `docker stop`."""

import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from signal import SIGHUP, SIGINT, SIGTERM

import pytest
from bed import FLCTL, MARK, NO_LIMITS, UNDER, WITHIN_S, Bed
from checker import left_over
from real_fleet import wait_for
from table import Result

pytestmark = pytest.mark.timeout(1200)

LONGEST_S = 20.0
"""An end in order may take so long on a machine that many use."""
OF_A_SIGNAL = {SIGINT: 130, SIGTERM: 143, SIGHUP: 129}


@pytest.fixture
def over(bed: Bed) -> str:
    """A run that has finished, of a coordinator that is still there."""
    bed.start_all()
    run = bed.begin(2)
    assert bed.until_over(run) == "finished"
    return run


def commands(bed: Bed, run: str) -> dict[str, list[object]]:
    """Each command of flctl with something to do."""
    state = ["--state", bed.state]
    out = bed.folder / "out"
    out.mkdir()
    model = bed.state / "runs" / run / "last.safetensors"
    data = ["--data", bed.data("pi-01")]
    inventory = bed.folder / "inventory.ini"
    inventory.write_text("[flctl_agents]\npi-01\npi-09\n")
    key = bed.folder / "a.key"
    server = [f"127.0.0.1:{bed.port}", f"--server-key={bed.server_key}"]
    elsewhere = ["--state", bed.folder / "elsewhere"]
    train = ["train", "--task", "specks", "--lr", 0.1, "--rounds", 200]
    return {
        "--help": ["--help"],
        "status": ["status", *state],
        "status --watch": ["status", *state, "--watch"],
        "discover": ["discover", *state, "--inventory", inventory],
        "keys new": ["keys", "new", key],
        "keys list": ["keys", "list", *state],
        "keys token": ["keys", "token", *state],
        "connect": ["connect", *server, "--key", key, *elsewhere],
        "runs list": ["runs", "list", *state],
        "runs show": ["runs", "show", run, *state],
        "runs replay": [
            "runs", "replay", run, *state,
            *(w for n in bed.agents for w in ("--data", f"{n}={bed.data(n)}")),
        ],
        "runs export": ["runs", "export", run, *state, "--format", "pt", "--out", out / "m.pt"],
        "runs plot": ["runs", "plot", run, *state, "--out", out / "run.png"],
        "data describe": ["data", "describe", "--task", "ecg"],
        "data split": [
            "data", "split", "--task", "ecg", "--agents", 3, "--out", out / "shares",
        ],
        "tasks list": ["tasks", "list"],
        "tasks check": ["tasks", "check", "ecg"],
        "evaluate": ["evaluate", model, "--task", "specks", *data],
        "train": [*train, *state],
        "train --virtual": [*train, "--virtual", 2, *data, *elsewhere],
        "train --local": [*train, "--local", 2, *data, "--state", bed.folder / "local"],
        "demo": ["demo", "--out", out / "demo"],
        "coordinator": ["coordinator", *elsewhere, "--bind", "127.0.0.1:0"],
        "agent": [
            "agent", "--coordinator", *server, "--state", bed.folder / "agent", *data,
            "--task", "specks",
        ],
    }  # fmt: skip


def test_every_command_ends_in_order_whenever_it_is_told(
    bed: Bed, over: str, row: Result, chance: Random
):
    """With the code of the signal unless it was done before, without a traceback; nothing stays.

    Who takes longer than the others is told later, so that it has begun its work.
    """
    row.fault, row.times = "a signal to every command", 0
    wrong = []
    slowest = 0.0
    for name, words in commands(bed, over).items():
        for number in chance.sample([SIGINT, SIGTERM, SIGHUP], 2):
            took, problem = told_to_end(bed, name, words, number, chance)
            row.times += 1
            slowest = max(slowest, took)
            if problem:
                wrong.append(f"{name}, {number.name}: {problem}")
    row.note(f"the slowest took {slowest:.1f} s to end")
    for run in bed.runs():
        if bed.is_over(run) is None:
            bed.stop(run)
    bed.close()
    wrong += left_over(bed)
    assert not wrong, "\n".join(wrong)


def told_to_end(
    bed: Bed, name: str, words: list[object], number: signal.Signals, chance: Random
) -> tuple[float, str]:
    """Seconds until it ended, and what was wrong with that."""
    process = subprocess.Popen(
        [*FLCTL, *map(str, words)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=bed.environment(None),
    )
    wait_for(lambda: catches(process), f"the start of {name}", WITHIN_S)
    time.sleep(chance.uniform(0.0, 6.0 if name.startswith(("train", "demo", "agent")) else 1.5))
    # Python lets go of signals at its end: then it is as good as over.
    if process.poll() is None and catches(process):
        process.send_signal(number)
    began = time.monotonic()
    try:
        _, errors = process.communicate(timeout=LONGEST_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return LONGEST_S, f"it had not ended after {LONGEST_S} s"
    took = time.monotonic() - began
    code = process.returncode
    expected = {0, 1, 2, OF_A_SIGNAL[number]}
    if "Traceback" in errors or "Fatal" in errors:
        return took, errors[-600:]
    return took, "" if code in expected else f"exit code {code}: {errors[-300:]}"


def catches(process: subprocess.Popen[str]) -> bool:
    """Whether it has come to flctl's own code, which deals with signals first of all; or is over.

    Before that Python itself is starting, and ends as any program in Python does.
    """
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = next((line for line in status.splitlines() if line.startswith("SigCgt")), "x 0")
    return bool(int(caught.split()[1], 16) >> (SIGHUP - 1) & 1) or process.poll() is not None


def test_the_terminal_is_closed_during_train(bed: Bed, row: Result, unbroken: Callable[..., None]):
    """Against a daemon: the run belongs to the coordinator, goes on and finishes."""
    row.fault = "terminal closed during flctl train"
    bed.start_all()
    for name in bed.agents:
        bed.pace(name, 0.2)
    pid, terminal = pty.fork()
    if pid == 0:
        words = ("train", "--state", bed.state, "--task", "specks", "--rounds", 3, "--quorum", 1,
                 "--lr", 0.1, "--agents", ",".join(bed.agents))  # fmt: skip
        os.execve(FLCTL[0], [*FLCTL, *map(str, words)], bed.environment(None))
    run = wait_for(lambda: next(iter(bed.runs()), None), "the run", WITHIN_S)
    bed.until_round(run, 1)
    began = time.monotonic()
    os.close(terminal)
    wait_for(lambda: os.waitpid(pid, os.WNOHANG)[0], "the end of flctl train", LONGEST_S)
    row.noticed_s = time.monotonic() - began
    assert bed.until_over(run) == "finished"
    unbroken(bed, run)


@pytest.mark.parametrize("number", [SIGTERM, SIGINT, SIGHUP])
def test_a_local_run_leaves_nothing(bed: Bed, row: Result, chance: Random, number: signal.Signals):
    """All its agents and their workers end with it, and it can be resumed."""
    row.fault = f"{number.name} to flctl train --local"
    state = bed.folder / "local"
    process = bed.start(
        "train",
        ["train", "--local", 2, "--task", "specks", "--data", bed.data("pi-01"), "--rounds", 500,
         "--lr", 0.01, "--state", state, "--json"],
    )  # fmt: skip
    wait_for(lambda: '"event":"round"' in bed.log("train").replace(" ", ""), "a round", WITHIN_S)
    time.sleep(chance.uniform(0.0, 1.0))
    began = time.monotonic()
    assert bed.kill("train", number) == OF_A_SIGNAL[number]
    row.noticed_s = time.monotonic() - began
    assert left_over(bed) == []
    (journal,) = state.glob("runs/*/journal.jsonl")
    assert '"event":"stopped"' in journal.read_text().splitlines()[-1]
    assert process.returncode is not None


@pytest.fixture
def container() -> Iterator[Callable[..., str]]:
    """`docker run` with this machine's Python and the checkout; the name of the container."""
    image = "debian:bookworm-slim"
    if (
        shutil.which("docker") is None
        or subprocess.run(
            ["docker", "image", "inspect", image], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip(f"no Docker with the image {image}")
    names: list[str] = []

    def run(bed: Bed, name: str, words: list[object]) -> str:
        names.append(f"flctl-faults-a-{os.getpid()}-{name}")
        checkout = Path(__file__).resolve().parents[2]
        folders = {"/usr", sys.base_prefix, sys.prefix, str(checkout), str(UNDER)}
        given = {"PYTHONPATH": str(UNDER), "OMP_NUM_THREADS": "1", MARK: bed.mark,
                 "PYTHONUNBUFFERED": "1", "TMPDIR": "/tmp", "HOME": "/tmp"}  # fmt: skip
        subprocess.run(
            [
                "docker", "run", "--detach", "--network", "host", "--name", names[-1],
                *(word for path in sorted(folders) for word in ("-v", f"{path}:{path}:ro")),
                "-v", f"{bed.folder}:{bed.folder}",
                *(word for item in given.items() for word in ("-e", "=".join(item))),
                image, *FLCTL, *map(str, words),
            ],
            check=True, capture_output=True,
        )  # fmt: skip
        return names[-1]

    yield run
    subprocess.run(["docker", "rm", "--force", *names], capture_output=True, check=False)


def test_docker_stop(
    bed: Bed, row: Result, unbroken: Callable[..., None], container: Callable[..., str]
):
    """As process 1 of a container, coordinator and agent end in order within seconds."""
    row.fault, row.times = "docker stop of coordinator and agent", 2
    bed.start_coordinator()
    bed.start_agent("pi-01")
    words: list[object] = [
        "agent", "--coordinator", bed.dialled, f"--server-key={bed.server_key}", "--name", "pi-02",
        "--state", bed.folder / "pi-02", "--data", bed.data("pi-02"), "--task", "specks",
        *NO_LIMITS,
    ]  # fmt: skip
    inside = container(bed, "agent", words)
    bed.until_ready()
    bed.pace("pi-01", 0.3)
    run = bed.begin(4, epochs=4)
    bed.until_round(run, 1)
    row.noticed_s = stop_container(bed, inside)
    subprocess.run(["docker", "start", inside], check=True, capture_output=True)
    bed.until_round(run, 2)
    bed.kill("coordinator", SIGTERM)
    address = f"127.0.0.1:{bed.port}"
    outer = container(bed, "coordinator", ["coordinator", "--state", bed.state, "--bind", address])
    bed.until_round(run, 3)
    row.noticed_s = max(row.noticed_s, stop_container(bed, outer, "coordinator"))
    bed.pace("pi-01", 0)
    bed.start_coordinator()
    assert bed.until_over(run) == "finished"
    stop_container(bed, inside, "pi-02")
    unbroken(bed, run, own_faults={"pi-02": 1})


def stop_container(bed: Bed, name: str, log: str | None = None) -> float:
    """Seconds until it had ended, by itself: 137 would be the kill after the grace.

    `log`: whose log all that it has ever said is added to; so once for each container.
    """
    began = time.monotonic()
    subprocess.run(["docker", "stop", "--time", "30", name], check=True, capture_output=True)
    took = time.monotonic() - began
    shown = ["docker", "inspect", "--format", "{{.State.ExitCode}}", name]
    code = subprocess.run(shown, check=True, capture_output=True, text=True).stdout.strip()
    assert code in ("0", "143"), code
    said = subprocess.run(["docker", "logs", name], check=True, capture_output=True, text=True)
    if log is not None:
        with bed.log_path(log).open("a") as file:
            file.write(said.stdout + said.stderr)
    assert "Traceback" not in said.stderr
    return took
