"""Completion of the shell: names from this machine, fast, and never an error in the prompt."""

import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from flctl.cli import completion
from flctl.fleet import connecting
from flctl.transport.keys import Keyring


@pytest.fixture
def complete(tmp_path):
    """Asks as bash does; a word that is not finished is the last one."""

    def ask(*words, shell="bash", **variables):
        line = " ".join(("flctl", *words))
        asked = {"_FLCTL_COMPLETE": f"complete_{shell}", "COMP_WORDS": line,
                 "COMP_CWORD": str(len(words)), "_TYPER_COMPLETE_ARGS": line,
                 "FLCTL_STATE": str(tmp_path)}  # fmt: skip
        env = {**os.environ, **asked, **variables}
        done = subprocess.run([sys.executable, "-m", "flctl"], env=env, capture_output=True,
                              text=True, check=True)  # fmt: skip
        assert done.stderr == ""
        return done.stdout.split()

    return ask


def run_named(state, name):
    folder = state / "runs" / name
    folder.mkdir(parents=True)
    (folder / "journal.jsonl").write_text("")


def test_commands_and_options(complete):
    assert complete("stat") == ["status"]
    assert {"list", "show", "export"} <= set(complete("runs", ""))
    assert "--save-model" in complete("train", "--save")
    assert complete("train", "--partition", "") == ["dirichlet", "iid", "label", "record", "size"]


def test_runs_agents_tasks_and_strategies(complete, tmp_path):
    """Of the state folder that the line or the environment names."""
    run_named(tmp_path, "ecg-1")
    run_named(tmp_path / "other", "mnist-2")
    keys = Keyring(tmp_path / "keys")
    keys.add("pi-01", "x" * 40, "agent")
    keys.add("alice", "y" * 40, "read")
    assert complete("runs", "show", "") == ["ecg-1"]
    assert complete("runs", "show", "--state", str(tmp_path / "other"), "m") == ["mnist-2"]
    assert complete("cordon", "") == ["pi-01"]
    assert complete("train", "--task", "e") == ["ecg"]
    assert "fedadam" in complete("train", "--strategy", "fed")
    assert complete("status", "--context", "l") == ["local"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells(complete, shell, tmp_path):
    run_named(tmp_path, "ecg-1")
    extra = {"_TYPER_COMPLETE_FISH_ACTION": "get-args"} if shell == "fish" else {}
    assert any("ecg-1" in word for word in complete("runs", "show", "", shell=shell, **extra))


@pytest.mark.parametrize(
    "words", [("cordon", ""), ("runs", "show", ""), ("train", "--resume", ""), ("stat",)]
)
def test_it_loads_nothing_that_it_does_not_need(words, tmp_path):
    """No names of agents and runs are here, and there is no coordinator to ask for them."""
    line = " ".join(("flctl", *words))
    asked = {"_FLCTL_COMPLETE": "complete_bash", "COMP_WORDS": line,
             "COMP_CWORD": str(len(words)), "FLCTL_STATE": str(tmp_path)}  # fmt: skip
    code = (
        "import atexit, sys, flctl.__main__ as main\n"
        "atexit.register(lambda: print(*sys.modules))\n"
        "sys.argv = ['flctl']; main.main()"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], env={**os.environ, **asked},
                          capture_output=True, text=True, check=True)  # fmt: skip
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "typer" in loaded
    assert not loaded & {"torch", "numpy", "zmq", "rich", "pydantic", "psutil", "platformdirs"}
    assert not {"flctl.core.history", "flctl.wire.messages"} & set(done.stdout.split())


def test_a_coordinator_that_does_not_answer_is_left_out(tmp_path, monkeypatch):
    """The prompt comes back while the question is still open."""
    asked, over = threading.Event(), threading.Event()

    def silent(*_):
        asked.set()
        over.wait()

    (tmp_path / "contexts").mkdir()
    monkeypatch.setattr(connecting, "connect_coordinator", silent)
    try:
        for names in (completion.agents, completion.runs):
            assert names(SimpleNamespace(params={"state": str(tmp_path)}), "") == []
        assert asked.wait(60) and not over.is_set()
    finally:
        over.set()


def test_a_damaged_list_completes_nothing(complete, tmp_path):
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "allowed.json").write_text("{")
    (tmp_path / "contexts").mkdir()
    (tmp_path / "contexts" / "default.json").write_text("[]")
    assert complete("cordon", "") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_the_shell_can_be_printed(flctl, shell, monkeypatch):
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    done = flctl("--show-completion", shell)
    assert done.code == 0
    assert "_FLCTL_COMPLETE" in done.out
