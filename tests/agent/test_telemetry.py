"""What the machine says of itself, on a tree of files like a Pi's."""

from pathlib import Path

import psutil
import pytest

from flctl.agent.telemetry import Computer


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"


def test_a_pi_4(tmp_path: Path) -> None:
    """Model, temperature in °C, and the conditions that are in force now."""
    write(
        tmp_path,
        {
            "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
            "sys/class/thermal/thermal_zone0/temp": "61342\n",
            THROTTLED: "50005\n",
        },
    )
    machine = Computer(tmp_path, tmp_path)
    assert machine.device(torch="2.9.1").kind == "Raspberry Pi 4 Model B Rev 1.4"
    assert machine.temperature_c() == 61.3
    assert machine.throttled() == ("under-voltage", "throttled")


def test_a_container_on_a_pi_5(tmp_path: Path) -> None:
    """There the device tree is hidden and the firmware's folder has another name."""
    write(
        tmp_path,
        {
            "proc/cpuinfo": "processor\t: 0\n\nModel\t\t: Raspberry Pi 5 Model B Rev 1.0\n",
            THROTTLED.replace("soc/soc:", "soc@107c000000/soc@107c000000:"): "e\n",
        },
    )
    machine = Computer(tmp_path, tmp_path)
    assert machine.device().kind == "Raspberry Pi 5 Model B Rev 1.0"
    assert machine.throttled() == ("frequency capped", "throttled", "soft temperature limit")


@pytest.mark.parametrize(
    ("files", "conditions"),
    [
        ({}, None),
        ({THROTTLED: "0\n"}, ()),
        ({THROTTLED: "50000\n"}, ()),
        ({THROTTLED: "rubbish\n"}, None),
        ({"hwmon/name": "rpi_volt\n", "hwmon/in0_lcrit_alarm": "1\n"}, ("under-voltage",)),
        ({"hwmon/name": "rpi_volt\n", "hwmon/in0_lcrit_alarm": "0\n"}, ()),
        ({"hwmon/name": "nvme\n", "hwmon/in0_lcrit_alarm": "1\n"}, None),
    ],
)
def test_what_holds_the_pi_back(
    tmp_path: Path, files: dict[str, str], conditions: tuple[str, ...] | None
) -> None:
    """None where it is not told, empty when nothing does; the past does not count."""
    write(
        tmp_path,
        {name.replace("hwmon/", "sys/class/hwmon/hwmon1/"): text for name, text in files.items()},
    )
    assert Computer(tmp_path, tmp_path).throttled() == conditions


@pytest.mark.parametrize(
    ("kind", "temp", "degrees"),
    [
        ("cpu-thermal", "45000", 45.0),
        ("soc_thermal", "-3500", -3.5),
        ("acpitz", "20000", None),
        ("cpu-thermal", "999000", None),
        ("cpu-thermal", "", None),
    ],
)
def test_only_a_temperature_of_the_processor_counts(
    tmp_path: Path, kind: str, temp: str, degrees: float | None
) -> None:
    """Another sensor's, and what cannot be true, is None."""
    zone = "sys/class/thermal/thermal_zone0"
    write(tmp_path, {f"{zone}/type": kind, f"{zone}/temp": temp})
    assert Computer(tmp_path, tmp_path).temperature_c() == degrees


def test_an_ordinary_computer(tmp_path: Path) -> None:
    """What psutil measures is there, nothing of a Pi is made up."""
    machine = Computer(tmp_path, tmp_path)
    assert machine.device().kind.endswith("computer") and machine.device().memory_bytes > 0
    told = machine.read(uptime_s=12.34)
    assert told.temperature_c is None and told.throttled is None
    assert told.memory_total_bytes and told.memory_used_bytes and told.disk_free_bytes
    assert told.uptime_s == 12.3 and told.written_bytes >= 0


def test_a_worker_that_is_gone_does_not_matter(tmp_path: Path) -> None:
    """Its pid may be stale when the heartbeat is made."""
    assert Computer(tmp_path).read(1.0, worker=2**22 - 1).written_bytes >= 0


@pytest.mark.parametrize(
    "files",
    [
        {
            "sys/fs/cgroup/memory.max": "1048576\n",
            "sys/fs/cgroup/memory.current": "700000\n",
            "sys/fs/cgroup/memory.stat": "anon 1\ninactive_file 200000\n",
        },
        {
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "1048576\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "700000\n",
            "sys/fs/cgroup/memory/memory.stat": "cache 1\ntotal_inactive_file 200000\n",
        },
    ],
    ids=["cgroup 2", "cgroup 1"],
)
def test_the_memory_of_a_container_with_a_limit(tmp_path: Path, files: dict[str, str]) -> None:
    """Its own, for that is what ends it; without the files that it has read."""
    write(tmp_path, files)
    machine = Computer(tmp_path, tmp_path)
    assert machine.memory_bytes() == (500_000, 1_048_576)
    assert machine.device().memory_bytes == 1_048_576
    assert machine.read(1.0).memory_total_bytes == 1_048_576


@pytest.mark.parametrize("limit", ["max", "9223372036854771712", ""])
def test_the_memory_of_a_container_without_a_limit(tmp_path: Path, limit: str) -> None:
    """That of the computer."""
    write(
        tmp_path,
        {"sys/fs/cgroup/memory.max": f"{limit}\n", "sys/fs/cgroup/memory.current": "700000\n"},
    )
    machine = Computer(tmp_path, tmp_path)
    assert machine.memory_bytes()[1] == psutil.virtual_memory().total
