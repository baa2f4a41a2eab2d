"""The benchmark of the least that a round costs."""

import importlib.util
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_a_key_may_begin_with_a_hyphen(monkeypatch):
    """One Z85 key in 85 does."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("floor", BENCHMARKS / "floor.py")
    floor = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(floor)
    key = "-" + "k" * 39
    found = floor.read(["agent", *floor.dial({"endpoint": "tcp://here:1", "key": key})])
    assert (found.key, found.endpoint) == (key, "tcp://here:1")
    sys.modules.pop("measures", None)
