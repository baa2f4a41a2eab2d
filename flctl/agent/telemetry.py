"""How the agent's machine is: load, memory, disk, temperature, the Pi's throttling.

What cannot be measured is None, never a guess. `root` stands for `/` where files of
the kernel are read, so that tests can bring a tree of their own.
"""

import os
import platform
from pathlib import Path

import psutil

from flctl.wire.messages import Device, Telemetry

THROTTLED_BITS = {
    0: "under-voltage",
    1: "frequency capped",
    2: "throttled",
    3: "soft temperature limit",
}
"""Bits of the Pi's firmware; bits 16 to 19, the same conditions in the past, are left out."""

FRESH_S = 1.0
COLDEST_C, HOTTEST_C = -50.0, 150.0

CGROUPS = (
    ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    (
        "sys/fs/cgroup/memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
)
"""Files with a container's own limit, for cgroup 2 and 1."""


class Computer:
    """Reads the figures of this computer; `state` is the folder whose disk is reported."""

    def __init__(self, state: Path, root: Path = Path("/")) -> None:
        self._state = state
        self._root = root
        self._process = psutil.Process()
        self._last: Telemetry | None = None
        psutil.cpu_percent()  # the first call has nothing to compare with and says 0

    def device(self, torch: str | None = None, cuda: bool = False) -> Device:
        """Description of this computer; `torch` is the version that the worker found."""
        return Device(
            kind=self._kind()[:200],
            arch=platform.machine() or "unknown",
            cores=os.cpu_count() or 0,
            memory_bytes=self.memory_bytes()[1],
            torch=torch,
            cuda=cuda,
        )

    def read(self, uptime_s: float, worker: int | None = None) -> Telemetry:
        """Takes about a millisecond, so figures of the last second are returned again.

        `worker` is the pid of the worker process if any.
        """
        if self._last is not None and uptime_s - self._last.uptime_s < FRESH_S:
            return self._last
        self._last = self._read(uptime_s, worker)
        return self._last

    def _read(self, uptime_s: float, worker: int | None) -> Telemetry:
        used, total = self.memory_bytes()
        free, size = self._disk()
        return Telemetry(
            cpu_percent=psutil.cpu_percent(),
            load_1m=round(os.getloadavg()[0], 2),
            memory_used_bytes=used,
            memory_total_bytes=total,
            disk_free_bytes=free,
            disk_total_bytes=size,
            temperature_c=self.temperature_c(),
            throttled=self.throttled(),
            written_bytes=self._written(worker),
            uptime_s=round(uptime_s, 1),
        )

    def memory_bytes(self) -> tuple[int, int]:
        """Used, and how much there is: of the computer, or of the container if that has less."""
        memory = psutil.virtual_memory()
        for folder, limit, usage, cached in CGROUPS:
            place = self._root / folder
            most, used = _number(place / limit), _number(place / usage)
            if most is not None and used is not None and most < memory.total:
                # Cached files can be read again, so they are not a load.
                return max(0, used - _entry(place / "memory.stat", cached)), most
        return memory.total - memory.available, memory.total

    def temperature_c(self) -> float | None:
        """Temperature of the processor in °C."""
        zones = self._root / "sys/class/thermal"
        for zone in sorted(zones.glob("thermal_zone*")):
            kind = (_text(zone / "type") or "").lower()
            if not any(word in kind for word in ("cpu", "soc", "pkg")):
                continue
            try:
                degrees = int(_text(zone / "temp") or "") / 1000
            except ValueError:
                continue
            if COLDEST_C <= degrees <= HOTTEST_C:
                return round(degrees, 1)
        return None

    def throttled(self) -> tuple[str, ...] | None:
        """Conditions that slow the Pi down at present; None if they are not reported."""
        firmware = self._firmware_flags()
        low_voltage = self._low_voltage()
        if firmware is None and low_voltage is None:
            return None
        words = [word for bit, word in THROTTLED_BITS.items() if (firmware or 0) & (1 << bit)]
        if low_voltage and THROTTLED_BITS[0] not in words:
            words.insert(0, THROTTLED_BITS[0])
        return tuple(words)

    def _firmware_flags(self) -> int | None:
        platforms = self._root / "sys/devices/platform"
        for file in sorted(platforms.glob("soc*/soc*:firmware/get_throttled")):
            try:
                return int(_text(file) or "", 16)
            except ValueError:
                continue
        return None

    def _low_voltage(self) -> bool | None:
        for sensor in sorted((self._root / "sys/class/hwmon").glob("hwmon*")):
            if _text(sensor / "name") == "rpi_volt":
                alarm = _text(sensor / "in0_lcrit_alarm")
                return alarm == "1" if alarm in {"0", "1"} else None
        return None

    def _kind(self) -> str:
        model = _text(self._root / "proc/device-tree/model")
        if model:
            return model
        # A container does not see the device tree; the Pi's kernel shows it here too.
        for line in (_text(self._root / "proc/cpuinfo") or "").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "Model" and value.strip():
                return value.strip()
        return f"{platform.machine() or 'unknown'} computer"

    def _disk(self) -> tuple[int | None, int | None]:
        """Free bytes, and how many there are for this user."""
        try:
            usage = psutil.disk_usage(str(self._state))
        except OSError:
            return None, None
        return int(usage.free), int(usage.used + usage.free)

    def _written(self, worker: int | None) -> int:
        """Bytes that this process and its worker caused to be written to a disk."""
        processes = [self._process]
        written = 0
        try:
            if worker is not None:
                processes.append(psutil.Process(worker))
            for process in processes:
                written += process.io_counters().write_bytes
        except (psutil.Error, OSError, AttributeError):
            pass
        return written


def _number(path: Path) -> int | None:
    """None also for "max"."""
    text = _text(path) or ""
    return int(text) if text.isdecimal() else None


def _entry(path: Path, name: str) -> int:
    """Number of the entry `name` in a file of `name number` lines; 0 when it is not there."""
    for line in (_text(path) or "").splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.isdecimal():
            return int(value)
    return 0


def _text(path: Path) -> str | None:
    """Content of a small file of the kernel; device-tree strings end with NUL."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \n")
    except OSError:
        return None
