import shutil
import sys

import numpy as np
import pytest
from wfdb_records import BEATS_S, beats_like, write_record

from flctl.errors import DataError
from flctl.learning import beats_wfdb
from flctl.learning.beat_files import read_beats, read_files
from flctl.learning.beats_wfdb import AAMI, NOT_WHOLE, read_record
from flctl.learning.ecg import Ecg
from flctl.learning.origin import ReadAs


def as_annotations(*codes_and_steps):
    """The bytes of a file of annotations: each code so many samples after the one before."""
    words = [(code << 10) | step for code, step in codes_and_steps]
    return b"".join(word.to_bytes(2, "little") for word in words) + bytes(2)


@pytest.mark.parametrize("record", [106, 119, 208])
def test_a_public_record_gives_the_beats_of_the_set_that_ships(mitdb_dir, record):
    """Bit for bit: each beat that ships is one of those that are read, in the same class."""
    from importlib.resources import files

    ships = np.load(files("flctl.learning") / "data" / "ecg_demo.npz")
    mine = ships["record"] == record
    found = read_record(mitdb_dir / f"{record}.hea")
    rows = np.searchsorted(np.round(found.at_s * 360), ships["sample"][mine])
    assert np.array_equal(found.x[rows], ships["X"][mine])
    assert np.array_equal(found.y[rows], ships["y"][mine])
    assert set(found.record) == {str(record)}


def test_windows_are_cut_round_the_r_peaks_of_mlii(tmp_path):
    """187 samples at 125 Hz in units of 1/200 mV; beats without a whole window are left out."""
    beats = read_record(write_record(tmp_path))
    assert beats.x.dtype == np.int16
    assert beats.x.shape == (len(BEATS_S) - 2, 187)
    assert (abs(beats.x.argmax(axis=1) - 62) <= 1).all()
    assert (abs(beats.x.max(axis=1) - 200) < 40).all()
    assert np.allclose(beats.at_s, BEATS_S[1:-1], atol=0.002)


def test_without_mlii_it_is_the_first_lead(tmp_path):
    """Which here is noise."""
    beats = read_record(write_record(tmp_path, leads=["V5", "V1"]))
    assert np.abs(beats.x).max() < 150


@pytest.mark.parametrize(
    "changes",
    [{"rate_hz": 250}, {"rate_hz": 125}, {"rate_hz": 257}, {"unit": "uV", "scale": 1000.0}],
)
def test_rate_and_unit_of_the_file_do_not_matter(tmp_path, changes):
    """The windows differ by no more than the rounding of where the peak is."""
    usual = read_record(write_record(tmp_path, "usual"))
    other = read_record(write_record(tmp_path, "other", **changes))
    assert other.x.shape == usual.x.shape
    off = [min(np.abs(np.roll(a, s) - b).mean() for s in (-1, 0, 1))
           for a, b in zip(other.x.astype(float), usual.x, strict=True)]  # fmt: skip
    assert max(off) < 6


def test_symbols_become_the_classes_of_the_aami(tmp_path):
    """Paced and unknown beats are Q, escape beats normal, what is no beat is passed over."""
    symbols = "NLRBejnAaJSVErF/fQ?+~"
    beats = read_record(write_record(tmp_path, symbols=symbols))
    told = [symbols[i % len(symbols)] for i in range(len(BEATS_S))][1:-1]
    assert beats.y.tolist() == [AAMI[symbol] for symbol in told if symbol not in "+~"]
    assert [AAMI[symbol] for symbol in "NeAVF/fQ"] == [0, 0, 1, 2, 3, 4, 4, 4]


def test_the_task_reads_a_folder_of_records(tmp_path):
    """By record; the latest fifth of each is held out."""
    for name in ("a", "b"):
        write_record(tmp_path, name, "NV")
    task = Ecg()
    assert set(task.train_data(tmp_path).group) == {"a", "b"}
    assert len(task.held_out(tmp_path)) == 2 * ((len(BEATS_S) - 2) // 5)
    assert list(task.test_parts(tmp_path)) == ["test"]


def test_without_annotations_r_peaks_are_found_for_prediction(tmp_path):
    """All of them, to within a sample, with a note; nothing can be learnt from them."""
    header = write_record(tmp_path)
    header.with_suffix(".atr").unlink()
    cases = Ecg().cases(header)
    assert not cases.labelled
    assert "found by a program" in cases.note
    known = BEATS_S[1:-1]
    nearest = np.abs(cases.at_s[None, :] - known[:, None]).min(axis=1)
    assert (nearest[1:-1] <= 0.008).all()
    with pytest.raises(DataError, match=r"record r1: there is no r1\.atr"):
        Ecg().train_data(header)


def test_found_r_peaks_of_a_public_record_are_those_of_the_cardiologists(mitdb_dir, tmp_path):
    """99 of 100 are found, half of them within a sample."""
    for suffix in ("hea", "dat"):
        shutil.copy(mitdb_dir / f"106.{suffix}", tmp_path)
    found, known = (
        read_record(tmp_path / "106.hea", labelled=False),
        read_record(mitdb_dir / "106.hea"),
    )
    off = np.abs(found.at_s[None, :] - known.at_s[:, None]).min(axis=1)
    assert (off < 0.15).mean() > 0.99
    assert np.median(off) <= 0.008


@pytest.mark.parametrize(
    ("leads", "taken"),
    [(["RESP", "ECG"], "ECG"), (["V1", "mlii"], "mlii"), (["aVR", "ECG lead II"], "ECG lead II")],
)
def test_an_ecg_is_taken_by_its_name(tmp_path, leads, taken):
    """Never another signal, wherever it stands; what was taken is said."""
    beats = read_record(write_record(tmp_path, leads=leads))
    assert beats.facts == {"lead": taken, "rate_hz": 360.0, "unit": "mV", "annotator": "atr"}
    assert (abs(beats.x.argmax(axis=1) - 62) <= 1).all()


def test_a_record_without_an_ecg_is_refused_and_left_out_of_a_folder(tmp_path):
    """With what it has; with --lead an unknown name is taken, that of another signal is not."""
    header = write_record(tmp_path, "a", leads=["RESP", "ch2"])
    for read_as, message in (
        (ReadAs(), "no signal is named as an ECG: RESP, ch2; .* name it with --lead"),
        (ReadAs(lead="RESP"), "RESP is no ECG"),
        (ReadAs(lead="V5"), "there is no lead V5, but RESP, ch2"),
    ):
        with pytest.raises(DataError, match=message):
            read_record(header, read_as=read_as)
    assert read_record(header, read_as=ReadAs(lead="CH2")).facts["lead"] == "ch2"
    write_record(tmp_path, "b")
    found = read_files(tmp_path)
    assert [beats.record[0] for beats in found.beats] == ["b"]
    assert "no signal is named as an ECG" in found.origins[0].problem


def test_other_annotators_are_found_or_named(tmp_path):
    """.ecg where there is no .atr; any of them on demand."""
    header = write_record(tmp_path, symbols="NV")
    usual = read_record(header)
    header.with_suffix(".atr").rename(header.with_suffix(".ecg"))
    assert read_record(header).facts["annotator"] == "ecg"
    header.with_suffix(".ecg").rename(header.with_suffix(".mine"))
    assert not read_record(header, labelled=False).y
    for path, read_as in ((header, ReadAs(annotator="mine")), (header.with_suffix(".mine"), None)):
        beats = read_files(path, read_as=read_as or ReadAs()).beats[0]
        assert np.array_equal(beats.y, usual.y)
    with pytest.raises(DataError, match=r"no r1\.qrs; annotators that are there: mine"):
        read_record(header, read_as=ReadAs(annotator="qrs"))


def test_a_detector_that_calls_all_beats_normal_says_where_they_are_not_what(tmp_path):
    """Nothing is learnt from it unless it is named."""
    header = write_record(tmp_path)
    header.with_suffix(".atr").rename(header.with_suffix(".qrs"))
    beats = read_record(header, labelled=False)
    assert beats.y is None
    assert "R peaks are those of r1.qrs" in beats.note
    with pytest.raises(DataError, match="--annotator qrs takes it all the same"):
        read_record(header)
    assert not read_record(header, read_as=ReadAs(annotator="qrs")).y.any()


def test_rhythm_alone_does_not_hinder_a_prediction(tmp_path):
    """The R peaks are found then, as without annotations; with .qrs they are those."""
    header = write_record(tmp_path, symbols="NV")
    header.with_suffix(".atr").rename(header.with_suffix(".qrs"))
    write(".atr", as_annotations((28, 400), (28, 900)))(header)
    assert read_record(header).facts["annotator"] == "qrs"
    header.with_suffix(".qrs").unlink()
    assert "found by a program" in read_record(header, labelled=False).note


def test_a_few_annotations_that_cannot_be_used_are_left_out_and_counted(tmp_path):
    """Past the end, or of no known kind."""
    header = write_record(tmp_path)
    steps = [(1, 1000)] * 21 + [(45, 100), (1, 500)]
    write(".atr", as_annotations(*steps))(header)
    beats = read_record(header)
    assert len(beats.x) == 21
    assert list(beats.origin.left_out.values()) == [1, 1]


def segmented(folder):
    """The record r1, and the same as two segments with a gap of 10 s between, r2."""
    import wfdb

    header = write_record(folder, symbols="NV")
    whole = wfdb.rdrecord(str(header.with_suffix("")), physical=False)
    for name, first, end, order in (("s_1", 0, 9000, [0, 1]), ("s_2", 12600, 21600, [1, 0])):
        wfdb.wrsamp(
            name, fs=360, units=["mV"] * 2, sig_name=[whole.sig_name[i] for i in order],
            d_signal=whole.d_signal[first:end, order], fmt=["16"] * 2, adc_gain=[200.0] * 2,
            baseline=[0] * 2, write_dir=str(folder),
        )  # fmt: skip
    (folder / "r2.hea").write_text("r2/3 2 360 21600\ns_1 9000\n~ 3600\ns_2 9000\n")
    (folder / "r2.atr").write_bytes(header.with_suffix(".atr").read_bytes())
    return header, folder / "r2.hea"


def test_segments_are_read_as_one_record_without_what_lies_in_the_gap(tmp_path):
    """Their signals may stand in another order; in a folder they are no records themselves."""
    header, master = segmented(tmp_path)
    whole, found = read_record(header), read_record(master)
    kept = [at for at, s in enumerate(whole.at_s) if not 25 - 1.02 < s < 35 + 0.52]
    assert np.allclose(found.at_s, whole.at_s[kept])
    assert np.array_equal(found.x[5:-5], whole.x[kept][5:-5])
    assert found.left_out[NOT_WHOLE] == whole.left_out[NOT_WHOLE] + len(whole.x) - len(kept)
    assert [beats.record[0] for beats in read_beats(tmp_path)] == ["r1", "r2"]


def test_pieces_of_a_record_give_what_the_whole_does(mitdb_dir, monkeypatch):
    """To the last bit, wherever the pieces end."""
    whole = read_record(mitdb_dir / "208.hea")
    for name, seconds in (("PIECE_S", 37.0), ("PIECE_S", 3.0)):
        monkeypatch.setattr(beats_wfdb, name, seconds)
        found = read_record(mitdb_dir / "208.hea")
        assert np.array_equal(found.x, whole.x)
        assert np.array_equal(found.at_s, whole.at_s)


def replace(old, new):
    def change(header):
        header.write_text(header.read_text().replace(old, new))

    return change


def write(suffix, content):
    return lambda header: header.with_suffix(suffix).write_bytes(content)


def cut(suffix, size):
    def change(header):
        path = header.with_suffix(suffix)
        path.write_bytes(path.read_bytes()[:size])

    return change


def flip(header):
    path = header.with_suffix(".dat")
    data = bytearray(path.read_bytes())
    data[2] ^= 1  # the second sample of three bytes for two: MLII's first
    path.write_bytes(data)


BROKEN = {
    "dat cut": (cut(".dat", 10_001), r"r1\.dat is cut off: it has 10,001 bytes, 64,800 belong"),
    "dat missing": (
        lambda h: h.with_suffix(".dat").unlink(),
        r"names r1\.dat, which is not in the same folder",
    ),
    "dat flipped": (flip, r"r1\.dat is damaged: the sum of its samples"),
    "other dat": (
        replace("r1.dat", "r2.dat"),
        r"r1\.hea names r2\.dat, which is not in the same folder",
    ),
    "header missing": (lambda h: h.unlink(), r"there is no r1\.hea"),
    "header empty": (write(".hea", b""), r"r1\.hea is no header of a WFDB record"),
    "header binary": (write(".hea", bytes(range(256))), r"r1\.hea is no header"),
    "header with controls": (replace("MLII", "ML\x1b[31mII"), "it holds control characters"),
    "header of another": (replace("r1 2", "r9 2"), r"r1\.hea is the header of record r9"),
    "no signals": (write(".hea", b"r1 0 360 100\n"), "does not say which signals there are"),
    "segments": (
        write(".hea", b"r1/2 2 360 200\na 100\nb 100\n"),
        r"names a\.hea, which is not in the same folder",
    ),
    "another unit": (replace("/mV", "/mmHg"), "its lead MLII is in mmHg, not mV"),
    "another format": (replace(" 212 ", " 999 "), r"r1\.dat is of format 999"),
    "slow": (replace(" 360 ", " 1 "), "1 samples a second are no ECG's"),
    "a rate below 0": (replace(" 360 ", " -360 "), "-360 is no number of samples a second"),
    "endless gain": (replace(" 212 200", " 212 1e999"), "a gain that is not a finite number"),
    "endless": (replace(" 21600", " 99000000000"), "larger than 2 GiB"),
    "atr missing": (lambda h: h.with_suffix(".atr").unlink(), r"there is no r1\.atr"),
    "atr cut": (cut(".atr", 51), r"r1\.atr holds no WFDB annotations, or is damaged"),
    "atr cut between": (cut(".atr", 50), r"r1\.atr is cut off"),
    "atr empty": (write(".atr", b""), r"r1\.atr is cut off"),
    "atr beyond": (
        write(".atr", as_annotations(*[(1, 1000)] * 40)),
        "has an annotation at 61.11 s",
    ),
    "atr unknown": (write(".atr", as_annotations((45, 320))), "there are no beats in"),
    "no beats": (write(".atr", as_annotations((28, 400))), r"there are no beats in r1\.atr"),
    "no window": (
        write(".atr", as_annotations((1, 5))),
        r"none of its beats \(1\) has a whole window",
    ),
}


@pytest.mark.parametrize(("change", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_record_is_an_error_of_one_line(tmp_path, change, message):
    """It names the folder and the record."""
    header = write_record(tmp_path / "db")
    change(header)
    with pytest.raises(DataError, match=message) as caught:
        read_beats(tmp_path / "db")
    assert str(caught.value).startswith(f"{tmp_path / 'db'}: record r1: ")
    assert "\n" not in str(caught.value)


def test_beats_on_invalid_samples_are_left_out(tmp_path):
    """What was not recorded is no beat, and does not spoil its neighbours."""
    header = write_record(tmp_path)
    whole = read_record(header)
    replace(" 212 ", " 16 ")(header)
    signal = np.round(np.repeat(200 * np.sin(np.arange(21600) / 20), 2)).astype("<i2")
    signal[2 * 7200 : 2 * 7560] = -32768
    header.with_suffix(".dat").write_bytes(signal.tobytes())
    lines = header.read_text().split("\n")
    header.write_text("\n".join([lines[0], *(" ".join([*line.split()[:6], "0", "0", line.split()[-1]]) if line else "" for line in lines[1:])]))  # fmt: skip  # noqa: E501
    found = read_record(header)
    gone = set(np.round(whole.at_s, 3)) - set(np.round(found.at_s, 3))
    assert gone
    assert all(20 - 1.01 < at < 21 + 0.51 for at in gone)
    assert np.abs(found.x).max() <= 202


def test_without_the_package_it_says_how_to_get_it(mitdb_dir, monkeypatch):
    """On one line."""
    monkeypatch.setitem(sys.modules, "wfdb", None)
    with pytest.raises(DataError, match=r"pip install 'flctl\[wfdb\]'"):
        read_record(mitdb_dir / "106.hea")


def test_a_lead_of_several_samples_a_frame_is_read_at_its_own_rate(tmp_path):
    """As monitors store it beside slow signals; its sum is checked as well."""
    import wfdb

    signal = beats_like(250)
    slow = np.sin(np.arange(len(signal) // 4) / 9)
    wfdb.wrsamp("r1", fs=62.5, units=["mV", "mV"], sig_name=["MLII", "RESP"], fmt=["16", "16"],
                e_p_signal=[signal, slow], samps_per_frame=[4, 1], adc_gain=[200.0, 200.0],
                baseline=[0, 0], write_dir=str(tmp_path))  # fmt: skip
    at = np.round(BEATS_S * 62.5).astype(int)
    wfdb.wrann("r1", "atr", sample=at, symbol=["N"] * len(at), write_dir=str(tmp_path))
    header = tmp_path / "r1.hea"
    found = read_record(header)
    assert (found.facts["lead"], found.facts["rate_hz"]) == ("MLII", 250)
    assert (np.abs(found.x.argmax(axis=1) - 62) <= 1).all()
    assert np.allclose(found.x.max(axis=1), 200, atol=8)
    flip(header)
    with pytest.raises(DataError, match="the sum of its samples"):
        read_record(header)
