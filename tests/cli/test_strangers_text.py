"""What an agent says of itself is shown, and steers nothing."""

import io
import json
import logging
import sys

import pytest

from flctl.terminal.logs import FORMAT, _OneLine
from flctl.terminal.output import print_json, print_line, say, show, table

EVIL = "Pi\x1b]0;owned\x07\x1b[2J\r\x9b31m"


def harmless(text: str) -> bool:
    return all(char.isprintable() or char in "\n\t" for char in text)


def test_tables_and_lines_hold_no_control_characters(capsys: pytest.CaptureFixture[str]):
    """They show as what they are."""
    made = table("agent", "device")
    made.add_row("pi-01", f"{EVIL}\npi-02  ready")
    show(made)
    assert len(capsys.readouterr().out.splitlines()) == 2, "the head and one row"
    show(made)
    print_line(f"note: {EVIL}")
    out = capsys.readouterr().out
    assert harmless(out) and out.count("\\x1b]0;owned") == 2


def test_the_line_of_an_error_holds_none():
    """Nor does it become two."""
    stream = io.StringIO()
    say(f"agent: {EVIL}\nflctl: done", stream)
    assert harmless(stream.getvalue()) and stream.getvalue().count("\n") == 1


def test_a_message_in_the_log_is_one_line_and_a_traceback_stays_readable():
    """A stranger cannot write a line of the log."""
    try:
        int("x")
    except ValueError:
        told = sys.exc_info()
    record = logging.LogRecord(
        "flctl", logging.INFO, "f.py", 1, "agent said %s", (f"{EVIL}\n12:00 INFO ok",), None
    )
    formatter = _OneLine(FORMAT)
    line = formatter.format(record)
    assert line.isprintable() and "\\x1b[2J" in line
    record.exc_info = told
    record.exc_text = None
    assert len(formatter.format(record).splitlines()) > 2


@pytest.mark.parametrize("indent", [True, False])
def test_json_holds_no_character_that_steers_a_terminal(
    indent: bool, capsys: pytest.CaptureFixture[str]
):
    """C1, DEL, bidi marks, what has no glyph, also beyond 16 bits; and it says the same."""
    value = {"note": "a\x9b31m\x7f\u202e\U000e0041\u2028é漢\n"}
    print_json([value], indent=indent)
    out = capsys.readouterr().out
    assert all(line.isprintable() for line in out.split("\n"))
    assert json.loads(out) == [value] and "é漢" in out
