"""Draws that are functions of words and numbers."""

from hypothesis import given, settings
from hypothesis import strategies as st

from flctl.core.randomness import derive, sample

NAMES = [f"pi-{n:02d}" for n in range(1, 41)]


def test_a_seed_is_the_same_on_every_machine_and_in_every_version():
    """A run that is resumed after an upgrade goes on with the same numbers."""
    assert derive(1, "shuffle", "pi-01", 3) == derive(1, "shuffle", "pi-01", 3)
    assert derive(1) == 8141974312213627701


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**63 - 1), st.lists(st.integers() | st.text("a1-\x1f")))
def test_a_seed_has_63_bits(seed, words):
    """torch and numpy take no more."""
    assert 0 <= derive(seed, *words) < 2**63


def test_every_word_matters():
    """Other rounds, agents and purposes have other numbers."""
    words = [("a", 1), ("a", 2), ("b", 1), ("a1",), ("a",), (1, "a")]
    assert len({derive(1, *w) for w in words} | {derive(2, *w) for w in words}) == 12


def test_a_sample_is_sorted_and_as_large_as_asked():
    """It does not depend on the order of the names, and changes from round to round."""
    drawn = sample(1, 1, NAMES, 10)
    assert drawn == sorted(set(drawn)) and len(drawn) == 10
    assert drawn == sample(1, 1, NAMES[::-1], 10)
    assert drawn != sample(1, 2, NAMES, 10) and drawn != sample(2, 1, NAMES, 10)
    assert sample(1, 1, NAMES[:3], 10) == NAMES[:3]


def test_an_agent_that_is_missing_changes_one_place_of_the_sample():
    """The others that were drawn still are."""
    drawn = sample(1, 1, NAMES, 10)
    without = sample(1, 1, [n for n in NAMES if n != drawn[0]], 10)
    assert len(set(drawn[1:]) - set(without)) == 0


def test_everybody_is_drawn_about_equally_often():
    """A quarter of 40 agents over 400 rounds: each about 100 times."""
    counts = dict.fromkeys(NAMES, 0)
    for round_id in range(400):
        for name in sample(7, round_id, NAMES, 10):
            counts[name] += 1
    assert min(counts.values()) > 65 and max(counts.values()) < 135
