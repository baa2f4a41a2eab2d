"""flctl beside plain PyTorch and other systems: the same jobs, each system in an environment of its
own, each run a process of its own. `make compare` calls it.

    make compare                                      everything: two hours on two cores
    make compare SYSTEMS='flctl plain' JOBS=lr        some of it
    make compare MNIST=/data/mnist                    a folder with MNIST's four packed IDX files

One JSON file for each run goes into results/; `render.py` makes docs/explanation/comparison.md
of them. Systems take turns, and a run's memory is that of all its processes together (PSS: what
they share counts once), asked five times a second.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ENVIRONMENTS = Path(os.environ.get("COMPARE_ENVIRONMENTS", HERE / "environments"))
RESULTS = HERE / "results"
SEED = 1
CLIENTS = {"lr": 1000, "cnn": 100}
TIMES = {"lr": 3, "cnn": 3}
LIMIT_S = 1500
MIB = 2**20
Make = Callable[[str, str, str], list[str]]
"""A command from the job, MNIST's folder and the output's."""


class System(NamedTuple):
    package: str
    make: Make
    code: tuple[str, ...]
    """Files that a user writes."""
    requirements: str


def script(name: str) -> Make:
    return lambda job, mnist, out: ["python", f"systems/{name}", job, str(SEED), mnist, out]


def flctl(job: str, mnist: str, out: str, jobs: int = 1) -> list[str]:
    how = {
        "lr": "Logistic --fraction 0.01 --lr 0.03 --rounds 100 --evaluate coordinator "
        "--evaluate-every 20",
        "cnn": "Convolutional --fraction 0.1 --lr 0.1 --rounds 30 --evaluate none",
    }[job]
    return [
        *f"flctl train --task flctl_task:{how} --virtual {CLIENTS[job]} --partition record".split(),
        *f"--batch-size 10 --seed {SEED} --jobs {jobs} --data".split(), mnist,
        "--save-model", f"{out}/final.safetensors",
    ]  # fmt: skip


SYSTEMS = {
    "plain": System("torch", script("plain.py"), ("plain.py",), "plain"),
    "pfl": System("pfl", script("pfl_run.py"), ("pfl_run.py",), "pfl"),
    "flwr": System("flwr", lambda *_: ["python", "systems/flwr_app.py"], ("flwr_app.py",), "flwr"),
    "nvflare": System(
        "nvflare",
        script("nvflare_job.py"),
        ("nvflare_job.py", "nvflare_client.py", "nvflare_net.py"),
        "nvflare",
    ),
    "flctl": System("flctl", flctl, ("flctl_task.py",), "flctl"),
    "flctl-jobs-2": System(
        "flctl", lambda *args: flctl(*args, jobs=2), ("flctl_task.py",), "flctl"
    ),
}


def environment(name: str) -> Path:
    """The folder of its programs; made when it is not there."""
    folder = ENVIRONMENTS / name
    if not (folder / "made").exists():
        print(f"making {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        wanted = HERE / "requirements" / f"{name}.txt"
        pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "-r", wanted]
        subprocess.run(pip, check=True, cwd=HERE)
        (folder / "made").touch()
    return folder / "bin"


class Watched(NamedTuple):
    seconds: float
    cpu_s: float
    peak_mib: float
    code: int | None
    """None: it took too long."""


def watched(command: list[str], log: Path, limit_s: float, **how: Any) -> Watched:
    """Run it, and look at all its processes until it ends."""
    began, peak, cpu = time.monotonic(), 0.0, {}
    with log.open("wb") as out:
        process = psutil.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True, **how
        )
    try:
        while (code := process.poll()) is None and time.monotonic() - began < limit_s:
            total = 0
            for each in family(process):
                try:
                    total += each.memory_full_info().pss
                    times = each.cpu_times()
                    cpu[each.pid, each.create_time()] = times.user + times.system
                except psutil.Error:
                    continue
            peak = max(peak, total / MIB)
            time.sleep(0.2)
        seconds = time.monotonic() - began
    finally:
        end(process)
    return Watched(round(seconds, 2), round(sum(cpu.values()), 2), round(peak, 1), code)


def family(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def end(process: psutil.Process) -> None:
    """And what it has started."""
    found = family(process)
    for each in found:
        try:
            each.send_signal(signal.SIGKILL)
        except psutil.Error:
            continue
    psutil.wait_procs(found, timeout=10)


def version(programs: Path, package: str) -> str:
    code = f"import importlib.metadata as m; print(m.version({package!r}), m.version('torch'))"
    told = [programs / "python", "-c", code]
    found = subprocess.run(told, check=False, capture_output=True, text=True)
    return found.stdout.strip()


def machine() -> dict[str, Any]:
    model = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
         if line.startswith("model name")), platform.machine(),
    )  # fmt: skip
    memory = round(psutil.virtual_memory().total / 2**30)
    kernel, python = platform.release().split("-")[0], platform.python_version()
    return {"cpu": model, "cores": os.cpu_count(), "memory_gib": memory,
            "kernel": kernel, "python": python}  # fmt: skip


def once(name: str, job: str, number: int, mnist: str) -> dict[str, Any]:
    system, programs = SYSTEMS[name], environment(SYSTEMS[name].requirements)
    out = tempfile.mkdtemp(prefix=f"compare-{name}-")
    command = system.make(job, mnist, out)
    variables = {
        **os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{HERE}:{HERE / 'systems'}", "JOB": job, "SEED": str(SEED), "MNIST": mnist,
        "OUT": out, "CLIENTS": str(CLIENTS[job]), "FLCTL_STATE": f"{out}/state",
        "RAY_USAGE_STATS_ENABLED": "0", "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_worker_niceness": "0",  # else Flower's clients come last on a busy machine
    }  # fmt: skip
    log, load = Path(out) / "log.txt", os.getloadavg()[0]
    program = [str(programs / command[0]), *command[1:]]
    found = watched(program, log, LIMIT_S, env=variables, cwd=HERE)
    row: dict[str, Any] = {
        "system": name, "job": job, "number": number, "seed": SEED,
        "version": version(programs, system.package), "date": time.strftime("%Y-%m-%d %H:%M"),
        "load_before": round(load, 2), "machine": machine(), **found._asdict(),
        "command": " ".join(command).replace(mnist, "$MNIST").replace(out, "$OUT"),
    }  # fmt: skip
    final = next(iter(sorted(Path(out).glob("final.*"))), None)
    if final is not None and found.code == 0:
        judge = [environment("plain") / "python", HERE / "evaluate.py", final, job, mnist]
        told = subprocess.run(judge, capture_output=True, text=True, env=variables, check=True)
        row |= json.loads(told.stdout)
    else:
        row["words"] = log.read_text(errors="replace").splitlines()[-15:]
    shutil.rmtree(out, ignore_errors=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--systems", nargs="*", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--jobs", nargs="*", choices=CLIENTS, default=list(CLIENTS))
    parser.add_argument("--times", type=int, help=f"runs of each; else {TIMES}")
    parser.add_argument("--first", type=int, default=1, help="number of the first run")
    parser.add_argument("--mnist", default=str(ROOT.parent / "shared" / "data" / "mnist"))
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what it has started ends too
    mnist = str(Path(options.mnist or "").resolve())
    if not (Path(mnist) / "train-images-idx3-ubyte.gz").exists():
        parser.error(f"{mnist} has no MNIST: name its folder with MNIST=")
    RESULTS.mkdir(exist_ok=True)
    for name in [*options.systems, "plain"]:
        environment(SYSTEMS[name].requirements)
    for job in options.jobs or CLIENTS:
        for number in range(options.first, options.first + (options.times or TIMES[job])):
            for name in options.systems or SYSTEMS:
                row = once(name, job, number, mnist)
                path = RESULTS / f"{job}-{name}-{number}.json"
                path.write_text(json.dumps(row, indent=1) + "\n")
                shown = ("seconds", "cpu_s", "peak_mib", "accuracy", "loss", "words")
                print(job, name, number, {k: row[k] for k in shown if k in row}, flush=True)


if __name__ == "__main__":
    main()
