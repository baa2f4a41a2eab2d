"""Statistics and integers of a model: no norm counts them, and no claim of examples rules them."""

import os
import time

import numpy as np
import pytest
from memory_files import file_of

from flctl.core.strategies import combine, strategy_of, weigh
from flctl.core.strategies.distances import squared_distances
from flctl.core.strategies.krum import MultiKrum
from flctl.settings import parse
from flctl.wire.parameters import ParameterFile, ParameterWriter

STATISTICS = frozenset(["running_mean", "running_var"])


def update(change: float, seed: int, mean: float = 0.0, count: int = 10):
    """Weights that have moved by an L2 norm of `change`, statistics of a batch norm."""
    weights = np.random.default_rng(seed).standard_normal(50)
    statistics = np.random.default_rng(seed).normal(mean, 300, 20)
    return {
        "weight": ("F32", (change * weights / np.linalg.norm(weights)).astype(np.float32)),
        "running_mean": ("F32", statistics.astype(np.float32)),
        "running_var": ("F32", (5000 + statistics).astype(np.float32)),
        "num_batches_tracked": ("I64", np.array(count)),
    }


BASE = {name: (dtype, np.zeros_like(array)) for name, (dtype, array) in update(1.0, seed=1).items()}


def model(updates, examples=None, **given) -> dict[str, np.ndarray]:
    """What `updates` become under these settings."""
    settings = parse({"task": "ecg", **given}, "test")
    files, out = [file_of(tensors) for tensors in (BASE, *updates)], os.memfd_create("out")
    try:
        weights = weigh(examples or [10] * len(updates), "examples")
        writer = ParameterWriter(out, files[0].specs)
        combine(
            strategy_of(settings),
            files[0],
            files[1:],
            weights,
            writer,
            clip_norm=settings.clip_norm,
            buffers=STATISTICS,
        )
        writer.finish()
        made = ParameterFile(out, "model")
        return {spec.name: made.read(spec).reshape(spec.shape) for spec in made.specs}
    finally:
        for fd in (out, *(file.fd for file in files)):
            os.close(fd)


def test_clipping_looks_at_the_weights_alone():
    """A change of the weights that is as long as the limit stays as it is."""
    (one,) = [update(1.0, seed=1)]
    found = model([one], clip_norm=1.0001)
    np.testing.assert_array_equal(found["weight"], one["weight"][1])
    half = model([one], clip_norm=0.5)
    assert np.linalg.norm(half["weight"]) == pytest.approx(0.5, rel=1e-5)
    np.testing.assert_array_equal(half["running_var"], one["running_var"][1])


@pytest.mark.parametrize("strategy", ["krum", "multi-krum"])
def test_krum_looks_at_the_weights_alone(strategy: str):
    """An attacker whose weights are a hundred times further off is found, though its statistics
    are the middle of the others'."""
    honest = [update(1.0, seed) for seed in range(1, 5)]
    middle = {
        name: ("F32", np.mean([one[name][1] for one in honest], axis=0, dtype=np.float32))
        for name in STATISTICS
    }
    found = model([*honest, update(100.0, 9) | middle], strategy=strategy)
    assert np.linalg.norm(found["weight"]) < 1.01


@pytest.mark.parametrize(
    "given",
    [{"strategy": "krum"}, {"strategy": "multi-krum"}, {"clip_norm": 1.0}, {"strategy": "median"},
     {"strategy": "trimmed-mean"}],
    ids=str,
)  # fmt: skip
def test_statistics_that_no_norm_sees_are_bounded_by_the_others(given):
    """Honest weights beside statistics of 1e30: those of the model stay among the others'."""
    honest = [update(1.0, seed) for seed in range(1, 5)]
    found = model([*honest, update(1.0, 1, mean=1e30)], **given)
    for name in STATISTICS:
        theirs = np.stack([one[name][1] for one in honest])
        assert (found[name] <= theirs.max(axis=0)).all(), name


@pytest.mark.parametrize("most", [100, 2**53])
@pytest.mark.parametrize("strategy", ["fedavg", "median", "trimmed-mean", "multi-krum", "krum"])
@pytest.mark.parametrize("count", [-(2**62), 2**62])
def test_no_claim_of_examples_decides_about_integers(strategy: str, most: int, count: int):
    updates = [update(1.0, seed, count=seed) for seed in (1, 2, 3, 4)] + [update(1.0, 1)]
    updates[4]["num_batches_tracked"] = ("I64", np.array(count))
    found = model(updates, examples=[10, 10, 10, 10, most], strategy=strategy)
    assert 1 <= int(found["num_batches_tracked"]) <= 4


# Krum's distances ---------------------------------------------------------------------------


def directly(points: np.ndarray) -> np.ndarray:
    return np.array([[np.square(a - b).sum() for b in points] for a in points])


def measured(points: np.ndarray, base: np.ndarray, dtype: str = "F32") -> np.ndarray:
    files = [file_of({"w": (dtype, point)}) for point in (base, *points)]
    try:
        return squared_distances(files[0], files[1:], files[0].specs)
    finally:
        for file in files:
            os.close(file.fd)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("spread", [1.0, 1e-3, 1e-6])
def test_krum_chooses_as_by_each_difference(seed: int, spread: float):
    """With agents that have hardly moved apart, twins, and attackers of all sizes."""
    rng = np.random.default_rng(seed)
    base = rng.standard_normal(3000).astype(np.float32)
    common = base + rng.standard_normal(3000).astype(np.float32)
    points = np.stack([common + spread * rng.standard_normal(3000) for _ in range(12)])
    points[3] = points[7]
    points[9], points[10] = 1e30, -points[10]
    points[11] = points[1] + 1e-7
    points = points.astype(np.float32)
    expected = directly(points.astype(np.float64))
    found = measured(points, base)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert (found == found.T).all() and (found[3] == found[7]).all()
    for keep in (1, 4, None):
        krum = MultiKrum(byzantine=3, keep=keep)
        np.testing.assert_array_equal(krum.choose(found), krum.choose(expected))


def test_equal_updates_are_no_distance_apart():
    point = np.random.default_rng(1).standard_normal(70_000).astype(np.float32)
    assert not measured(np.stack([point] * 7), np.zeros_like(point)).any()


def test_distances_that_overflow_do_not_hide_the_others():
    """float64 has no 1e400: infinite to all others, and Krum goes on."""
    points = np.zeros((5, 4))
    points[0], points[1], points[4] = 1, 2, 1e200
    found = measured(points, np.zeros(4), "F64")
    np.testing.assert_array_equal(found[:4, :4], directly(points[:4]))
    assert np.isinf(found[4, :4]).all() and found[4, 4] == 0
    assert 4 not in MultiKrum().choose(found)


def test_distances_of_a_hundred_updates_are_a_matrix_product():
    """Each of the 4,950 differences by itself takes some twenty times as long."""
    points = np.random.default_rng(2).standard_normal((100, 50_000)).astype(np.float32)
    base = np.zeros(50_000, np.float32)
    began = time.process_time()
    measured(points, base)
    took = time.process_time() - began
    began = time.process_time()
    for one in points[:10].astype(np.float64):
        for other in points.astype(np.float64):
            np.square(one - other).sum()
    assert took < (time.process_time() - began) * 5, took
