"""Every install line of README, in an empty environment; needs a package index, not much else."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_fleet import WITHIN_S, wait_for

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import artefacts  # noqa: E402

from flctl.version import version_of  # noqa: E402

README = (ROOT / "README.md").read_text()
SECTION = README.partition("## Install\n")[2].partition("\n## ")[0]
CLONE, URL, WHEEL = re.findall(r"^```\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)
# The other machine is a folder.
OTHER_MACHINE = """
scp() { cp "$1" "$PI"; }
ssh() { (cd "$PI" && bash -ec "$2"); }
"""
LIMIT_MB = 150


class Home:
    """An account that has nothing but a clone of what is in this checkout, with its own address."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.origin = folder, folder / "origin"
        listed = git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
        for name in filter(None, listed.split("\0")):
            if (source := ROOT / name).is_file():
                target = self.origin / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(source.read_bytes())
                target.chmod(source.stat().st_mode & 0o777)
        git(self.origin, "init", "--quiet")
        git(self.origin, "add", "--all")
        git(self.origin, "-c", "user.name=x", "-c", "user.email=x", "commit", "--quiet", "-m", "x")
        (folder / "pi").mkdir()
        (folder / ".gitconfig").write_text(
            f'[url "file://{self.origin}"]\n\tinsteadOf = https://HOST/flctl.git\n'
        )
        kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        # PyTorch's index may be out of reach: then another one has the same wheel.
        self.environment = {
            **kept, "HOME": str(folder), "PI": str(folder / "pi"), "PIP_RETRIES": "1",
            "PIP_DEFAULT_TIMEOUT": "20", "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "XDG_STATE_HOME": str(folder / "xdg"), "NO_COLOR": "1",
        }  # fmt: skip
        self.environment.pop("VIRTUAL_ENV", None)

    def bash(self, script: str, where: str = ".") -> str:
        done = subprocess.run(
            ["bash", "-ec", script],
            cwd=self.folder / where,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return done.stdout


def git(folder: Path, *args: str) -> str:
    return subprocess.run(["git", *args], cwd=folder, capture_output=True, text=True, check=True
                          ).stdout  # fmt: skip


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture
def service(home: Home) -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.terminate()
        process.wait(WITHIN_S)


@pytest.mark.timeout(600)
def test_a_clone_steers_and_then_trains(home: Home):
    """The third line is enough to steer, the fourth to train; another extra comes by its name."""
    *steering, training = CLONE.splitlines()
    home.bash("\n".join(steering) + "\nflctl runs list; ! python -c 'import torch'")
    active = ". ~/flctl-env/bin/activate\n"
    home.bash(active + training, "flctl")
    home.bash(active + "flctl train --task ecg --virtual 2 --rounds 1", "flctl")
    home.bash(active + "pip install 'flctl[plot]' && python -c 'import matplotlib'")


def test_without_extras_it_is_small_and_steers_a_far_coordinator(home: Home, service):
    """By git URL: no torch, below 150 MB after its first use, and `flctl status` answers."""
    home.bash(URL)
    environment = {**home.environment, "FLCTL_STATE": str(home.folder / "server")}
    program = str(home.folder / "flctl-env/bin/flctl")
    with (home.folder / "log").open("w") as log:
        command = [program, "coordinator", "--bind", "127.0.0.1:0"]
        service.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
    said = wait_for(lambda: re.search(r"coordinator  (?:tcp://)?(\S+)\nserver key   (\S+)",
                                      (home.folder / "log").read_text()), "the coordinator"
                    )  # fmt: skip
    home.bash(
        f"flctl=~/flctl-env/bin/flctl\n"
        f"key=$($flctl keys new my.key | awk '{{print $NF}}')\n"
        f'$flctl keys add me "$key" --role admin --state server\n'
        f"$flctl connect {said[1]} --server-key='{said[2]}' --key my.key"
    )
    assert json.loads(home.bash("~/flctl-env/bin/flctl status --json")) == []
    size = int(home.bash("du -sm flctl-env").split()[0])
    print(f"{size} MB without extras")
    assert size < LIMIT_MB


@pytest.mark.timeout(600)
def test_a_wheel_brings_an_agent_onto_a_pi(home: Home):
    home.bash(f"{OTHER_MACHINE}{WHEEL}", "origin")
    home.bash("flctl-env/bin/python -c 'import torch' && flctl-env/bin/flctl agent --help", "pi")


@pytest.mark.timeout(600)
def test_after_make_demo_flctl_is_found(home: Home):
    """What the demo installs is enough to run it; README's line puts flctl on the PATH."""
    assert "`. .venv/bin/activate` puts `flctl` on your PATH" in README
    home.bash(
        "make .venv/.installed-demo\n. .venv/bin/activate\n"
        "flctl demo --agents 2 --rounds 1 --out demo && test -s demo/curve.png",
        "origin",
    )


def test_no_other_text_installs_what_is_nowhere():
    """A `pip install` elsewhere names a folder of the clone, a wheel, or an extra that exists."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].keys()
    for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for what in re.findall(r"pip install '(?:flctl|\.)\[([a-z,]+)\]'", path.read_text()):
            assert set(what.split(",")) <= extras, f"{path.name}: {what}"
        assert not re.search(r"pip install '?flctl'?\s(?!@ git)", path.read_text()), path.name


@pytest.mark.timeout(900)
def test_a_wheel_works_in_an_empty_environment(tmp_path: Path):
    """What `make release` tries: its version and commit, a run of two virtual agents, `man`."""
    wheel, _ = artefacts.build(tmp_path)
    artefacts.inspect(wheel, version_of().version)
    artefacts.try_out(wheel, *version_of())
