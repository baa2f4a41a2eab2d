"""A run as rows."""

import csv
import io
import sys

import msgspec

from flctl.records.tables import agent_rows, as_csv, round_rows


def test_a_round_is_a_row(make_round):
    """Sums over its agents, the training loss weighted by examples, and every part's figures."""
    first = make_round(1, 1, 3, missing=["pi-02", "pi-04"])
    second = msgspec.structs.replace(make_round(2, 2), metrics=None)
    rows = list(csv.DictReader(io.StringIO(as_csv(round_rows([first, second])).decode())))
    assert [row["round"] for row in rows] == ["1", "2"]
    expected = {
        "at": "2001-09-09T01:46:41+00:00", "agents": "2", "missing": "pi-02 pi-04",
        "examples": "40", "batches": "4", "bytes_up": "200", "training_loss": "2.5",
        "part": "test", "loss": "0.5", "test_examples": "40", "unseen_accuracy": "0.25",
        "model": f"{1:064d}",
    }  # fmt: skip
    assert {key: rows[0][key] for key in expected} == expected
    assert (rows[1]["accuracy"], rows[1]["unseen_accuracy"]) == ("", "")


def test_an_agent_of_a_round_is_a_row(make_round):
    """Also one that was missing, and with what it measured on its own data."""
    rows = agent_rows([make_round(1, 1, 3, source="agents", missing=["pi-02"])])
    told = [(r["agent"], r["took_part"], r["examples"], r["held_out_accuracy"]) for r in rows]
    assert told == [
        ("pi-01", "yes", 10, 0.25), ("pi-02", "no", None, None), ("pi-03", "yes", 30, None),
    ]  # fmt: skip


def test_a_figure_that_could_not_be_computed_is_empty(make_round):
    """Not the number that stands for it in JSON."""
    event = make_round(1, 1)
    values = {"accuracy": -sys.float_info.max, "loss": sys.float_info.max, "ece": 0.5}
    score = msgspec.structs.replace(event.metrics, values=values)
    (row,) = round_rows([msgspec.structs.replace(event, metrics=score)])
    assert (row["accuracy"], row["loss"], row["ece"]) == (None, None, 0.5)
