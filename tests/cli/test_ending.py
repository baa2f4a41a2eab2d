"""Where a signal arrives while a command runs, and when the command hears of it."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

LIKE_MAIN = """
import os, signal, sys
from flctl.process import Ending

ending = Ending()
try:
{body}
    for _ in range(500):
        signal.sigtimedwait([], 0.01)
    print("never heard of it")
except KeyboardInterrupt as error:
    print("interrupted", error)
ending.over()
os.kill(os.getpid(), signal.SIGTERM)
print("over", ending.signal)
"""


def outcome(body: str, folder: Path) -> list[str]:
    script = LIKE_MAIN.format(body=textwrap.indent(textwrap.dedent(body).strip(), "    "))
    words = [sys.executable, "-c", script]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("number", "heard"),
    [
        ("SIGINT", ["interrupted ", "over None"]),
        ("SIGTERM", ["interrupted ended by SIGTERM", "over 15"]),
        ("SIGHUP", ["interrupted ended by SIGHUP", "over 1"]),
    ],
)
def test_an_import_is_not_interrupted_but_what_follows_is(
    tmp_path: Path, number: str, heard: list[str]
):
    """Compiled parts of torch abort the process when an exception goes through them."""
    (tmp_path / "slow.py").write_text(
        f"import os, signal\nos.kill(os.getpid(), signal.{number})\nprint('imported')\n"
    )
    assert outcome("import slow", tmp_path) == ["imported", *heard]


def test_who_asks_twice_does_not_wait_for_the_import(tmp_path: Path):
    """It may be a task of the user's own, that never ends."""
    twice = "os.kill(os.getpid(), signal.SIGINT)\n" * 2
    (tmp_path / "slow.py").write_text(f"import os, signal\n{twice}print('imported')\n")
    assert outcome("import slow", tmp_path) == ["interrupted ", "over None"]


@pytest.mark.parametrize(
    ("number", "heard"), [("SIGINT", "interrupted "), ("SIGTERM", "interrupted ended by SIGTERM")]
)
def test_a_signal_that_python_swallows_comes_again(tmp_path: Path, number: str, heard: str):
    """What is raised in __del__ and the like goes no further, and was printed as a traceback."""
    body = f"""
    class Tidied:
        def __del__(self):
            os.kill(os.getpid(), signal.{number})

    Tidied()
    """
    assert outcome(body, tmp_path)[0] == heard


def test_a_service_that_deals_with_the_signal_by_then_gets_it(tmp_path: Path):
    (tmp_path / "slow.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\nprint('imported')\n"
    )
    body = """
    import slow
    signal.signal(signal.SIGTERM, lambda *_: print("in order"))
    """
    assert outcome(body, tmp_path)[:2] == ["imported", "in order"]


def test_what_compiled_code_would_swallow_waits(tmp_path: Path):
    """msgspec looks a type up in a dict, and takes an exception from its hash for a miss."""
    body = """
    import msgspec, typing

    kind = typing.Literal["a"]
    plain = type(kind).__hash__

    def __hash__(self):
        if ending.signal is None:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(self)

    type(kind).__hash__ = __hash__
    msgspec.convert("a", kind)
    """
    assert outcome(body, tmp_path) == ["interrupted ended by SIGTERM", "over 15"]


def test_a_step_that_must_be_whole_is_not_interrupted(tmp_path: Path):
    body = """
    from flctl.process import undisturbed

    with undisturbed():
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(10):
            signal.sigtimedwait([], 0.01)
        print("whole")
    """
    assert outcome(body, tmp_path) == ["whole", "interrupted ended by SIGTERM", "over 15"]


def test_a_hub_whose_opening_is_interrupted_does_not_keep_the_command(tmp_path: Path):
    """In the moment in which its guard's thread starts, it has a socket that nothing closes."""
    body = """
    import threading
    from pathlib import Path
    from flctl.transport.hub import ZeroMqHub
    from flctl.transport.keypair import load_or_make

    start = threading.Thread.start

    def told(thread):
        start(thread)
        if thread.name == "flctl-guard":
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread.start = told
    ZeroMqHub("127.0.0.1:0", load_or_make(Path("server.key")), lambda key: True)
    """
    assert outcome(body, tmp_path) == ["interrupted ended by SIGTERM", "over 15"]
