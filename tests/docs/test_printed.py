"""What commands print and write is what the reference says."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from generate import events, fields, json_output

ROOT = Path(__file__).resolve().parents[2]
EVENTS = {events.tag(kind): kind for kind in (*events.JOURNALED, *events.LIVE)}


@pytest.fixture
def run(flctl: Any, tmp_path: Path) -> Path:
    """Folder of a run of two simulated agents, with its lines of JSON in `lines.json`."""
    done = flctl("train", "--task", "ecg", "--virtual", 2, "--rounds", 2, "--compression", "topk",
                 "--save-model", tmp_path / "model.safetensors", "--json")  # fmt: skip
    assert done.code == 0, done.err
    (folder,) = (tmp_path / "state/runs").iterdir()
    (tmp_path / "lines.json").write_text(done.out)
    return folder


def undocumented(found: Any, kind: type[msgspec.Struct], also: Mapping[str, str]) -> set[str]:
    """Names that neither the struct, nor its further fields, nor `also` have."""
    known = {each.name for each in fields.fields(kind)} | also.keys() | json_output.further(kind)
    return found.keys() - known


def check(command: str, out: str) -> None:
    answer = json_output.ANSWERS[command]
    found, also = json.loads(out), answer.get("also", {})
    assert found, "nothing to compare"
    for each in found if isinstance(found, list) else [found]:
        if "of" in answer:
            assert not undocumented(each, fields.struct(answer["of"]), also), command
        else:
            assert each.keys() <= also.keys(), command


def test_events_and_the_last_line(run: Path, tmp_path: Path):
    *told, last = map(json.loads, (tmp_path / "lines.json").read_text().splitlines())
    assert last.keys() <= json_output.ANSWERS["flctl train"]["also"].keys()
    beside = {"event", "run", "seq", "head", "updates"}
    for event in told:
        known = {each.name for each in fields.fields(EVENTS[event["event"]])}
        assert event.keys() <= known | beside, event["event"]
    for line in (run / "journal.jsonl").read_text().splitlines():
        event = json.loads(line)
        known = {each.name for each in fields.fields(EVENTS[event["event"]])}
        assert event.keys() <= known | {"event", "chain"}, event["event"]


def test_commands_about_a_run(run: Path, tmp_path: Path, flctl: Any):
    model = tmp_path / "model.safetensors"
    check("flctl runs list", flctl("runs", "list", "--json").out)
    check("flctl runs show", flctl("runs", "show", run.name, "--json").out)
    check("flctl runs verify", flctl("runs", "verify", run.name, "--json").out)
    check("flctl runs replay", flctl("runs", "replay", run.name, "--json").out)
    for more in (("csv", "--out", tmp_path / "t.csv"), ("pt", "--out", tmp_path / "m.pt")):
        out = flctl("runs", "export", run.name, "--format", *more, "--json").out
        check("flctl runs export", out)
    check(
        "flctl runs plot",
        flctl("runs", "plot", run.name, "--out", tmp_path / "p.png", "--json").out,
    )
    check("flctl evaluate", flctl("evaluate", model, "--json").out)
    data = tmp_path / "beats.csv"
    data.write_text("".join(",".join(["0.5"] * 187) + "\n" for _ in range(3)))
    check("flctl predict", flctl("predict", model, data, "--json").out)


def test_commands_about_data_and_tasks(tmp_path: Path, flctl: Any):
    shares = tmp_path / "shares"
    split = flctl("data", "split", "--task", "ecg", "--agents", 2, "--out", shares, "--json").out
    check("flctl data split", split)
    check("flctl data describe", flctl("data", "describe", "--task", "ecg", "--json").out)
    check("flctl data verify", flctl("data", "verify", shares, "--json").out)
    check("flctl tasks list", flctl("tasks", "list", "--json").out)
    check("flctl version", flctl("version", "--json").out)


def test_commands_about_keys(tmp_path: Path, flctl: Any):
    flctl("keys", "new", tmp_path / "a.key")
    flctl("keys", "add", "alice", tmp_path / "a.pub", "--role", "read")
    flctl("keys", "token")
    check("flctl keys list", flctl("keys", "list", "--json").out)
    check("flctl keys tokens", flctl("keys", "tokens", "--json").out)
    check("flctl health", flctl("health", "--json").out)
    check("flctl audit", flctl("audit", "--json").out)


def test_the_files_of_a_run_are_on_their_page(run: Path):
    page = (ROOT / "docs/reference/files.md").read_text()
    named = re.findall(r"^\| (`[^|]+) \|", page, re.MULTILINE)
    patterns = [
        re.sub("0007", r"\\d{4}", re.sub("pi-01", "[^/]+", re.escape(each).replace("\\-", "-")))
        for cell in named
        for each in re.findall(r"`([^`]+)`", cell)
    ]
    files = [str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()]
    assert len(files) > 6
    for file in files:
        assert any(re.match(pattern, file) for pattern in patterns), file
