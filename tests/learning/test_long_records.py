"""What reading a record of a day takes, measured from outside: each in a process of its own."""

import subprocess
import sys

import numpy as np
import pytest
from wfdb_records import write_long_record

from flctl.learning import beats_wfdb
from flctl.learning.beats_wfdb import read_record

LIMIT_MB = 300
BETWEEN = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=sys.stderr).returncode
print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
"""
"""A small process: what is started counts the memory of the one that starts it as its own."""


def peak_mb(*arguments):
    """Of the resident memory of Python with these arguments."""
    command = [sys.executable, "-c", BETWEEN, sys.executable, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    code, peak = done.stdout.split()
    assert code == "0", done.stderr
    return float(peak)


def test_a_day_is_counted_in_less_than_300_mb(tmp_path):
    """24 hours of two leads at 360 Hz, with 107,999 beats, by the whole command."""
    write_long_record(tmp_path, hours=24)
    assert peak_mb("-m", "flctl", "data", "describe", tmp_path) < LIMIT_MB


def test_beats_without_annotations_are_found_in_less_than_300_mb(tmp_path):
    """By the reader; its memory grows with the beats alone, not with the signal."""
    header = write_long_record(tmp_path, hours=4, annotated=False)
    reads = "import sys, pathlib\nfrom flctl.learning.beats_wfdb import read_record\n" \
            "read_record(pathlib.Path(sys.argv[1]), labelled=False)"  # fmt: skip
    assert peak_mb("-c", reads, header) < LIMIT_MB


def test_beats_found_in_pieces_are_those_of_the_whole(tmp_path, monkeypatch):
    """Each of them within two samples: no beat is lost or seen twice where pieces meet."""
    header = write_long_record(tmp_path, hours=1, annotated=False)
    whole = read_record(header, labelled=False).at_s
    monkeypatch.setattr(beats_wfdb, "FOUND_PIECE_S", 300.0)
    found = read_record(header, labelled=False).at_s
    assert len(found) == len(whole)
    assert np.abs(found - whole).max() <= 2 / 125


@pytest.mark.parametrize("record", [106, 119, 208])
def test_beats_of_a_public_record_found_in_pieces_are_those_of_the_whole(
    mitdb_dir, tmp_path, monkeypatch, record
):
    """XQRS learns from what comes first, so that a few of a hundred may differ in ectopic runs."""
    for suffix in ("hea", "dat"):
        (tmp_path / f"{record}.{suffix}").symlink_to(mitdb_dir / f"{record}.{suffix}")
    header = tmp_path / f"{record}.hea"
    whole = read_record(header, labelled=False).at_s
    monkeypatch.setattr(beats_wfdb, "FOUND_PIECE_S", 300.0)
    found = read_record(header, labelled=False).at_s
    for some, others in ((found, whole), (whole, found)):
        nearest = np.abs(some[:, None] - others[None, :]).min(axis=1)
        print(record, len(whole), len(found), (nearest <= 2 / 125).mean())
        assert (nearest <= 2 / 125).mean() > 0.98
