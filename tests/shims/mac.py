"""What Linux has and macOS has not, taken away; not more than that, and its own habits are not
imitated."""

import os
import resource
import select
import signal
import socket
import sys
import time
from types import FrameType

import psutil

GONE = {
    os: (
        "fdatasync", "pipe2", "memfd_create", "MFD_CLOEXEC", "sched_getaffinity", "posix_fadvise",
        "posix_fallocate", "eventfd", "getrandom", "O_TMPFILE", "O_PATH", "O_DIRECT", "splice",
        "copy_file_range", "pidfd_open", "getresuid", "setresuid",
    ),
    socket: (
        "SOCK_NONBLOCK", "SOCK_CLOEXEC", "TCP_INFO", "MSG_CMSG_CLOEXEC", "SO_PEERCRED",
        "SO_PASSCRED", "AF_NETLINK", "AF_PACKET", "TCP_USER_TIMEOUT",
    ),
    select: ("epoll",),
    signal: ("sigtimedwait", "sigwaitinfo", "SIGRTMIN", "SIGRTMAX"),
    resource: ("prlimit",),
    time: ("CLOCK_BOOTTIME",),
    psutil: ("sensors_temperatures", "sensors_fans"),
    psutil.Process: ("io_counters", "cpu_affinity", "rlimit", "ionice"),
}  # fmt: skip
NOWHERE = ("/proc", "/sys")
LONGEST_SOCKET = 103


def install() -> None:
    for owner, names in GONE.items():
        for name in names:
            if hasattr(owner, name):
                delattr(owner, name)
    for name in ("stat", "lstat", "readlink"):
        setattr(os, name, _without_proc(getattr(os, name)))
    sys.addaudithook(_audit)


def _without_proc(call):
    def guarded(path, *args, **more):
        _expect(path, sys._getframe(1))
        return call(path, *args, **more)

    return guarded


def _audit(event: str, args: tuple) -> None:
    if event in ("open", "os.listdir", "os.scandir"):
        _expect(args[0], sys._getframe(1))
    elif event in ("socket.bind", "socket.connect") and isinstance(args[1], str):
        _expect(args[1], sys._getframe(1))
        if len(args[1]) > LONGEST_SOCKET:
            raise OSError("AF_UNIX path too long")


def _expect(path: object, frame: FrameType) -> None:
    if not isinstance(path, str | bytes | os.PathLike):
        return
    text = os.fsdecode(path)
    # psutil has other ways there.
    own = str(frame.f_globals.get("__name__")).startswith("psutil")
    if text.startswith(tuple(f"{place}/" for place in NOWHERE)) and not own:
        raise FileNotFoundError(2, "No such file or directory", text)
