import itertools
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from wfdb_records import write_record

from flctl.errors import DataError
from flctl.learning import beat_files
from flctl.learning.beat_files import read_beats, read_files
from flctl.learning.ecg import Ecg


def write(path, n=10, value=1, **changes):
    arrays = {"X": np.full((n, 187), value, dtype=np.int16), "y": np.arange(n) % 5, **changes}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def test_all_kinds_of_files_may_lie_in_one_folder(tmp_path):
    """Sorted by name; what belongs to a record, and other files, are no data by themselves."""
    write(tmp_path / "b.npz")
    write_record(tmp_path, "a")
    np.savetxt(tmp_path / "c.csv", np.ones((3, 188)), delimiter=",")
    (tmp_path / "RECORDS").write_text("a\n")
    (tmp_path / "a-0.atr").write_bytes(b"\0\0")
    assert [file.record[0] for file in read_beats(tmp_path)] == ["a", "b", "c"]


@pytest.mark.parametrize("suffix", [".hea", ".dat", ".atr"])
def test_any_file_of_a_record_names_it(tmp_path, suffix):
    """Its annotations and its signal as well as its header."""
    header = write_record(tmp_path)
    assert len(read_beats(header.with_suffix(suffix))) == 1


def test_a_signal_without_a_header_is_an_error(tmp_path):
    """Unless another record's header names it."""
    header = write_record(tmp_path)
    (tmp_path / "r2.dat").write_bytes(b"")
    with pytest.raises(DataError, match=r"record r2: there is no r2\.hea"):
        read_beats(tmp_path)
    header.with_suffix(".dat").rename(tmp_path / "r2.dat")
    header.write_text(header.read_text().replace("r1.dat", "r2.dat"))
    assert len(read_beats(tmp_path)) == 1


@pytest.mark.parametrize("name", ["R1.HEA", "r1.Hea"])
def test_a_header_in_capitals_is_to_be_renamed(tmp_path: Path, name: str):
    """As a FAT card gives it back; its signals are named in small letters in it."""
    (tmp_path / name).write_text("r1 1 360 10\n")
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(DataError, match=f"{name}: rename the files of this record to small"):
            read_beats(path)


def test_files_are_read_once_until_they_change(tmp_path, monkeypatch):
    """Each agent of a simulated fleet asks for the same ones."""
    reads = []

    def counting(path, labelled=True):
        reads.append(path.name)
        return beat_files.read_npz(path, labelled)

    monkeypatch.setitem(beat_files.READERS, ".npz", counting)
    path = write(tmp_path / "a.npz")
    first = read_beats(path)[0]
    assert read_beats(path)[0] is first
    write(path, value=2, n=11)
    assert read_beats(path)[0].x[0, 0] == 2
    assert reads == ["a.npz", "a.npz"]


def test_large_data_are_not_kept(tmp_path, monkeypatch):
    """Memory is for training."""
    monkeypatch.setattr(beat_files, "KEPT_BYTES", 100)
    path = write(tmp_path / "a.npz")
    assert read_beats(path)[0] is not read_beats(path)[0]


def test_a_long_list_is_told_every_two_seconds(tmp_path, caplog):
    """How many of how many files."""
    for at in range(6):
        write(tmp_path / f"{at}.npz")
    seconds = itertools.count()
    with caplog.at_level(logging.INFO, "flctl.learning"):
        read_beats(tmp_path, clock=lambda: next(seconds))
    assert [r.getMessage() for r in caplog.records] == [
        f"reading {tmp_path}: {n} of 6 files" for n in (1, 3, 5)
    ]


def test_for_prediction_classes_need_not_be_known(tmp_path):
    """An .npz without y; of several files all must say them for any to count."""
    write(tmp_path / "a.npz", y=None)
    assert not Ecg().cases(tmp_path / "a.npz").labelled
    write(tmp_path / "b.npz")
    assert Ecg().cases(tmp_path / "b.npz").labelled
    both = Ecg().cases(tmp_path)
    assert (len(both.examples), both.labelled) == (20, False)


def test_what_a_folder_holds_beside_is_named(tmp_path):
    """Packed files, tables of other names, and what a Mac leaves beside its own."""
    for name in ("b.csv.gz", "c.txt", "d.tsv", "._a.npz"):
        (tmp_path / name).write_bytes(b"\0\xff")
    (tmp_path / "c.txt").write_text(",".join(["1"] * 188))
    (tmp_path / "SHA256SUMS.txt").write_text("0123 a.npz\n" * 200)
    write(tmp_path / "a.npz")
    found = read_files(tmp_path, labelled=True)
    assert [len(part.x) for part in found.beats] == [10]
    assert found.origins[-1].problem == (
        "._a.npz, b.csv.gz, c.txt, d.tsv: only *.npz, *.csv, *.hea are read"
    )


def test_a_pipe_is_not_waited_for(tmp_path):
    """Nor is a device read for ever."""
    os.mkfifo(tmp_path / "a.csv")
    for path in (tmp_path / "a.csv", Path("/dev/zero")):
        with pytest.raises(DataError, match="is neither a file nor a folder"):
            read_beats(path)
