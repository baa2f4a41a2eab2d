"""Every command of README, and of the pages for those who have a fleet, does what the page says.

The fleet is the one that README makes.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from blocks import ROOT
from reader import PIS, READY, Page, Reader, reader

pytestmark = pytest.mark.timeout(600)
EXAMPLES = 'tar -C "$CLONE" --exclude __pycache__ -c examples | tar x'
"""Without what another test writes and renames there while it imports them."""


def on_each_pi(found: re.Match[str]) -> str:
    return f"for pi in {' '.join(PIS)}; do {found[0].replace('pi-01', '$pi')}; done"


README = Page(instead={r"(?s)^(scp|ssh) .*": on_each_pi}, until={"flctl status": READY})
OF_THE_FLEET = {
    "README.md": README,
    "docs/index.md": Page(instead={"flctl demo": "flctl demo --agents 2 --rounds 1"}),
    "docs/how-to/labels.md": Page(afterwards=("flctl uncordon pi-01 pi-02",)),
    "docs/how-to/logs.md": Page(),
    "docs/how-to/records.md": Page(instead={"train …": "train --task ecg"}),
    "docs/how-to/remote.md": Page(
        instead={"keys add me KEY": "keys add me my.pub"}, afterwards=("flctl context rm default",)
    ),
    "docs/how-to/personalise.md": Page(
        given=(
            "flctl runs export RUN --format safetensors --out model.safetensors",
            "cp ~/README/shares/pi-01/beats.npz .",
        ),
        instead={
            r"ecg-2026\S*": "RUN",
            "pi-02,pi-07": "pi-02,pi-03",
            "best.safetensors": "~/.local/state/flctl/runs/RUN/best.safetensors",
            "/var/lib/flctl": "$PIS/pi-01/.local/state/flctl",
            "--virtual 16": "--virtual 4",
        },
    ),
    "docs/how-to/python.md": Page(
        given=("flctl keys new my.key", "flctl keys add program my.pub --role admin"),
        instead={"flk_…": "KEY"},
    ),
    "docs/how-to/web.md": Page(),
    "docs/how-to/monitoring.md": Page(),
    "docs/how-to/ansible.md": Page(
        given=("mkdir ~/fleet",), afterwards=("flctl keys rotate-server --abort",)
    ),
    "docs/how-to/own-tasks.md": Page(
        given=(EXAMPLES, "flctl keys token >~/token"),
        instead={
            "/data/readings.csv": "examples/machines/flctl_machines/readings.csv",
            "agent …": "agent --coordinator SERVER:7700 --server-key KEY --name machine"
            " --join-token-file ~/token --state machine",
        },
        afterwards=("flctl keys revoke machine",),
    ),
    "docs/explanation/rounds.md": Page(
        given=(  # a run that has paused, because an agent is away
            "flctl keys new away.key && flctl keys add away away.pub",
            "! flctl train --task ecg --rounds 2 --quorum 4 --wait 1s",
            "flctl keys revoke away",
        ),
        instead={
            r"ecg-\d\S*": "$(flctl runs list | sed -n 's/ *paused.*//p')",
            "--quorum 9": "--quorum 3",
        },
    ),
    "docs/how-to/replace-card.md": Page(
        given=(
            "cp -r ~/README/shares .",
            """ssh pi-03 'kill -9 $(cat agent.pid); rm -r .local token pi-03'""",
        ),
    ),
    "docs/how-to/networks.md": Page(
        given=("flctl keys token >token",),
        instead={" …$": " --server-key KEY --name remote --join-token-file token --state remote"},
    ),
    "docs/how-to/backup.md": Page(instead={"age1…": "$(grep -o 'age1[a-z0-9]*' backup.key)"}),
}


@pytest.fixture(scope="module")
def owner() -> Iterator[Reader]:
    """Someone who has followed README."""
    with reader() as someone:
        someone.read(ROOT / "README.md", README)
        yield someone


@pytest.mark.parametrize("name", OF_THE_FLEET)
def test_the_commands_of_a_page(name: str, owner: Reader):
    if name != "README.md":
        owner.read(ROOT / Path(name), OF_THE_FLEET[name])
