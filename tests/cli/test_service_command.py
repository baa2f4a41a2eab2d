"""`flctl service`: systemd units for what is started by hand."""

import shutil
import subprocess
from pathlib import Path

import pytest

from flctl.fleet import units

KEY = "a%b$c\"d&<e\\'" + "x" * 28
AGENT = ("agent", "--coordinator", "s:7700", f"--server-key={KEY}", "--name", "pi-01")


@pytest.fixture
def orders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What systemctl and loginctl were told: programs that stand in for them write it down."""
    log, folder = tmp_path / "orders", tmp_path / "bin"
    folder.mkdir()
    for program in ("systemctl", "loginctl"):
        (folder / program).write_text(f'#!/bin/sh\necho {program} "$@" >>{log}\n')
        (folder / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(units, "needs_systemd", lambda _: None)
    monkeypatch.setattr("flctl.fleet.units.GONE_AT_BOOT", ("/run",))  # tests live in /tmp
    return log


def test_what_is_installed_starts_now_and_at_boot_and_can_be_removed(flctl, orders, tmp_path):
    done = flctl("service", "install", *AGENT, "--user")
    assert (done.code, done.err) == (0, "")
    (unit,) = (tmp_path / "config" / "systemd" / "user").iterdir()
    assert unit.name == "flctl-agent.service"
    assert f'"--state" "{tmp_path / "state"}"' in unit.read_text()
    done = flctl("service", "remove", "agent", "--user")
    assert (done.code, done.err) == (0, "")
    assert not unit.exists()
    assert (tmp_path / "state").is_dir()
    assert orders.read_text().splitlines() == [
        "systemctl --user daemon-reload",
        "systemctl --user enable flctl-agent.service",
        "systemctl --user restart flctl-agent.service",
        "loginctl enable-linger",
        "systemctl --user disable --now flctl-agent.service",
        "systemctl --user daemon-reload",
    ]
    assert flctl("service", "remove", "agent", "--user").code == 2


@pytest.mark.parametrize("options", [("--user",), ("--system", "--as", "nobody")])
@pytest.mark.parametrize("what", [AGENT, ("coordinator", "--bind", "0.0.0.0:7700")])
def test_the_unit_is_one_that_systemd_takes(flctl, tmp_path, monkeypatch, what, options):
    """Also with a key of characters that mean something in a unit; no secret stands in it."""
    monkeypatch.setattr("flctl.fleet.units.GONE_AT_BOOT", ("/run",))
    monkeypatch.setenv("FLCTL_JOIN_TOKEN", "secret-token")
    monkeypatch.setenv("FLCTL_THREADS", "1")
    done = flctl("service", "install", *what, *options, "--dry-run")
    assert (done.code, done.err) == (0, "")
    assert "secret-token" not in done.out
    assert 'Environment="FLCTL_THREADS=1"' in done.out
    assert ("User=nobody" in done.out) == ("ProtectSystem=strict" in done.out) == (
        "--system" in options
    )  # fmt: skip
    if what is AGENT:
        assert r"""--server-key=a%%b$$c\"d&<e\\'xxx""" in done.out
    if shutil.which("systemd-analyze"):
        (tmp_path / f"flctl-{what[0]}.service").write_text(done.out)
        verified = subprocess.run(
            ["systemd-analyze", "verify", tmp_path / f"flctl-{what[0]}.service"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        complaints = [line for line in verified.stderr.splitlines() if "user nobody" not in line]
        assert (verified.returncode, complaints) == (0, [])


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("sensor",), "'sensor': it is agent or coordinator"),
        (("agent", "--user", "--dry-run"), "Missing option '--coordinator'"),
        ((*AGENT, "--bogus", "--user", "--dry-run"), "No such option: --bogus"),
        ((*AGENT, "--data", "d=/tmp/x.npz", "--user", "--dry-run"), "emptied at reboot"),
        ((*AGENT, "--join-token-file", "-", "--user", "--dry-run"), "no standard input"),
        ((*AGENT, "--as", "no-such-account", "--system", "--dry-run"), "no such account"),
        ((*AGENT, "--data", "a\nb", "--user", "--dry-run"), "not allowed in a systemd unit"),
    ],
)
def test_what_cannot_become_a_service_is_refused_in_one_line(flctl, words, complaint):
    done = flctl("service", "install", *words, "--state", "/var/lib/flctl")
    assert done.code == 2
    assert complaint in done.complaint


def test_without_systemd_it_says_so(flctl, monkeypatch):
    """As in a container, or on a Mac; the unit can be printed all the same."""
    monkeypatch.setenv("PATH", "/nowhere")
    done = flctl("service", "install", *AGENT, "--user")
    assert (done.code, done.complaint) == (
        2,
        "systemd does not run here; --dry-run prints the unit",
    )
