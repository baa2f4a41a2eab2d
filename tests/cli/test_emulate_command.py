"""`flctl emulate` where no Docker is, or what is asked for cannot be."""

import os
import subprocess
import sys

import pytest

COMMANDS = [
    ("up", "-n", "2"), ("ps",), ("logs",), ("down",), ("kill", "pi-01"), ("pause", "pi-01"),
    ("unpause", "pi-01"), ("restart", "pi-01"), ("cut", "pi-01"), ("heal", "pi-01"),
    ("slow", "pi-01", "--rate", "256kbit"),
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_docker_does_not_run(tmp_path, command):
    """One line says where it was looked for, and how to start it."""
    nowhere = f"unix://{tmp_path}/none.sock"
    done = subprocess.run(
        [sys.executable, "-m", "flctl", "emulate", *command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "DOCKER_HOST": nowhere, "FLCTL_STATE": str(tmp_path)},
    )
    assert (done.returncode, done.stdout) == (1, "")
    (told,) = (line for line in done.stderr.splitlines() if line.startswith("flctl: "))
    assert f"no answer at {nowhere}; start it" in told
    assert "Traceback" not in done.stderr


def test_without_dockers_sdk(flctl, monkeypatch):
    """The line names the extra."""
    monkeypatch.setitem(sys.modules, "docker", None)
    done = flctl("emulate", "ps")
    assert done.code == 2
    assert done.complaint == "emulating needs Docker's SDK: pip install 'flctl[docker]'"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("up", "--profile", "pi9"), "--profile 'pi9': one of pi3, pi4, pi5"),
        (("up", "--partition", "fair"), "--partition fair: one of iid, label"),
        (("up", "--fleet", "My Fleet"), "--fleet 'My Fleet': up to 31 of a-z"),
        (("up", "-n", "0"), "greater than or equal to 1"),
        (("up", "--port", "70000"), "less than or equal to 65535"),
        (("slow", "pi-01", "--rate", "fast"), "--rate 'fast': write for instance 256kbit"),
        (("kill",), "Missing argument 'NAME'"),
    ],
)
def test_wrong_usage_is_told_before_docker_is_asked(flctl, monkeypatch, options, told):
    """With what would be right."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    done = flctl("emulate", *options)
    assert done.code == 2
    assert told in done.complaint


def test_help_does_not_load_the_sdk():
    """It takes a quarter of a second."""
    code = (
        "import sys; from flctl.cli.app import app; from flctl.cli.errors import run; "
        "run(app, ['emulate', 'up', '--help']); sys.exit('docker' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
