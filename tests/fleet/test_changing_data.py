"""Files come and go while a run is trained on their folder: cameras and sensors do that."""

from collections.abc import Callable
from pathlib import Path

import pytest
from real_fleet import beats

from flctl.core.events import RoundCommitted
from flctl.core.history import History
from flctl.core.stream import Published
from flctl.fleet.driving import drive_local
from flctl.fleet.replay import replay
from flctl.fleet.virtual import VirtualRun
from flctl.terminal.lines import trouble_line

GIVEN = {"task": "ecg", "partition": "record", "batch_size": 16, "epochs": 1, "quorum": 0.5,
         "optimizer_args": {}, "fraction": 1.0}  # fmt: skip
Changes = dict[int, Callable[[], object]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "data"
    made.mkdir()
    for record in range(101, 105):
        put(made, record)
    return made


def put(folder: Path, record: int) -> Path:
    return beats(folder / f"{record}.npz", [record], each=40, seed=record)


def simulate(state: Path, folder: Path, rounds: int, changes: Changes) -> VirtualRun:
    """`changes`: by the number of the round that has been committed before."""

    def on_event(told: Published) -> None:
        if isinstance(told.event, RoundCommitted) and (change := changes.get(told.event.round)):
            change()

    given = {**GIVEN, "virtual": 3, "rounds": rounds, "data": str(folder)}
    run = VirtualRun.start(state, given, "the test", on_event)
    run.run()
    return run


def counts(event: RoundCommitted) -> int:
    return sum(part.examples for part in event.participants.values())


def digests(event: RoundCommitted) -> dict[str, str | None]:
    return {agent: part.data for agent, part in event.participants.items()}


def test_files_come_and_go_during_thirty_rounds(tmp_path: Path, folder: Path) -> None:
    """Each round takes what is there when it begins, and its record says what that was."""
    changes: Changes = {
        5: lambda: put(folder, 105),
        10: (folder / "101.npz").unlink,
        15: lambda: put(folder, 101),
        20: (folder / "105.npz").unlink,
    }
    run = simulate(tmp_path / "state", folder, 30, changes)
    rounds = run.folder.history().rounds
    assert (run.history.state, len(rounds)) == ("finished", 30), run.history.reason
    of = {event.round: digests(event) for event in rounds}
    assert [counts(rounds[at - 1]) for at in (5, 6, 10, 11, 16, 21)] == [
        104,
        130,
        130,
        104,
        130,
        104,
    ]
    assert of[1] == of[5] == of[21] == of[30] and of[16] == of[6] == of[10]
    assert len({str(found) for found in of.values()}) == 3
    assert [event.round for event in rounds if event.changed_data] == [6, 11, 16, 21]
    assert not run.folder.history().reproducible
    rows = replay(run.folder, {})
    assert [row.round for row in rows if not row.same] == [6]
    assert rows[-1].why.endswith("are missing or have changed: these are not its data")


def test_data_that_are_as_they_were_make_the_same_bytes(tmp_path: Path, folder: Path) -> None:
    """A run whose data did not change after its first round is replayed whole."""
    put(folder, 105)
    run = simulate(tmp_path / "state", folder, 4, {2: lambda: put(folder, 105)})
    assert all(row.same for row in replay(run.folder, {}))
    assert run.folder.history().reproducible


def test_a_resume_with_other_data_says_so(tmp_path: Path, folder: Path) -> None:
    """At its first round, once: the run goes on, and is not reproducible from there on."""

    def on_event(told: Published) -> None:
        if isinstance(told.event, RoundCommitted):
            raise KeyboardInterrupt

    given = {**GIVEN, "virtual": 3, "rounds": 3, "data": str(folder)}
    run = VirtualRun.start(tmp_path / "state", given, "the test", on_event)
    with pytest.raises(KeyboardInterrupt):
        run.run()
    beats(folder / "101.npz", [101], each=32, seed=101)
    told: list[Published] = []
    history = VirtualRun(run.folder, told.append).run()
    assert (history.state, history.round) == ("finished", 3)
    assert [text for text in map(trouble_line, told) if text] == [
        "round 2: the data of pi-01, pi-02, pi-03 have changed: a replay ends here"
    ]
    assert not run.folder.history().reproducible


def test_half_a_file_does_not_end_a_run(tmp_path: Path, folder: Path) -> None:
    """It is left out until it is whole."""
    whole = put(folder, 106).read_bytes()
    (folder / "106.npz").unlink()
    changes: Changes = {
        1: lambda: (folder / "106.npz").write_bytes(whole[: len(whole) // 2]),
        2: lambda: (folder / "106.npz").write_bytes(whole),
    }
    run = simulate(tmp_path / "state", folder, 4, changes)
    rounds = run.folder.history().rounds
    assert [counts(event) for event in rounds] == [104, 104, 130, 130], run.history.reason
    assert digests(rounds[0]) == digests(rounds[1])


def test_an_agent_without_data_is_left_out(tmp_path: Path, folder: Path) -> None:
    """Two records for three agents: two go on, the record says who did not; then all do again."""

    def remove() -> None:
        for record in (101, 102):
            (folder / f"{record}.npz").unlink()

    run = simulate(tmp_path / "state", folder, 4, {1: remove, 3: lambda: put(folder, 101)})
    rounds: list[RoundCommitted] = run.folder.history().rounds
    assert [len(event.participants) for event in rounds] == [3, 2, 2, 3], run.history.reason
    assert rounds[1].missing == ("pi-03",) and not rounds[3].missing


def test_a_folder_that_is_emptied_pauses_the_run_in_one_sentence(
    tmp_path: Path, folder: Path
) -> None:
    """There is nothing to train on for any agent; the run goes on when there is again."""

    def remove() -> None:
        for file in folder.iterdir():
            file.unlink()

    run = simulate(tmp_path / "state", folder, 3, {1: remove})
    assert (
        run.history.state == "paused" and "no heartbeat files in this folder" in run.history.reason
    )
    put(folder, 101)
    history: History = VirtualRun(run.folder).run()
    assert (history.state, history.round) == ("finished", 3)


def test_local_agents_take_what_is_there(tmp_path: Path, folder: Path) -> None:
    """Processes of their own: what they declared is declared again before an update is offered."""
    changes: Changes = {2: lambda: put(folder, 105), 4: (folder / "104.npz").unlink}

    def on_event(told: Published) -> None:
        if isinstance(told.event, RoundCommitted) and (change := changes.get(told.event.round)):
            change()

    given = {**GIVEN, "local": 2, "rounds": 6, "data": str(folder), "deadline_s": 60.0}
    result = drive_local(tmp_path / "state", given, "the test", on_event)
    assert (result.state, result.rounds) == ("finished", 6), result.reason
    events = (tmp_path / "state" / "runs" / result.run / "journal.jsonl").read_text()
    assert '"changed_data":["' in events
    assert '"rejected"' not in events and '"attempt"' not in events.replace('"attempt":', "")
