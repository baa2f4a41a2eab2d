"""RR intervals as inputs: what files say of them, what the model gets."""

import numpy as np
import pytest
import torch
from wfdb_records import write_record

from flctl.errors import DataError
from flctl.learning.beat_files import read_beats
from flctl.learning.ecg import Ecg
from flctl.learning.rhythm import LONGEST_MS, rhythm_of, with_usual

AT_S = np.cumsum([1.0] + 60 * [0.8] + [0.5, 1.1] + 10 * [0.8])


def test_the_usual_interval_is_that_of_the_beats_up_to_now():
    """An early beat and the pause after it do not change it; nothing later is used, and the ends
    of a record know one interval only."""
    found = rhythm_of(AT_S)
    assert found.dtype == np.int16
    assert found[0].tolist() == [0, 800, 0]
    assert found[61].tolist() == [500, 1100, 800]
    assert found[-1].tolist() == [800, 0, 800]
    assert (rhythm_of(AT_S[:40])[:-1] == found[:39]).all()


def test_a_new_rate_is_usual_after_half_of_its_beats():
    """The median of the last 32 beats."""
    found = rhythm_of(np.cumsum([*60 * [0.8], *60 * [0.5]]))[:, 2]
    assert found[70] == 800
    assert found[80] == 500


@pytest.mark.parametrize("odd", [-1, 0, LONGEST_MS + 1, np.nan, np.inf])
def test_what_is_no_interval_is_not_known(odd):
    """A gap in a record, or what a file says in its place."""
    before, after = np.full(40, 800.0), np.full(40, 800.0)
    before[7] = odd
    found = with_usual(before, after)
    assert found[7].tolist() == [0, 800, 800]
    assert (np.delete(found, 7, axis=0) == 800).all()


def test_a_file_in_no_order_has_one_usual_interval():
    """The median of all, whatever their order."""
    before = np.array([500, 800, 800, 800, 900])
    found = with_usual(before, before, in_time=False)
    assert set(found[:, 2]) == {800}


def test_all_kinds_of_files_say_the_same(tmp_path):
    """A record, and its beats as .npz and .csv; also when they are written as a share."""
    write_record(tmp_path, "a", "NNV")
    task, (beats,) = Ecg(), read_beats(tmp_path / "a.hea")
    names = ("rr_prev_ms", "rr_next_ms", "rr_usual_ms")
    columns = dict(zip(names, beats.rhythm.T, strict=True))
    np.savez(tmp_path / "b.npz", X=beats.x, y=beats.y, **columns)
    header = ",".join([*(f"s{at}" for at in range(187)), "class", *names])
    rows = np.c_[beats.x, beats.y, beats.rhythm]
    np.savetxt(tmp_path / "c.csv", rows, delimiter=",", fmt="%d", header=header, comments="")
    examples = task.cases(tmp_path / "a.hea").examples
    (tmp_path / "share").mkdir()
    task.write(tmp_path / "share", examples, {})
    for name in ("b.npz", "c.csv", "share/beats.npz"):
        assert (task.cases(tmp_path / name).examples.array == examples.array).all()
        (origin,) = task.origins(tmp_path / name)
        assert origin.facts["RR intervals"] == "known"
    np.savez(tmp_path / "d.npz", X=beats.x, y=beats.y)
    assert not task.cases(tmp_path / "d.npz").examples.array[:, 187:].any()
    assert task.origins(tmp_path / "d.npz")[0].facts["RR intervals"].startswith("not known")


def test_intervals_that_do_not_fit_the_beats_are_refused(tmp_path):
    x, y = np.zeros((4, 187), np.int16), np.zeros(4, np.int64)
    for wrong in (np.zeros(3), np.array(list("abcd"))):
        np.savez(tmp_path / "a.npz", X=x, y=y, rr_prev_ms=wrong, rr_next_ms=np.zeros(4))
        with pytest.raises(DataError, match="rr_prev_ms is not one number for each of 4 beats"):
            Ecg().train_data(tmp_path / "a.npz")


def test_the_model_gets_ratios_and_whether_they_are_known():
    """To the usual interval, and that to 0.8 s, as logarithms; zeros where one is missing."""
    task, x = Ecg(), torch.zeros(3, 190)
    x[0, 187:] = torch.tensor([400.0, 1600.0, 800.0])
    x[1, 187:] = torch.tensor([800.0, 0.0, 800.0])
    found = task.inputs(x, training=False)
    half = np.log(0.5)
    torch.testing.assert_close(found[0, 187:], torch.tensor([half, -half, 0.0, 1.0]).float())
    assert not found[1:, 187:].any()
    alone = task.inputs(torch.zeros(1, 187, dtype=torch.int16), training=False)
    assert alone.shape == (1, 191)
    assert not alone.any()


def test_beats_are_varied_in_training_alone_and_as_the_generator_says():
    """The same seed, the same beats; what is stored does not change."""
    task = Ecg()
    x, _ = task.train_data(None).batch(np.arange(500))
    before = x.clone()
    torch.manual_seed(1)
    first, second = (task.inputs(x, training=True) for _ in range(2))
    torch.manual_seed(1)
    assert torch.equal(task.inputs(x, training=True), first)
    assert not torch.equal(first, second)
    assert torch.equal(x, before)
    plain = task.inputs(x, training=False)
    assert torch.equal(plain, task.inputs(x, training=False))
    assert 0.02 < (first - plain)[:, :187].abs().mean() < 0.3
    known = plain[:, 190] > 0
    assert 0.85 < first[known, 190].mean() < 0.95
