"""Finds out why a worker process ended, from its exit status and the kernel's counters."""

import signal
from pathlib import Path

from flctl.worker.jobs import JobFailed


def oom_kills(root: Path = Path("/")) -> int:
    """How often the kernel has killed a process for want of memory, in this process's
    control group and on the whole machine; 0 if neither is known."""
    counts = [_count(root / "proc/vmstat", "oom_kill")]
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, group = line.split(":", 2)
        inside = group.lstrip("/")
        if not controllers:
            counts.append(_count(root / "sys/fs/cgroup" / inside / "memory.events", "oom_kill"))
        elif "memory" in controllers.split(","):
            folder = root / "sys/fs/cgroup/memory"
            counts.append(_count(folder / inside / "memory.oom_control", "oom_kill"))
    return sum(counts)


def explain(status: int | None, oom_kills_meanwhile: int) -> JobFailed:
    """`status` as `subprocess` gives it: negative is the number of a signal."""
    if status == -signal.SIGKILL and oom_kills_meanwhile > 0:
        return JobFailed(
            kind="out of memory",
            message="the worker was killed (signal 9): probably out of memory; "
            "use a smaller batch_size or give the container more memory",
        )
    return JobFailed(kind="worker died", message=f"the worker {_ending(status)}")


def _ending(status: int | None) -> str:
    if status is None:
        return "closed its pipe"
    if status >= 0:
        return f"ended with exit status {status}"
    try:
        name = f" {signal.Signals(-status).name}"
    except ValueError:
        name = ""
    hint = (
        "; this build of torch does not support this processor" if status == -signal.SIGILL else ""
    )
    return f"was killed (signal {-status}{name}){hint}"


def _count(path: Path, key: str) -> int:
    for line in _lines(path):
        name, _, value = line.partition(" ")
        if name == key and value.strip().isdigit():
            return int(value)
    return 0


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []
