"""What a stranger sees first, and how soon."""

import re
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import flctl
from flctl import __version__
from flctl.cli.app import NAMES
from flctl.cli.flags import FLAGS
from flctl.settings import KEYS, NOT_YET

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
    assert sorted(flag.key for flag in FLAGS) == sorted(set(KEYS) - set(NOT_YET))
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
    assert "130 interrupted with Ctrl-C" in flctl().out
    for args, heading in (((), "Train and use models:"), (("keys",), "Commands:")):
        done = flctl(*args)
        assert (done.code, done.err) == (0, "")
        assert f"\n{heading}\n" in done.out


def test_help_lists_every_command_once_in_one_line(flctl, monkeypatch):
    """At 80 columns, below what a person wants to do; so do the groups."""
    monkeypatch.setenv("COLUMNS", "80")
    for name, command in EVERY.items():
        if not hasattr(command, "list_commands"):
            continue
        lines = flctl(*name, "-h").out.splitlines()
        assert max(map(len, lines)) <= 80
        for each in command.list_commands(None):
            about = command.get_command(None, each).get_short_help_str(limit=300)
            assert [line.split(maxsplit=1)[1] for line in lines if line.split()[:1] == [each]] == [
                about
            ]
    assert sorted(NAMES) == sorted(set(NAMES))


def test_version(flctl):
    """`flctl --version` prints the version and nothing else."""
    assert flctl("--version") == (0, f"flctl {__version__}\n", "")


def commands():
    """Every command and group, with the words that call it."""
    import typer.main

    from flctl.cli.app import app

    queue = [((), typer.main.get_command(app))]
    while queue:
        name, command = queue.pop()
        yield name, command
        if hasattr(command, "list_commands"):
            queue += [
                ((*name, n), command.get_command(None, n)) for n in command.list_commands(None)
            ]


EVERY = dict(commands())
TYPES = re.compile(r"<\w+>|\b(TEXT|INTEGER|FLOAT|PATH RANGE|BOOLEAN)\b|list\[| RANGE\b")


@pytest.mark.parametrize("name", EVERY, ids=" ".join)
def test_help_cuts_no_sentence_and_shows_no_type_of_python(flctl, name, monkeypatch):
    """At 60 columns, too; -h and --help are the same."""
    for width in (60, 80, 120):
        monkeypatch.setenv("COLUMNS", str(width))
        done = flctl(*name, "-h")
        assert (done.code, done.err) == (0, "")
        assert not TYPES.search(done.out), done.out
        if hasattr(EVERY[name], "list_commands"):
            assert "..." not in done.out.partition("Options:")[2]
    assert flctl(*name, "--help").out == done.out


@pytest.mark.parametrize(
    "name", [n for n, c in EVERY.items() if not hasattr(c, "list_commands")], ids=" ".join
)
def test_every_command_has_an_example_that_parses(flctl, name):
    """Its help ends with lines to copy; they name the command, and options that it has."""
    command = EVERY[name]
    examples = flctl(*name, "-h").out.partition("\nExample")[2].splitlines()[1:]
    assert all(len(line) <= 80 for line in examples)
    calls = " ".join(examples).replace("\\ ", " ").split("flctl ")[1:]
    assert calls
    for call in calls:
        words = shlex.split(call.partition("|")[0].partition(">")[0])
        assert tuple(words[: len(name)]) == name
        command.make_context(" ".join(name), words[len(name) :])


@pytest.mark.parametrize(
    "args",
    ["status --nope", "nope", "runs nope", "runs show", "emulate up -n 0", "train --rounds x"],
)
def test_wrong_usage_is_one_line(flctl, args):
    done = flctl(*args.split())
    assert done.code == 2
    assert "--help" in done.complaint


def test_types_are_marked_as_such():
    """Else mypy of a task's author passes flctl over."""
    assert (Path(flctl.__file__).parent / "py.typed").exists()
