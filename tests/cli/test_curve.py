"""The demo's picture."""

import pytest

from flctl.cli import curve
from flctl.errors import UsageError
from flctl.fleet.comparison import Compared
from flctl.wire.messages import Metrics


def figures(accuracy):
    return Metrics(loss=1 - accuracy, accuracy=accuracy, macro_f1=accuracy / 2, examples=50)


def compared(rounds, accuracy):
    made = figures(accuracy)
    return Compared(dict.fromkeys(rounds, made), {"later": made, "unseen": made})


def test_it_is_drawn(tmp_path):
    """Curves of different lengths, of a single round, and without unseen patients."""
    told = {"loss": 0.5, "accuracy": 0.5, "macro_f1": 0.25, "examples": 50, "part": "later"}
    for rounds, beside in ((9, {"unseen": told}), (1, {})):
        path = tmp_path / f"curve-{rounds}.png"
        federated = {r: {**told, "beside": beside} for r in range(1, rounds + 1)}
        curve.draw(path, federated, compared([rounds], 0.6), compared([1], 0.4), agents=4)
        assert path.read_bytes().startswith(b"\x89PNG")


def test_it_says_what_it_needs(monkeypatch):
    """Without matplotlib the demo says how to get it, before it trains."""
    monkeypatch.setattr(curve.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install"):
        curve.needs_matplotlib()


def test_labels_do_not_overlap():
    """Close values get places at least the gap apart, in the same order."""
    low, high, middle = curve.apart([0.1, 0.92, 0.91], 0.05)
    assert low == 0.1
    assert high - middle == pytest.approx(0.05)
