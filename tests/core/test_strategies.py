"""The average, against a plain NumPy one in float64."""

import os
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_files import average, file_of

from flctl.core.strategies import Strategy, combine, weigh
from flctl.wire.parameters import (
    STORAGE,
    ParameterFile,
    ParameterWriter,
    TensorSpec,
    from_float64,
    to_float,
)

FLOATS = ["F64", "F32", "F16", "BF16"]


def stored(numbers, dtype: str) -> np.ndarray:
    return from_float64(np.asarray(numbers, dtype=np.float64), dtype)


def as_float64(array: np.ndarray, dtype: str) -> np.ndarray:
    return to_float(array.reshape(-1), dtype).astype(np.float64).reshape(array.shape)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(), (1,), (0, 4), (7, 3, 2), (300_001,)])
def test_the_mean_is_that_of_plain_numpy(dtype, shape):
    """Summed in float64 in the order of the updates, rounded once; also over slice borders."""
    rng = np.random.default_rng(3)
    examples = [17, 400, 3, 80]
    updates = [{"w": (dtype, stored(rng.standard_normal(shape), dtype))} for _ in examples]
    weights = weigh(examples, "examples")
    reference = np.zeros(shape)
    for weight, update in zip(weights, updates, strict=True):
        reference = reference + weight * as_float64(update["w"][1], dtype)
    mean, _ = average(updates, weights)
    np.testing.assert_array_equal(mean["w"], stored(reference, dtype))
    assert mean["w"].shape == shape and mean["w"].dtype == STORAGE[dtype]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("examples", [[1], [1, 2], [3, 3, 3], [10, 7, 999, 1, 5, 13, 2]])
def test_identical_updates_give_the_same_bits(dtype, examples):
    """The mean of equal models is that model, whatever the weights."""
    bits = np.random.default_rng(1).integers(0, 2**16, 4096, dtype=np.uint16)
    narrow = np.sort(bits[(bits & 0x7C00) != 0x7C00])[:2000]
    values = narrow.view(np.float16) if dtype == "F16" else narrow
    if dtype == "BF16":
        values = values[(values & 0x7F80) != 0x7F80]
    elif dtype != "F16":
        values = np.random.default_rng(2).standard_normal(2000).astype(STORAGE[dtype])
    update = {"w": (dtype, values)}
    mean, _ = average([update] * len(examples), weigh(examples, "examples"))
    if dtype == "F64":
        np.testing.assert_allclose(mean["w"], values, rtol=1e-15)
    else:
        np.testing.assert_array_equal(mean["w"], values)


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_largest_numbers_of_a_type_stay_finite(dtype):
    """Their sum would overflow in the storage type; the mean does not."""
    top = {"F64": 1e308, "F32": np.finfo("f4").max, "F16": 65504.0, "BF16": 3.3895e38}[dtype]
    update = {"w": (dtype, stored([top, -top], dtype))}
    mean, _ = average([update] * 3, weigh([1, 1, 1], "examples"))
    assert np.isfinite(as_float64(mean["w"], dtype)).all()


def test_the_same_updates_give_the_same_bytes_of_file():
    """Every time, with every type of tensor; what the file is named by is a digest of them."""
    rng = np.random.default_rng(5)
    updates = [
        {
            "w": ("F32", rng.standard_normal(5000).astype(np.float32)),
            "h": ("BF16", rng.integers(0x3F00, 0x4000, 100).astype(np.uint16)),
            "n": ("I64", rng.integers(0, 9, 3)),
        }
        for _ in range(4)
    ]
    weights = weigh([1, 5, 2, 9], "examples")
    assert len({average(updates, weights)[1] for _ in range(3)}) == 1


def test_integers_and_booleans_are_medians_and_keep_64_bits():
    """A counter of 2**60 + 1 has no float64; a claim of most examples does not win alone."""
    big = 2**60 + 1
    parts = [
        {
            "counter": ("I64", np.array([big, 5, -3])),
            "mask": ("BOOL", np.array([[True, False]])),
            "byte": ("U8", np.array(255, np.uint8)),
        },
        {
            "counter": ("I64", np.array([big, 7, -3])),
            "mask": ("BOOL", np.array([[True, True]])),
            "byte": ("U8", np.array(0, np.uint8)),
        },
        {
            "counter": ("I64", np.array([big, 900, 2**62])),
            "mask": ("BOOL", np.array([[False, False]])),
            "byte": ("U8", np.array(3, np.uint8)),
        },
    ]
    mean, _ = average(parts, weigh([10, 10, 10], "examples"))
    assert mean["counter"].tolist() == [big, 7, -3]
    assert mean["mask"].tolist() == [[True, False]] and mean["mask"].dtype == np.bool_
    assert mean["byte"].shape == () and int(mean["byte"]) == 3
    heavy, _ = average(parts, weigh([1, 1, 10], "examples"))
    assert heavy["counter"].tolist() == [big, 7, -3]
    two, _ = average(parts[1:], weigh([1, 10], "examples"))
    assert two["counter"].tolist() == [big, 900, 2**62]


@pytest.mark.parametrize("examples", [[1, 1], [3, 3, 6], [1, 2, 3], [7, 7, 7, 7], [1] * 12])
def test_of_two_middle_numbers_the_lower_one_is_taken(examples):
    """Half of the weight is enough, also when the shares are not exact in binary."""
    updates = [{"n": ("I64", np.array([value]))} for value in range(len(examples))]
    mean, _ = average(updates, weigh(examples, "examples"))
    assert mean["n"].tolist() == [len(examples) // 2 - 1 + (len(examples) == 3)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(1, 50)), min_size=1, max_size=6
    )
)
def test_a_median_is_a_number_that_some_agent_sent(parts):
    """At least half of the votes are not above it, and at least half not below it.

    Votes are weights, unless one of three or more has half of them.
    """
    updates = [{"n": ("I64", np.array([value]))} for value, _ in parts]
    mean, _ = average(updates, weigh([weight for _, weight in parts], "examples"))
    (median,) = mean["n"].tolist()
    if len(parts) > 2 and max(w for _, w in parts) * 2 >= sum(w for _, w in parts):
        parts = [(value, 1) for value, _ in parts]
    total = sum(weight for _, weight in parts)
    assert median in [value for value, _ in parts]
    assert sum(weight for value, weight in parts if value <= median) * 2 >= total
    assert sum(weight for value, weight in parts if value >= median) * 2 >= total


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.integers(1, 10**9), min_size=1, max_size=30),
    st.floats(0.001, 1.0),
    st.sampled_from(["examples", "uniform"]),
)
def test_shares_sum_to_one_and_nobody_is_over_the_cap(examples, max_share, weighting):
    """And more examples never weigh less."""
    shares = weigh(examples, weighting, max_share)
    assert shares.sum() == pytest.approx(1.0, abs=1e-9)
    assert (shares > 0).all()
    if max_share * len(examples) > 1:
        assert shares.max() <= max_share * (1 + 1e-9)
    else:
        np.testing.assert_allclose(shares, 1 / len(examples))
    by_examples = shares[np.argsort(examples, kind="stable")]
    assert (np.diff(by_examples) >= -1e-12).all()


def test_what_is_cut_off_is_spread_in_proportion():
    """One agent of 900 may weigh half; the others share the rest as 75 to 25."""
    np.testing.assert_allclose(weigh([900, 75, 25], "examples", 0.5), [0.5, 0.375, 0.125])
    np.testing.assert_allclose(weigh([900, 75, 25], "examples"), [0.9, 0.075, 0.025])
    np.testing.assert_allclose(weigh([900, 75, 25], "uniform"), [1 / 3] * 3)


def test_one_full_batch_step_of_unequal_agents_is_the_central_step():
    """Linear regression, one SGD step each: FedAvg is exact when everybody steps once."""
    rng = np.random.default_rng(8)
    sizes, lr = [3, 40, 17, 200, 1], 0.05
    start = rng.standard_normal(6)
    data = [(rng.standard_normal((n, 6)), rng.standard_normal(n)) for n in sizes]

    def step(x, y):
        return start - lr * 2 / len(y) * x.T @ (x @ start - y)

    central = step(np.concatenate([x for x, _ in data]), np.concatenate([y for _, y in data]))
    updates = [{"w": ("F32", step(x, y).astype(np.float32))} for x, y in data]
    mean, _ = average(updates, weigh(sizes, "examples"))
    np.testing.assert_allclose(mean["w"], central, atol=1e-6)


def test_memory_does_not_grow_with_the_model_or_the_fleet():
    """Twenty updates of 8 MB are averaged in less than 16 MB; on_slice is called on the way."""
    weights = weigh([*range(1, 21)], "examples")
    tensors = {
        "w": ("F32", np.full(1_900_000, 0.5, np.float32)),
        "n": ("I64", np.arange(50_000)),
    }
    files = [file_of(tensors) for _ in weights]
    out = os.memfd_create("mean")
    slices = 0

    def count() -> None:
        nonlocal slices
        slices += 1

    tracemalloc.start()
    try:
        writer = ParameterWriter(out, files[0].specs)
        combine(Strategy(), files[0], files, weights, writer, on_slice=count)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16e6, f"{peak / 1e6:.1f} MB"
    assert slices > 8
    mean = ParameterFile(out, "mean")
    assert (mean.read(TensorSpec("w", "F32", (1_900_000,)), 0, 1000) == 0.5).all()
    for fd in [out, *(file.fd for file in files)]:
        os.close(fd)
