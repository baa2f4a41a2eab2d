"""The demo's picture."""

import msgspec
import pytest
from msgspec import structs

from flctl.errors import UsageError
from flctl.fleet.comparison import Beside, Compared
from flctl.records.plots import comparison, style
from flctl.terminal import demo
from flctl.wire.messages import Metrics

AGENTS = ("pi-01", "pi-02")


def figures(accuracy):
    values = {"loss": 1 - accuracy, "accuracy": accuracy, "macro_f1": accuracy / 2}
    return Metrics(values=values, examples=50, constant={"accuracy": 0.55})


def compared(rounds, accuracy):
    made = figures(accuracy)
    final = {"later": made, "unseen": made, "own": made}
    return Compared(dict.fromkeys(rounds, made), final, dict.fromkeys(AGENTS, final))


def around(own=0.7):
    """As the demo has it: two unseen patients."""
    return Beside(
        own=dict.fromkeys(AGENTS, figures(own)),
        commonest="N",
        always={name: figures(0.5) for name in ("own", "later", "unseen")},
        classes={"later": {"N": 9, "S": 1}, "unseen": {"N": 500, "S": 4}},
        groups={"later": 16, "unseen": 2},
    )


def test_it_is_drawn(tmp_path):
    """Curves of different lengths, of a single round, and without unseen patients."""
    told = {**msgspec.to_builtins(figures(0.5)), "part": "later"}
    for rounds, beside in ((9, {"unseen": told}), (1, {})):
        path = tmp_path / f"curve-{rounds}.png"
        federated = {r: {**told, "beside": beside} for r in range(1, rounds + 1)}
        central, alone = compared([rounds], 0.6), compared([1], 0.4)
        comparison.draw(path, federated, central, alone, around(), agents=4)
        assert path.read_bytes().startswith(b"\x89PNG")


def test_it_says_what_it_needs(monkeypatch):
    """Without matplotlib the demo says how to get it, before it trains."""
    monkeypatch.setattr(style.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install"):
        style.needs_matplotlib()


def test_labels_do_not_overlap():
    """Close values get places at least the gap apart, in the same order."""
    low, high, middle = style.apart([0.1, 0.92, 0.91], 0.05)
    assert low == 0.1
    assert high - middle == pytest.approx(0.05)


def test_the_figures_say_what_was_measured_on_what(capsys):
    """Agents alone on their own patients and on everybody's; the commonest class beside it."""
    told = {**msgspec.to_builtins(figures(0.8)), "part": "later"}
    federated = {9: {**told, "beside": {"unseen": told}}}
    demo.show(federated, compared([9], 0.6), compared([3], 0.71), around(), agents=4)
    out = capsys.readouterr().out
    head, own, own_f1, all_of, *_ = [line.split() for line in out.splitlines() if line]
    assert head == ["federated", "one", "place", "alone", "always", "N"]
    assert own == ["own", "patients,", "later", "accuracy", "0.700", "0.600", "0.710", "0.500"]
    assert own_f1 == ["macro-F1", "0.350", "0.300", "0.355", "0.250"]
    assert all_of[:2] == ["all", "patients,"] and all_of[4:] == ["0.800", "0.600", "0.710", "0.500"]
    (each,) = (line.split() for line in out.splitlines() if line.startswith("pi-02"))
    assert each == ["pi-02", "0.700", "(0.550)", "0.710", "0.710", "0.710"]
    text = " ".join(out.split())
    assert "10th percentile 0.700" in text and "worst 0.700" in text
    assert "mean of 4 agents, each after 3 rounds on its own data" in text
    assert "An agent alone does as well on its own patients." in text
    assert "Unseen are 2 patients with 500 N, 4 S beats: too few to rely on." in text
    assert max(map(len, out.splitlines())) <= 80


def test_what_is_not_so_is_not_said():
    """How agents alone fare on their own patients; nothing where no agent measures."""
    alone = compared([3], 0.6)
    for federated, says in ((0.5, "An agent alone does better on"), (0.61, "does as well on"),
                            (0.7, "")):  # fmt: skip
        told = " ".join(demo.explained(alone, around(federated), 4))
        assert says in told and ("An agent alone" in told) == bool(says)
    bare = structs.replace(around(), own={}, classes={}, groups={})
    assert "federation" not in " ".join(demo.explained(alone, bare, 4))
