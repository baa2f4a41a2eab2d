import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flctl.errors import DataError
from flctl.learning.partition import partition

KINDS = ("iid", "label", "dirichlet", "size", "record")


@st.composite
def data_sets(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    n = draw(st.integers(1, 6))
    labels = draw(st.lists(st.integers(0, 4), min_size=4 * n, max_size=80))
    groups = [
        f"r{at % draw(st.integers(n, n + 5))}" if at >= n else f"r{at}" for at in range(len(labels))
    ]
    return np.array(labels, dtype=np.int64), np.array(groups), n


@settings(max_examples=60, deadline=None)
@given(data_sets(), st.sampled_from(KINDS), st.floats(0.01, 100), st.integers(0, 2**40))
def test_every_example_goes_to_exactly_one_agent(data, kind, alpha, seed):
    """The parts are disjoint, cover everything, and none is empty."""
    labels, groups, n = data
    parts = partition(kind, labels, groups, n, alpha=alpha, seed=seed)
    assert len(parts) == n
    assert min(map(len, parts)) > 0
    assert sorted(np.concatenate(parts)) == list(range(len(labels)))


@settings(max_examples=30, deadline=None)
@given(data_sets(), st.sampled_from(KINDS), st.integers(0, 2**40))
def test_the_same_seed_deals_the_same_parts(data, kind, seed):
    """A partition depends on its arguments alone."""
    labels, groups, n = data
    once, again = (partition(kind, labels, groups, n, seed=seed) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(once, again, strict=True))


def test_another_seed_deals_other_parts():
    """Two seeds shuffle differently."""
    labels = np.zeros(100, dtype=np.int64)
    one, two = (partition("iid", labels, None, 2, seed=seed)[0] for seed in (1, 2))
    assert not np.array_equal(one, two)


def test_records_stay_whole_and_are_balanced():
    """By record no record is cut, and the largest goes first to whoever has least."""
    groups = np.repeat(["a", "b", "c", "d"], [50, 30, 25, 5])
    parts = partition("record", np.zeros(110, dtype=np.int64), groups, 2)
    assert [sorted(set(groups[part])) for part in parts] == [["a", "d"], ["b", "c"]]


def test_by_label_an_agent_sees_few_classes():
    """Two chunks of sorted labels hold at most four of ten equally large classes."""
    labels = np.repeat(np.arange(10), 100)
    parts = partition("label", labels, None, 10, seed=3)
    assert max(len(set(labels[part])) for part in parts) <= 4
    assert {len(part) for part in parts} == {100}


def test_a_small_alpha_makes_unequal_mixes_and_a_large_one_equal_ones():
    """The share of an agent's commonest class falls with alpha towards that of all data."""
    labels = np.repeat(np.arange(5), 200)

    def commonest(alpha: float) -> float:
        parts = partition("dirichlet", labels, None, 5, alpha=alpha, seed=4)
        return float(np.mean([np.bincount(labels[p]).max() / len(p) for p in parts]))

    assert commonest(0.1) > 0.6
    assert commonest(1000.0) < 0.3


def test_sizes_grow_linearly():
    """Of four agents the last has four times as much as the first."""
    parts = partition("size", np.zeros(1000, dtype=np.int64), None, 4)
    assert [len(part) for part in parts] == pytest.approx([100, 200, 300, 400], abs=3)


@pytest.mark.parametrize(
    ("kind", "examples", "n", "message"),
    [
        ("record", 30, 16, "16 agents, but only 5 records; use --partition iid"),
        ("iid", 30, 31, "31 agents, but only 30 examples"),
        ("label", 16, 16, "16 agents, .* partition 'label' leaves one without data"),
    ],
)
def test_an_agent_without_data_is_an_error(kind, examples, n, message):
    """Nobody gets nothing; the message says what there is."""
    groups = np.array([f"r{at % 5}" for at in range(examples)])
    with pytest.raises(DataError, match=f"^{message}$"):
        partition(kind, np.zeros(examples, dtype=np.int64), groups, n)


def test_a_file_without_records_says_which_array_is_missing():
    """All of it counts as one record, which is too few."""
    with pytest.raises(DataError, match=r"1 record .*names no records.*partition iid"):
        partition("record", np.zeros(30, dtype=np.int64), np.full(30, "beats"), 2)


def test_data_without_records_cannot_be_dealt_by_record():
    """The message names the way out."""
    with pytest.raises(DataError, match="--partition iid"):
        partition("record", np.zeros(30, dtype=np.int64), None, 2)
