"""The validation part: what the best round is chosen by, and never trained on."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flctl.learning.examples import Examples
from flctl.learning.validation import parted


def examples(y, group=None) -> Examples:
    return Examples(torch.arange(len(y)), torch.tensor(y), classes=9, group=group)


def rows(part: Examples | None) -> list[int]:
    return [] if part is None else part.x.tolist()


def test_the_last_of_each_record_are_held_back():
    """15 % of each, rounded down, in whatever order the records' rows lie."""
    group = np.tile(["a", "b"], 20).tolist() + ["c"] * 6
    y = [n % 2 for n in range(20) for _ in "ab"] + [0, 1, 0, 1, 0, 1]
    training, validation = parted(examples(y, group), 0.15)
    assert rows(validation) == [34, 35, 36, 37, 38, 39]
    assert rows(training) == [*range(34), *range(40, 46)], "of six examples 15 % are none"
    assert validation is not None and validation.group is not None
    assert set(validation.group) == {"a", "b"}


@pytest.mark.parametrize("group", [None, ["one"] * 60])
def test_data_that_are_sorted_by_class_lose_none_of_them(group):
    """A folder for each class: its last examples alone would be one class, which none learns."""
    y = np.repeat([0, 1, 2], 20).tolist()
    training, validation = parted(examples(y, group), 0.15)
    assert rows(validation) == [17, 18, 19, 37, 38, 39, 57, 58, 59]
    assert training.histogram()[:3].tolist() == [17, 17, 17]


def test_of_examples_without_groups_each_class_gives_its_share():
    """Few of many classes, too; a class of one example stays with the training."""
    training, validation = parted(examples([*range(8)] * 5 + [8]), 0.15)
    assert len(rows(validation)) == 6 and validation is not None
    assert validation.histogram().max() == 1 and training.histogram()[8] == 1


def test_many_small_groups_give_their_share_together():
    """Of 40 patients with two pictures each, sorted by class: twelve give their last one."""
    group = [f"p{n // 2:02}" for n in range(80)]
    training, validation = parted(examples(np.repeat([0, 1], 40).tolist(), group), 0.15)
    assert validation is not None and len(set(validation.group)) == len(validation) == 12
    assert validation.histogram()[:2].tolist() == [6, 6]
    assert all(row % 2 for row in rows(validation)) and len(training) == 68


@pytest.mark.parametrize(("count", "share"), [(6, 0.15), (100, 0.0), (1, 0.9)])
def test_too_few_give_none(count, share):
    """Then all are trained on, and no round is the best."""
    whole = examples([0] * count)
    assert parted(whole, share) == (whole, None)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 8), st.sampled_from("abc")), min_size=1, max_size=80),
    st.booleans(),
    st.floats(0, 0.99),
)
def test_each_example_is_in_one_part(pairs, grouped, share):
    """In its order, and the same each time."""
    y = [label for label, _ in pairs]
    whole = examples(y, [name for _, name in pairs] if grouped else None)
    training, validation = parted(whole, share)
    assert sorted(rows(training) + rows(validation)) == list(range(len(pairs)))
    assert rows(training) == sorted(rows(training)) and rows(training)
    assert rows(validation) == sorted(rows(validation))
    assert rows(parted(whole, share)[1]) == rows(validation)
    assert len(rows(validation)) <= share * len(pairs) + 1e-6
