"""The preflight's check of the clock, on this machine: a controller may live in any time zone."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLAY = """
- hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - ansible.builtin.include_role: {name: preflight, tasks_from: clock}
"""


def check(folder: Path, zone: str, *more: str) -> tuple[int, str]:
    play = folder / "play.yml"
    play.write_text(PLAY)
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", "localhost,", play,
         "-e", f"ansible_python_interpreter={sys.executable}", *more],
        capture_output=True, text=True, timeout=600, check=False, cwd=folder,
        env={**os.environ, "TZ": zone, "ANSIBLE_ROLES_PATH": str(ROOT / "ansible" / "roles"),
             "ANSIBLE_NOCOLOR": "1", "ANSIBLE_HOME": str(folder / "ansible")},
    )  # fmt: skip
    return done.returncode, " ".join((done.stdout + done.stderr).split())


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York", "Asia/Seoul"])
def test_a_right_clock_is_right_in_every_time_zone(tmp_path: Path, zone: str):
    """No playbook refuses to begin, and where a clock is wrong the advice is the right time."""
    code, said = check(tmp_path, zone, "-e", "preflight_clock_s=30")
    assert code == 0, said
    code, said = check(tmp_path, zone, "-e", "preflight_clock_s=-1")
    advice = re.search(r"its clock is (\d+) s off.*?sudo date -s @(\d+)", said)
    assert code != 0 and advice is not None, said
    off_s, now = map(int, advice.groups())
    assert off_s < 30 and abs(now - time.time()) < 60
