"""What a process says about itself: peak memory and the bytes on its TCP connections."""

import os
import socket
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

MIB = 1024 * 1024
_ACKED_AND_RECEIVED = struct.Struct("=QQ")
_OFFSET = 120
"""Of `tcpi_bytes_acked` in the kernel's struct tcp_info; `tcpi_bytes_received` follows."""


@dataclass(frozen=True)
class Result:
    """What one system did; the figures that all systems report."""

    rounds_s: list[float]
    """Each round from the model's first byte down to the finished average, in order."""
    coordinator_peak_rss_mib: float
    wire_bytes: int
    """Over the coordinator's TCP connections, both ways, encryption included, all rounds."""


def peak_rss_mib(pid: int | str = "self") -> float:
    """VmHWM of a process in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("the kernel tells no VmHWM")


def wire_bytes() -> int:
    """Bytes that all TCP connections of this process have carried so far, both ways."""
    total, seen = 0, set[int]()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names, not paths, are wanted
        try:
            found = os.fstat(int(name))
            # The coordinator's guard has a second descriptor of each connection.
            if not stat.S_ISSOCK(found.st_mode) or found.st_ino in seen:
                continue
            seen.add(found.st_ino)
            with socket.socket(fileno=os.dup(int(name))) as connection:
                info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        except OSError:
            continue  # Closed meanwhile, or not TCP.
        if len(info) >= _OFFSET + _ACKED_AND_RECEIVED.size:
            total += sum(_ACKED_AND_RECEIVED.unpack_from(info, _OFFSET))
    return total
