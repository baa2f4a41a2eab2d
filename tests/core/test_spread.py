"""How figures are spread over agents."""

import sys

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from flctl.core.spread import spread, worst_first

FIGURES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40)


@settings(deadline=None)
@given(FIGURES)
def test_it_is_what_numpy_says(values):
    """Also where less is better: the tenth is then of the other end."""
    rows = {f"pi-{at:03d}": {"up": value, "down": value} for at, value in enumerate(values)}
    found = spread(rows, {"down"})
    for name, share, worst in (("up", 10, min), ("down", 90, max)):
        of = found[name]
        assert of.agents == len(values)
        assert np.isclose(of.mean, np.mean(values)) and np.isclose(of.median, np.median(values))
        assert np.isclose(of.tenth, np.percentile(values, share))
        assert of.worst == worst(values) == rows[of.worst_agent][name]


def test_an_agent_without_a_figure_is_not_counted_for_it():
    """And stands last in the order of the worst."""
    rows = {"a": {"x": 1.0, "y": 5.0}, "b": {"y": 4.0}, "c": {"x": 0.5}}
    found = spread(rows)
    assert (found["x"].agents, found["x"].worst_agent, found["x"].mean) == (2, "c", 0.75)
    assert (found["y"].agents, found["y"].worst_agent) == (2, "b")
    assert worst_first(rows, "x") == ["c", "a", "b"]
    assert worst_first(rows, "x", {"x"}) == ["a", "c", "b"]
    assert spread({}) == {} and worst_first(rows, "z") == ["a", "b", "c"]


def test_models_that_have_diverged_do_not_overflow():
    """Their figures are the largest number that there is."""
    rows = {name: {"loss": sys.float_info.max} for name in "abc"}
    assert spread(rows, {"loss"})["loss"].mean == sys.float_info.max
