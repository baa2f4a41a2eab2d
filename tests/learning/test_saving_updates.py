"""What an agent sends of its change, against the formulas in plain NumPy."""

from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import pytest

from flctl.core.randomness import Seeding
from flctl.errors import StateError, TaskError
from flctl.learning.compression import halves, largest, levels, save_update
from flctl.learning.residuals import Residuals
from flctl.settings import LocalTraining
from flctl.wire.compression import check_update, open_update
from flctl.wire.parameters import ParameterFile, dump, to_float

RNG = np.random.default_rng(6)
SHAPES = {"conv": (30, 20), "bias": (30,), "empty": (0,)}


def model(size: float = 1.0) -> dict[str, tuple[str, np.ndarray]]:
    tensors: dict[str, tuple[str, np.ndarray]] = {
        name: ("F32", (size * RNG.standard_normal(shape)).astype(np.float32))
        for name, shape in SHAPES.items()
    }
    return tensors | {"steps": ("I64", np.array(3)), "mask": ("BOOL", np.array([True, False]))}


BASE = model()


def trained(by: float = 0.01) -> dict[str, tuple[str, np.ndarray]]:
    change = model(by)
    return {
        name: (dtype, array + change[name][1] if dtype == "F32" else array)
        for name, (dtype, array) in BASE.items()
    } | {"steps": ("I64", np.array(11))}


def flat(tensors: dict) -> np.ndarray:
    """Floats in canonical order."""
    names = sorted(name for name, (dtype, _) in tensors.items() if dtype == "F32")
    return np.concatenate([tensors[n][1].reshape(-1) for n in names]).astype(np.float64)


def send(
    after: dict, kind: str, folder: Path, before=BASE, position: int = 0, buffers=(), **more
) -> tuple[dict, float]:
    """The model that the coordinator reads, and the error that the agent tells."""
    training = LocalTraining(compression=kind, topk_share=0.05)
    at = {"agent": "pi-01", "version": 0, "sequence": 1, "seed": 1} | more
    with TemporaryFile() as out, TemporaryFile() as old:
        saved = save_update(
            out.fileno(), before, after, training, {"task": "toy"},
            Seeding(position=position, **at), batches=4, residuals=folder, buffers=buffers,
        )  # fmt: skip
        dump(old.fileno(), before, {"buffers": list(buffers)} if buffers else None)
        base, file = ParameterFile(old.fileno(), "base"), ParameterFile(out.fileno(), "update")
        assert saved.size == file.size
        check_update(file, base, training)
        update = open_update(file, base, training)
        read = {s.name: (s.dtype, update.read(s).reshape(s.shape)) for s in update.specs}
    return read, saved.error


@pytest.mark.parametrize(
    ("kind", "least", "most"), [("fp16", 0, 5e-4), ("int8", 1e-3, 0.02), ("topk", 0.5, 0.95)]
)
def test_the_error_that_is_told_is_the_error(tmp_path: Path, kind: str, least, most):
    """‖Δ − Δ̂‖/‖Δ‖; what is no float comes as it is."""
    after = trained()
    read, error = send(after, kind, tmp_path)
    change = flat(after) - flat(BASE)
    left = flat(after) - flat(read)
    assert error == pytest.approx(np.linalg.norm(left) / np.linalg.norm(change), rel=1e-2, abs=1e-5)
    assert least <= error < most
    for name in ("steps", "mask"):
        np.testing.assert_array_equal(read[name][1], after[name][1])


@pytest.mark.parametrize("kind", ["fp16", "int8", "topk"])
def test_buffers_are_sent_as_they_are(tmp_path: Path, kind: str):
    """A large change of statistics counts neither in the error nor among the largest."""
    plain, error = send(trained_as := trained(), kind, tmp_path / "plain", buffers=["bias"])
    after = trained_as | {"bias": ("F32", trained_as["bias"][1] + np.float32(1e6))}
    read, same = send(after, kind, tmp_path / "large", buffers=["bias"])
    np.testing.assert_array_equal(read["bias"][1], after["bias"][1])
    np.testing.assert_array_equal(read["conv"][1], plain["conv"][1])
    assert same == error


def test_int8_is_never_off_by_more_than_a_level_and_right_in_the_mean():
    """Stochastic rounding: one of the two neighbours, with the chance that makes it unbiased."""
    change = RNG.standard_normal(500).astype(np.float32)
    scale = np.abs(change).max() / 127
    total = np.zeros(500)
    for seed in range(400):
        packed = levels(change.copy(), [0, 500], np.random.default_rng(seed))
        sent = packed["values"][1].astype(np.float64) * packed["scales"][1][0]
        assert np.abs(sent - change).max() < scale * 1.0001
        total += sent
    # The mean of 400 roundings is off by less than five standard errors of at most 1/2 level.
    assert np.abs(total / 400 - change).max() < 5 * 0.5 * scale / 20


def test_fp16_does_not_overflow_nor_lose_small_changes(tmp_path: Path):
    """Values are relative to the largest of their tensor."""
    for size in (1e30, 1e-30):
        after = {n: (d, a * 0 + size if d == "F32" else a) for n, (d, a) in BASE.items()}
        zero = {n: (d, a * 0) if d == "F32" else (d, a) for n, (d, a) in BASE.items()}
        read, error = send(after, "fp16", tmp_path, before=zero)
        np.testing.assert_allclose(flat(read), size, rtol=1e-3)
        assert error < 1e-3
    numbers = np.array([1e38, -3e38, 1.0], np.float32)
    assert np.isfinite(halves(numbers, [0, 3])["values"][1]).all()


@pytest.mark.parametrize("count", [1, 3, 7, 10])
def test_topk_takes_the_largest_and_of_equals_the_first(count: int):
    numbers = np.array([1, -5, 2, 2, 0, -2, 9, 2, 0, 0], np.float32)
    order = sorted(range(10), key=lambda i: (-abs(numbers[i]), i))
    packed = largest(numbers.copy(), [0, 4, 4, 10], count)
    assert packed["indices"][1].tolist() == sorted(order[:count])


def test_what_topk_does_not_send_is_sent_later(tmp_path: Path):
    """Error feedback: all that was sent and what is left add up to all changes."""
    sent = np.zeros(len(flat(BASE)))
    changes = np.zeros_like(sent)
    for number in range(8):
        after = trained()
        read, _ = send(after, "topk", tmp_path, position=4 * number)
        sent += flat(read) - flat(BASE)
        changes += flat(after) - flat(BASE)
    left = Residuals(tmp_path).read(32, len(sent))
    np.testing.assert_allclose(sent + left, changes, atol=1e-5)
    assert np.linalg.norm(left) > 0.1 * np.linalg.norm(changes)


def test_a_round_that_did_not_count_is_not_fed_back(tmp_path: Path):
    """The next order has the same position: it begins from what was left before both."""
    send(trained(), "topk", tmp_path)
    state = Residuals(tmp_path).read(4, 630)
    send(trained(1.0), "topk", tmp_path, position=4, version=1)
    after = trained()
    again = send(after, "topk", tmp_path, position=4, version=2)
    assert Residuals(tmp_path).read(4, 630).tobytes() == state.tobytes()
    other = tmp_path / "other"
    Residuals(other).keep(4, state, before=0)
    expected = send(after, "topk", other, position=4, version=2)
    assert flat(again[0]).tobytes() == flat(expected[0]).tobytes()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path: path.unlink(), "No such file"),
        (lambda path: path.write_bytes(b"half"), "not a safetensors file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "bytes long"),
        (lambda path: path.write_bytes(path.read_bytes()[:-4] + b"\xff" * 4), "NaN"),
    ],
)
def test_a_lost_or_damaged_residual_is_said_and_is_zero(tmp_path: Path, caplog, damage, says):
    Residuals(tmp_path).keep(8, np.ones(6, np.float32), before=4)
    assert Residuals(tmp_path).read(8, 6).tolist() == [1] * 6
    (path,) = tmp_path.iterdir()
    damage(path)
    assert Residuals(tmp_path).read(8, 6).tolist() == [0] * 6
    assert "what was not sent before is lost" in caplog.text and says in caplog.text
    caplog.clear()
    assert not Residuals(tmp_path).read(0, 6).any() and not caplog.text


def test_a_residual_that_cannot_be_read_now_is_not_given_up(tmp_path: Path):
    """The disk may answer again: an update without it would differ from the next attempt's."""
    (tmp_path / "000000000008.safetensors").mkdir()
    with pytest.raises(StateError, match=r"000000000008.*: cannot read what top-k has not sent"):
        Residuals(tmp_path).read(8, 6)


def test_a_damaged_residual_is_gone_for_good(tmp_path: Path):
    Residuals(tmp_path).keep(8, np.ones(6, np.float32), before=4)
    (path,) = tmp_path.iterdir()
    path.write_bytes(b"half")
    Residuals(tmp_path).read(8, 6)
    assert not path.exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path):
    """Nothing is sent then: what is not kept would be lost."""
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="file"):
        send(trained(), "topk", tmp_path / "file" / "run")


@pytest.mark.parametrize("kind", ["fp16", "int8", "topk"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 3.4e38])
def test_a_change_that_is_not_finite_is_never_sent(tmp_path: Path, kind: str, value: float):
    """One line that names agent, round and tensor; also where only the difference is too large."""
    before = {**BASE, "bias": ("F32", np.full(30, -3.4e38, np.float32))}
    after = {**BASE, "bias": ("F32", np.full(30, value, np.float32))}
    with pytest.raises(TaskError, match=r"agent pi-01, round 1: tensor bias .* lower lr"):
        send(after, kind, tmp_path, before=before)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["fp16", "int8", "topk"])
def test_nothing_changed_is_no_error(tmp_path: Path, kind: str):
    read, error = send(BASE, kind, tmp_path)
    assert error == 0 and flat(read).tobytes() == flat(BASE).tobytes()


def test_the_chance_of_int8_is_that_of_agent_round_and_seed(tmp_path: Path):
    """The same three, the same bytes."""
    after = trained()

    def sent(**at) -> bytes:
        return flat(send(after, "int8", tmp_path, **at)[0]).tobytes()

    assert sent() == sent()
    assert len({sent(), sent(agent="pi-02"), sent(version=1), sent(seed=2)}) == 4
    assert sent() != sent(sequence=2)  # two updates of one base


@pytest.mark.parametrize("dtype", ["F64", "F16", "BF16"])
def test_other_types_of_numbers_travel_too(tmp_path: Path, dtype: str):
    kinds = {"F64": "f8", "F16": "f2", "BF16": "u2"}
    if dtype == "BF16":
        before, after = np.full(9, 0x3F80, "u2"), np.full(9, 0x3FC0, "u2")  # 1.0 and 1.5
    else:
        before, after = np.ones(9, kinds[dtype]), np.full(9, 1.5, kinds[dtype])
    read, _ = send({"w": (dtype, after)}, "int8", tmp_path, before={"w": (dtype, before)})
    np.testing.assert_allclose(to_float(read["w"][1], dtype), 1.5, rtol=1e-2)
