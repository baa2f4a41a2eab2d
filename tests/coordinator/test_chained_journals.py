"""A journal that was changed is found: by its chain, or by a head that was kept elsewhere."""

import json
import logging
import re
import stat
from functools import partial
from pathlib import Path

import pytest
from memory_fleet import MemoryFleet
from test_operators import console

from flctl.coordinator.store.journal import verdict
from flctl.core.chain import Chain, split
from flctl.core.events import RunFinished
from flctl.core.stream import Published
from flctl.errors import StateError
from flctl.fleet import pages
from flctl.fleet.driving import watch_remote
from flctl.fleet.heads import Heads, kept
from flctl.fleet.virtual import VirtualRun
from flctl.terminal import chains
from flctl.terminal.finding import details


def recomputed(path: Path, old: bytes, new: bytes) -> None:
    """The journal with a change, and a chain that fits it."""
    chain, lines = Chain(), path.read_bytes().replace(old, new).splitlines()
    path.write_bytes(b"".join(chain.seal(split(line)[0]) + b"\n" for line in lines))


def watched(fleet: MemoryFleet, state: Path) -> tuple[str, Path]:
    """A run of two rounds that was watched from a machine with the folder `state`."""
    run = fleet.start_run(rounds=2)
    with console(fleet) as operator:
        watch_remote(operator, run, Heads(state).on_event)
    return run, fleet.state / "runs" / run / "journal.jsonl"


def test_who_watches_a_run_keeps_its_head(
    fleet: MemoryFleet, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """The one that the coordinator logs: after each commit and at the end, for its owner alone."""
    caplog.set_level(logging.INFO)
    run, journal = watched(fleet, tmp_path / "mine")
    head = json.loads(journal.read_bytes().splitlines()[-1])["chain"]
    seen = kept(tmp_path / "mine", run)
    assert seen is not None and (seen.head, seen.what) == (head, "finished")
    path = tmp_path / "mine" / "heads" / f"{run}.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    logged = [record.getMessage() for record in caplog.records if " head=" in record.getMessage()]
    assert len(logged) == 3 and logged[-1] == f"run={run} finished head={head}"
    assert verdict(journal).fault is None


def test_a_head_that_comes_with_the_past_is_kept_too(fleet: MemoryFleet, tmp_path: Path):
    """Of a run that was over before it was watched."""
    run = fleet.start_run(rounds=1)
    fleet.finish()
    with console(fleet) as operator:
        watch_remote(operator, run, Heads(tmp_path).on_event)
    seen = kept(tmp_path, run)
    assert seen is not None
    assert seen.head == verdict(fleet.state / "runs" / run / "journal.jsonl").head


def test_the_operator_checks_the_lines_for_itself(fleet: MemoryFleet, tmp_path: Path):
    """They come as bytes; a chain that was computed again does not have the head that was kept."""
    run, journal = watched(fleet, tmp_path)
    seen = kept(tmp_path, run)
    assert seen is not None
    with console(fleet) as operator:
        page = partial(operator.journal, run)
        found = pages.verify(page, "it", seen.head)
        assert (found.fault, found.kept_at) == (None, found.lines)
        recomputed(journal, b'"examples":', b'"examples":1')
        found = pages.verify(page, "it", seen.head)
        assert (found.fault, found.kept_at) == (None, None)
        fault = chains.report(found, "it", "it", None, seen, False)
        assert fault and re.search(r"kept here \(finished\).*is missing", fault)
        assert details(operator, run)[0]["chain"]["chained"] is True


def test_a_long_journal_comes_page_by_page(fleet: MemoryFleet, tmp_path: Path):
    """Lines that lie across two pages are whole."""
    _, journal = watched(fleet, tmp_path)
    whole = journal.read_bytes()
    for size in (1, 7, 1000, len(whole), len(whole) + 1):
        lines = pages.lines(lambda at, size=size: whole[at : at + size], "it")
        assert list(lines) == whole.splitlines(keepends=True)
    with pytest.raises(StateError, match=r"^it, line 2: "):
        list(pages.lines(lambda at: (b"{}\nx\n{}\n" + whole)[at : at + 9], "it"))


@pytest.mark.parametrize("name", ["../../keys/server", "", "x" * 99, "a/b"])
def test_the_name_of_a_run_is_no_path(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture):
    """A coordinator chooses it; a head that cannot be kept does not end the watching."""
    heads = Heads(tmp_path)
    heads.on_event(Published(name, RunFinished(at=1.0), head="a" * 64))
    assert list(tmp_path.rglob("*")) == []
    assert not name or "is not saved" in caplog.text


@pytest.fixture
def run(tmp_path: Path, flctl) -> Path:
    """The journal of a run of this machine."""
    given = {"task": "ecg", "virtual": 2, "rounds": 2, "federate_after_n_batches": 1}
    made = VirtualRun.start(tmp_path / "state", given, "the test")
    made.run()
    return made.folder.journal_path


def test_verify_show_and_replay_say_where_the_chain_breaks(run: Path, flctl):
    """A figure was changed in a line that is an event still."""
    name = run.parent.name
    done = flctl("runs", "verify", name)
    assert done.code == 0 and "lines as written" in done.out
    head = verdict(run).head
    assert head in flctl("runs", "show", name).out
    run.write_bytes(run.read_bytes().replace(b'"seconds":', b'"seconds":1', 1))
    at = verdict(run).broken_at
    for command in ("verify", "show", "replay"):
        done = flctl("runs", command, name)
        assert f"the chain breaks at line {at}" in " ".join((done.out + done.err).split())
        assert done.code == (1 if command == "verify" else 0)
    told = json.loads(flctl("runs", "verify", name, "--json").out)
    assert (told["broken_at"], told["fault"] is None) == (at, False)
    assert json.loads(flctl("runs", "replay", name, "--json").out)["chain"]["broken_at"] == at


def test_verify_with_a_head(run: Path, flctl):
    """One of any line vouches for all before it; a chain that was computed again has none."""
    name, lines = run.parent.name, run.read_bytes().splitlines()
    early, last = (json.loads(line)["chain"] for line in (lines[1], lines[-1]))
    assert (
        "line 2 has the head that was given" in flctl("runs", "verify", name, "--head", early).out
    )
    recomputed(run, b'"seconds":', b'"seconds":1')
    assert flctl("runs", "verify", name).code == 0
    assert flctl("runs", "verify", name, "--head", last).code == 1
    run.write_bytes(b"\n".join(lines[:-1]) + b"\n")  # cut off at the end
    done = flctl("runs", "verify", name, "--head", last)
    assert done.code == 1 and "lines were removed" in done.complaint
    assert flctl("runs", "verify", name, "--head", "abc").code == 2


def test_a_run_with_a_broken_chain_goes_on_and_says_so(run: Path, flctl):
    """Its models are checked by themselves; the break stays where it is."""
    lines = run.read_bytes().splitlines(keepends=True)
    kept_lines = [line for line in lines if b'"event":"finished"' not in line]
    run.write_bytes(b"".join(kept_lines).replace(b'"loss":', b'"loss":1', 1))
    at = verdict(run).broken_at
    done = flctl("train", "--resume", run.parent.name)
    assert done.code == 0 and f"breaks at line {at}" in " ".join(done.err.split())
    assert (verdict(run).broken_at, verdict(run).breaks) == (at, 1)


def test_a_journal_without_a_chain_is_called_so(run: Path, flctl):
    """As version 0.1 wrote it: it can be read, and cannot be verified."""
    run.write_bytes(b"".join(split(line)[0] + b"\n" for line in run.read_bytes().splitlines()))
    name = run.parent.name
    assert "not chained" in flctl("runs", "show", name).out
    done = flctl("runs", "verify", name)
    assert done.code == 1 and "not chained" in done.complaint
