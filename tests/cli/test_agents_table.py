"""The table of agents in `runs show` and `evaluate`: bounded for large fleets, whole in JSON."""

import json
import sys

import numpy as np
import pytest

from flctl.core.metrics import metrics_of
from flctl.core.spread import spread
from flctl.terminal.agents import document, show_agents, show_measured
from flctl.wire.messages import Measures, Metric, Metrics, Moments, Sums

NUMBERS = Measures(
    metrics=(Metric("loss", lower=True), Metric("rmse", lower=True, unit="°C"), Metric("r2")),
    primary="rmse",
    classes=0,
    says="number",
)


def of_numbers(error: float):
    """Targets with a standard deviation of 2."""
    means = {
        "loss": Moments(count=10, mean=1.0),
        "squared_error": Moments(count=10, mean=error**2),
        "target": Moments(count=10, mean=20.0, m2=40.0),
    }
    return metrics_of(Sums(examples=10, means=means), NUMBERS)


@pytest.fixture
def fleet():
    return {f"pi-{at:03d}": of_numbers(1 + at / 100) for at in range(300)}


def test_of_a_large_fleet_the_ten_worst_are_shown(fleet, capsys):
    """And a summary over all; less is better here."""
    show_measured("each on its own", fleet, NUMBERS)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines[1:11]] == [f"pi-{at:03d}" for at in range(299, 289, -1)]
    assert lines[1][1:5] == ["10", "1.000", "3.990", "(2.000)"]
    assert [line[0] for line in lines[11:15]] == ["mean", "median", "10th", "worst"]
    errors = [1 + at / 100 for at in range(300)]
    assert lines[11][3] == f"{np.mean(errors):.3f}" and lines[12][3] == f"{np.median(errors):.3f}"
    assert lines[13][3] == f"{np.percentile(errors, 90):.3f}" and lines[14][2] == "3.990"
    assert " ".join(lines[15]) == "and 290 agents with better figures; --all shows all"


def test_all_of_them_are_shown_if_wanted(fleet, capsys):
    show_measured("each on its own", fleet, NUMBERS, everyone=True)
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 305 and "--all" not in out
    made = document(fleet, NUMBERS)
    assert len(made["agents"]) == 300 and made["spread"]["rmse"].worst_agent == "pi-299"


def test_a_figure_that_an_agent_lacks_is_a_dash(capsys):
    """Its row is there, and the summary is about the others."""
    rows = {"a": {"before": 0.5, "after": 0.75}, "b": {"before": 0.25}}
    show_agents("accuracy", rows, {"before": "global", "after": "own"}, by="after")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1:3] == [["a", "0.500", "0.750"], ["b", "0.250", "-"]]
    assert lines[3] == ["mean", "0.375", "0.750"]
    show_agents("accuracy", {"a": {"x": 0.5}}, {"x": "x"}, by="x")
    assert len(capsys.readouterr().out.splitlines()) == 2, "one agent has no spread"
    assert spread(rows)["after"].agents == 1


def test_what_an_agent_cannot_compute_is_not_its_worst_figure(capsys):
    """AUROC of an agent that has normal examples only: a dash, and no part of the spread."""
    both = Metrics(examples=4, values={"loss": 1.0, "auroc": 0.75})
    one = Metrics(examples=4, values={"loss": 0.5, "auroc": -sys.float_info.max})
    scores = Measures(
        metrics=(Metric("loss", lower=True), Metric("auroc")),
        primary="auroc", classes=2, says="score",
    )  # fmt: skip
    show_measured("each", {"a": both, "b": one}, scores)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1:3] == [["a", "4", "1.000", "0.750"], ["b", "4", "0.500", "-"]]
    assert lines[3] == ["mean", "4", "0.750", "0.750"]
    assert document({"a": both, "b": one}, scores)["spread"]["auroc"].agents == 1


def test_a_run_and_a_checkpoint_tell_the_same_of_each_agent(flctl, beats, tmp_path):
    """The last round's figures on what each agent holds out, in the journal and measured again."""
    path = beats(
        "own.npz",
        X=np.random.default_rng(1).integers(-300, 300, (96, 187)).astype(np.int16),
        y=np.arange(96) % 3,
        record=np.repeat(["101", "102", "103", "104"], 24),
        split=np.tile([0, 0, 1, 2], 24),
    )
    given = ("--virtual", 2, "--rounds", 2, "--epochs", 1, "--data", path)
    done = flctl("train", "--task", "ecg", *given)
    assert done.code == 0, done.err
    (run,) = (tmp_path / "state" / "runs").iterdir()
    shown = json.loads(flctl("runs", "show", run.name, "--json").out)
    rounds = [event["metrics"] for event in shown["events"] if event["event"] == "round"]
    assert "own" not in rounds[0] and rounds[1]["own"].keys() == {"pi-01", "pi-02"}
    assert shown["by_agent"]["agents"] == rounds[1]["own"]
    again = json.loads(flctl("evaluate", run / "last.safetensors", "--json").out)
    assert {a: m["values"] for a, m in again["by_agent"]["agents"].items()} == {
        a: m["values"] for a, m in rounds[1]["own"].items()
    }
    assert again["by_agent"]["spread"] == shown["by_agent"]["spread"]
    told = flctl("runs", "show", run.name).out
    assert "each on its own" in told and "in brackets: a constant answer (the largest class" in told
    other = tmp_path / "m.safetensors"
    other.write_bytes((run / "last.safetensors").read_bytes())
    assert "by_agent" not in json.loads(flctl("evaluate", other, "--json").out)
    dealt = json.loads(flctl("evaluate", other, "--data", path, "--agents", 4, "--json").out)
    assert dealt["by_agent"]["agents"].keys() == {"pi-01", "pi-02", "pi-03", "pi-04"}
    assert sum(m["examples"] for m in dealt["by_agent"]["agents"].values()) == 24
