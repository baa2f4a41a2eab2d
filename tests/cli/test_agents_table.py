"""The table of agents in `runs show` and `evaluate`: bounded for large fleets, whole in JSON."""

import json
import sys

import numpy as np
import pytest

from flctl.core.events import AgentPersonalised
from flctl.core.metrics import metrics_of
from flctl.core.spread import spread
from flctl.terminal.agents import document, show_agents, show_measured
from flctl.terminal.personal import show
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
    (started,) = [event for event in shown["events"] if event["event"] == "started"]
    records = started["groups"]
    assert sorted(records["pi-01"] + records["pi-02"]) == ["101", "102", "103", "104"]
    assert shown["by_agent"]["records"] == again["by_agent"]["records"] == records
    told = flctl("runs", "show", run.name).out
    assert told.count(f"  2: {', '.join(records['pi-01'])}\n") == 2, "of two tables"
    assert (
        f"  2: {', '.join(records['pi-01'])}\n" in flctl("evaluate", run / "best.safetensors").out
    )
    assert "each on its own" in told and "in brackets: a constant answer (the largest class" in told
    other = tmp_path / "m.safetensors"
    other.write_bytes((run / "last.safetensors").read_bytes())
    assert "by_agent" not in json.loads(flctl("evaluate", other, "--json").out)
    assert flctl("evaluate", other).out.splitlines()[-1].startswith("add --agents N")
    same = flctl("evaluate", run / "last.safetensors", "--data", path).out
    assert f"  2: {', '.join(records['pi-01'])}\n" in same, "the run's own data, named"
    which = f"\nmeasured on {path}, which the run's settings name\n"
    told = flctl("evaluate", run / "last.safetensors").out
    assert which in told and told.replace(which, "") == same, "and by default"
    copy = path.with_name("copy.npz")
    copy.write_bytes(path.read_bytes())
    lines = flctl("evaluate", run / "last.safetensors", "--data", copy).out.splitlines()
    assert lines[-1].startswith("add --agents N")
    assert flctl("evaluate", other, "--data", path).out.splitlines()[-1].startswith("add --agents")
    dealt = json.loads(flctl("evaluate", other, "--data", path, "--agents", 4, "--json").out)
    assert dealt["by_agent"]["agents"].keys() == {"pi-01", "pi-02", "pi-03", "pi-04"}
    assert sum(m["examples"] for m in dealt["by_agent"]["agents"].values()) == 24


def test_agents_without_test_data_of_their_own_are_named(flctl, beats, tmp_path):
    """In `runs show` and `evaluate`: only one of the records has some."""
    path = beats(
        "own.npz",
        X=np.random.default_rng(1).integers(-300, 300, (96, 187)).astype(np.int16),
        y=np.arange(96) % 3,
        record=np.repeat(["101", "102", "103", "104"], 24),
        split=np.r_[np.tile([0, 0, 1, 1], 6), np.zeros(72, int)],
    )
    given = ("--virtual", 4, "--rounds", 1, "--epochs", 1, "--data", path, "--partition", "record")
    assert flctl("train", "--task", "ecg", *given).code == 0
    (run,) = (tmp_path / "state" / "runs").iterdir()
    owner = next(
        iter(json.loads(flctl("runs", "show", run.name, "--json").out)["by_agent"]["agents"])
    )
    others = ", ".join(sorted({f"pi-0{n}" for n in range(1, 5)} - {owner}))
    told = flctl("runs", "show", run.name).out
    assert told.splitlines()[-1] == f"no test data of their own, or too few: {others}"
    told = flctl("evaluate", run / "last.safetensors").out
    assert told.splitlines()[-1] == f"no test data of their own: {others}"


def test_a_run_that_only_its_coordinator_measures_says_so(flctl, beats, tmp_path):
    given = ("--virtual", 2, "--rounds", 1, "--epochs", 1, "--data", beats())
    assert flctl("train", "--task", "ecg", "--evaluate", "coordinator", *given).code == 0
    (run,) = (tmp_path / "state" / "runs").iterdir()
    told = flctl("runs", "show", run.name).out
    assert told.splitlines()[-1].endswith("of their own with --evaluate coordinator")


def test_who_cannot_choose_a_model_of_its_own_is_named(capsys):
    """An agent without validation data keeps the run's model; an undefined figure is a dash."""
    values = {"loss": 1.0, "auroc": -sys.float_info.max}
    measured = Metrics(examples=9, values=values)

    def event(agent, *parts):
        shared = dict.fromkeys(parts, measured)
        return AgentPersonalised(at=0.0, number=1, round=2, agent=agent, kept=False, epochs=0,
                                 shared=shared, own={}, primary=Metric("auroc"))  # fmt: skip

    agents = {"a": event("a", "validation", "test"), "b": event("b", "test")}
    show(agents, {})
    out = capsys.readouterr().out
    assert "0 of 2 agents use their own model" in out and "; the run's model: a\n" in out
    assert "too little validation data to choose by, so the run's model is used: b\n" in out
    assert "e+308" not in out
