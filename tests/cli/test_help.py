"""What a stranger sees first, and how soon."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

import flctl
from flctl import __version__
from flctl.cli.flags import FLAGS
from flctl.settings import KEYS

HEAVY = ("torch", "zmq", "numpy", "rich", "matplotlib")


@pytest.mark.parametrize(
    "command", [(), ("train",), ("agent",), ("runs",), ("data", "split"), ("tasks", "check")]
)
def test_help_loads_nothing_heavy(command):
    """`flctl --help`, and that of each command, imports neither torch nor zmq, numpy or rich."""
    code = (
        "import sys; from flctl.cli.app import app; from flctl.cli.errors import run; "
        f"code = run(app, {[*command, '--help']!r}); "
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "Usage: flctl" in done.stdout


def test_help_costs_little_more_than_typer_itself():
    """In processor time, compared in one run: a busy machine slows both; the best of five."""

    def seconds(*command):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *command], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    both = [(seconds("-c", "import typer"), seconds("-m", "flctl", "--help")) for _ in range(5)]
    typer, flctl = (min(times) for times in zip(*both, strict=True))
    assert flctl < 3.5 * typer


def test_every_setting_is_a_flag():
    """What run.toml may say, the command line may say, with a help that is a sentence."""
    assert sorted(flag.key for flag in FLAGS) == sorted(KEYS)
    assert all(flag.help.endswith(".") for flag in FLAGS)


def test_help_groups_the_options_and_tells_the_defaults(flctl):
    """`flctl train --help` names each group once, in plain text, with defaults in words."""
    done = flctl("train", "--help")
    assert done.code == 0
    for group in ("What is learnt:", "Fleet:", "Rounds:", "Local training:", "Data:", "Output:"):
        assert done.out.count(f"\n{group}\n") == 1
    assert "[default: 600s]" in done.out
    assert "╭" not in done.out


def test_no_command_shows_the_help(flctl):
    """`flctl` alone, and a group alone, print their help and end well."""
    assert "130 ended with Ctrl-C" in flctl().out
    for args in ((), ("keys",), ("runs",)):
        done = flctl(*args)
        assert (done.code, done.err) == (0, "")
        assert "Commands:" in done.out


def test_version(flctl):
    """`flctl --version` prints the version and nothing else."""
    assert flctl("--version") == (0, f"flctl {__version__}\n", "")


def commands():
    """Of every group, with what comes before it."""
    import typer.main

    from flctl.cli.app import app

    queue = [((), typer.main.get_command(app))]
    while queue:
        name, command = queue.pop()
        yield name, command
        queue += [((*name, sub), c) for sub, c in getattr(command, "commands", {}).items()]


def test_help_cuts_no_sentence_and_shows_no_type_of_python():
    """At 60 columns, too."""
    import click

    for name, command in commands():
        for width in (60, 80, 120):
            context = click.Context(
                command, info_name=" ".join(("flctl", *name)), terminal_width=width
            )
            told = command.get_help(context)
            assert "list[" not in told, name
            if hasattr(command, "commands"):
                rows = told[told.index("Commands:") :]
                assert "..." not in rows, name


def test_types_are_marked_as_such():
    """Else mypy of a task's author passes flctl over."""
    assert (Path(flctl.__file__).parent / "py.typed").exists()
