"""A run's events, recorded, as somebody who watches sees them."""

import io

import pytest
from msgspec import structs
from rich.console import Console

from flctl.core.events import (
    AttemptFailed,
    Participant,
    RoundCommitted,
    RoundOpened,
    RunFinished,
    RunPaused,
    RunResumed,
    Score,
    UpdateRejected,
    UpdateStored,
)
from flctl.core.story import Story
from flctl.core.stream import (
    AgentCame,
    AgentFailed,
    AgentLost,
    AgentsAwaited,
    BatchTrained,
    Published,
    RunBegun,
)
from flctl.fleet.driving import RunResult
from flctl.formats import figure, span
from flctl.terminal import lines
from flctl.terminal.live import Dashboard, sparkline
from flctl.terminal.watching import LineWatcher
from flctl.wire.messages import Metrics

ALL = ("pi-01", "pi-02", "pi-03")


MODEL = "a" * 64


def opened(round_id, attempt=1, invited=ALL):
    return RoundOpened(
        at=1.0, round=round_id, attempt=attempt, base=MODEL, invited=tuple(invited), need=1
    )


def update(agent, round_id=1):
    return UpdateStored(
        at=1.0, round=round_id, agent=agent, blob=MODEL, size=9, examples=40, batches=4,
        loss=0.25, last_loss=0.25, exhausted=False, seconds=1.0,
    )  # fmt: skip


def rejected(agent, round_id=1):
    return UpdateRejected(at=1.0, round=round_id, agent=agent, reason="NaN")


def score(accuracy):
    values = {"loss": 1 - accuracy, "accuracy": accuracy, "macro_f1": accuracy / 2}
    own = Metrics(values=values, examples=3)
    return Score(values=values, examples=9, source="coordinator", validation=own)


def committed(round_id, accuracy=0.5, people=ALL, missing=()):
    part = Participant(examples=40, batches=4, loss=0.25, last_loss=0.25, seconds=1.0)
    return RoundCommitted(
        at=1.0, round=round_id, attempt=1, model=MODEL, size=9, seconds=2.0,
        missing=tuple(missing), participants=dict.fromkeys(people, part), metrics=score(accuracy),
    )  # fmt: skip


BEGUN = RunBegun(run="ecg-1", round=0, rounds=10, task="ecg")
PROGRESS = BatchTrained(round=1, agent="pi-01", step=1, steps=4, loss=0.5)


def published(event):
    return Published("ecg-1", event)


def told(*events):
    story = Story(0.0)
    for second, event in enumerate(events, start=1):
        story.apply(published(event), float(second))
    return story


def test_a_round_in_progress():
    """Each agent's state follows its last event; the share done counts its steps."""
    story = told(BEGUN, opened(1), PROGRESS, update("pi-02"))
    states = {name: doing.state for name, doing in story.agents.items()}
    assert states == {"pi-01": "training", "pi-02": "done", "pi-03": "waiting"}
    assert abs(story.share_done() - (0.25 + 1.0 + 0.0) / 3 / 10) < 1e-9
    assert story.time_left(5.0) is None


def test_time_left_is_that_of_the_last_rounds():
    """Nine rounds of two seconds are left, less what the open one has taken."""
    story = told(BEGUN, opened(1), committed(1))
    assert story.time_left(3.0) == 18.0
    assert story.time_left(4.0) == 17.0


def test_a_round_told_twice_counts_once():
    """After the coordinator was away its past comes again."""
    story = told(BEGUN, committed(1), committed(2, 0.75), committed(1), committed(2, 0.75))
    assert [line.round for line in story.done] == [1, 2]
    assert story.best is not None and story.best.round == 2


def test_a_new_attempt_keeps_who_is_done():
    """Agents whose update was accepted stay done when the round is tried again."""
    failed = AttemptFailed(at=1.0, round=1, attempt=1, reason="too few")
    story = told(BEGUN, opened(1), update("pi-02"), failed, opened(1, attempt=2))
    assert story.agents["pi-02"].state == "done"
    assert story.message == ""


def test_trouble_is_shown_at_the_agent():
    """Lost, failed and rejected agents say why; one that is back is waited for again."""
    lost = AgentLost(agent="pi-01", reason="silent for 30 s")
    died = AgentFailed(
        round=1, agent="pi-03", kind="worker died", message="signal 9", retrying=True
    )
    story = told(BEGUN, opened(1), lost, rejected("pi-02"), died)
    assert [(d.state, d.note) for d in story.agents.values()] == [
        ("lost", "silent for 30 s"), ("rejected", "NaN"), ("retrying", "worker died: signal 9"),
    ]  # fmt: skip
    story.apply(published(AgentCame(agent="pi-01")), 9.0)
    assert story.agents["pi-01"].state == "waiting"


def test_for_whom_a_round_waits_stands_there_with_the_time_that_is_left():
    """Instead of an estimate of the run, of which nothing is known then."""
    waiting = AgentsAwaited(round=2, ready=("pi-01",), needed=2, missing="pi-03: lost", left_s=60.0)
    story = told(BEGUN, opened(1), committed(1), opened(2), waiting)
    assert story.message == "waiting for agents: pi-03: lost"
    assert story.time_left(4.0) is None
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(Dashboard(story, lambda: story.now + 20.0))
    shown = console.file.getvalue()
    assert "waiting for agents: pi-03: lost, for 40 s more" in shown
    assert " left" not in shown
    story.apply(published(AgentCame(agent="pi-03")), 30.0)
    assert (story.message, story.waits_until) == ("", None)
    assert lines.trouble_line(published(waiting)) == (
        "round 2: waiting for agents: pi-03: lost; 1 of 2 needed are ready, for 1:00 at most"
    )


def test_the_last_round_that_is_late_has_no_estimate():
    """Nothing is 0.0 s away for minutes."""
    story = told(structs.replace(BEGUN, rounds=2), opened(1), committed(1), opened(2))
    assert story.time_left(4.0) == 2.0
    assert story.time_left(99.0) is None
    assert told(BEGUN, opened(1), committed(1), opened(2)).time_left(99.0) == 16.0


def test_a_run_that_is_resumed_begins_where_it_was():
    """Not at round 0, nor with an empty bar."""
    story = told(structs.replace(BEGUN, round=4))
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(Dashboard(story, lambda: story.now))
    assert "round 4/10" in console.file.getvalue()
    assert story.share_done() == 0.4


def drawn(story, height=24, width=100):
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True,
                      color_system=None)  # fmt: skip
    console.print(Dashboard(story, lambda: story.now), height=height)
    return console.file.getvalue().rstrip().splitlines()


def test_the_picture_tells_it_all():
    """Run, rounds, time left, every agent, figures and the best accuracy are in it."""
    story = told(BEGUN, committed(1), committed(2, 0.75), opened(3), update("pi-02", 3))
    picture = "\n".join(drawn(story))
    for words in ("ecg-1", "round 3/10", "about 15 s left", "pi-02  done", "0.7500",
                  "best round 2: least loss on validation, 0.2500   by round █▁"):  # fmt: skip
        assert words in picture


def test_the_picture_fits_the_terminal():
    """Of a hundred agents those are shown that have something to say; the rest is counted."""
    story = told(BEGUN, committed(1))
    many = [f"pi-{n:03}" for n in range(1, 101)]
    story.apply(published(opened(2, invited=many)), 2.0)
    story.apply(published(rejected("pi-077", 2)), 3.0)
    picture = drawn(story)
    assert len(picture) <= 24
    assert any("pi-077" in line for line in picture)
    assert any("more: " in line and "waiting" in line for line in picture)


def test_a_sparkline_spans_its_values():
    """The least value is the lowest bar, the greatest the highest, in at most that width."""
    assert sparkline([0.0, 0.5, 1.0], 10) == "▁▅█"
    assert sparkline([0.3, 0.3], 10) == "▁▁"
    long = sparkline([i / 99 for i in range(100)], 10)
    assert (len(long), long[-1]) == (10, "█")


def test_a_round_is_one_line():
    """In a pipe a round is one line, which names who was missing."""
    line = lines.round_line(committed(3, 0.75, ALL[:2], ALL[2:]), 10)
    assert line == (
        "round  3/10  on test:  loss 0.2500  accuracy 0.7500  macro-F1 0.3750  "
        "on validation: loss 0.2500  2 agents  2.0 s  without pi-03"
    )
    unmeasured = structs.replace(committed(3, people=ALL[:1]), metrics=None)
    assert lines.round_line(unmeasured, 10) == "round  3/10  1 agent  2.0 s"


def test_json_events():
    """A round lists its participants by name; progress only when asked for; ends are left out."""
    told_round = lines.as_json_event(Published("ecg-1", committed(1), 7), verbose=False)
    assert told_round is not None
    assert list(told_round)[:5] == ["event", "round", "seconds", "metrics", "participants"]
    assert told_round["participants"] == list(ALL)
    assert told_round["updates"]["pi-01"]["batches"] == 4
    assert (told_round["run"], told_round["seq"]) == ("ecg-1", 7)
    assert lines.as_json_event(published(PROGRESS), verbose=False) is None
    assert lines.as_json_event(published(PROGRESS), verbose=True) == {
        "event": "progress", "round": 1, "agent": "pi-01", "step": 1, "steps": 4, "loss": 0.5,
        "run": "ecg-1",
    }  # fmt: skip
    assert lines.as_json_event(published(RunFinished(at=1.0)), verbose=True) is None


def test_lengths_of_time():
    """As a person says them."""
    shown = [span(s) for s in (None, 0.84, 42.3, 187, 8140, 300000)]
    assert shown == ["-", "0.8 s", "42 s", "3:07", "2:15:40", "3 d"]


def test_the_loss_of_a_model_that_has_diverged_is_short():
    shown = [figure(x, 4) for x in (None, 0.5, 2e5, 1.8e307)]
    assert shown == ["-", "0.5000", "200000", "1.8e+307"]


def test_a_model_that_is_elsewhere_is_not_offered_as_if_it_were_here(capsys, tmp_path):
    """Of a coordinator far away, or of another user: there is a command that brings it."""
    here = tmp_path / "last.safetensors"
    here.touch()
    for checkpoint in (here, tmp_path / "far" / "last.safetensors"):
        watcher = LineWatcher()
        watcher.embedded, watcher.again = False, " --context ward"
        watcher.expect({"task": "ecg", "rounds": 1, "evaluate": "none"})
        watcher.finish(RunResult("ecg-1", "finished", "", 1, checkpoint, None), None)
    first, second = capsys.readouterr().out.splitlines()
    assert f"evaluate {here} --task ecg" in first
    assert "runs export ecg-1 --format safetensors --context ward" in second
    assert "evaluate" not in second


def test_a_run_that_is_taken_up_again_says_for_whom_it_waits(capsys):
    """Its past says that it was paused; that is over."""
    watcher = LineWatcher()
    watcher.on_event(published(BEGUN))
    for event in (
        RunPaused(at=1.0, reason="2 of 3 required agents ready", awaits=True),
        RunResumed(at=2.0, reproducible=True),
        AgentsAwaited(ready=ALL[:2], needed=3, missing="pi-03: lost", left_s=60.0),
    ):
        watcher.on_event(published(event))
    assert not watcher.story.ended
    said = capsys.readouterr().err
    assert "waiting for agents: pi-03: lost; 2 of 3 needed are ready, for 1:00 at most" in said


def test_the_best_model_is_named_where_it_is_not_the_last(capsys, tmp_path):
    """And how to have it, where it is with the coordinator."""
    last, best = tmp_path / "last.safetensors", tmp_path / "best.safetensors"
    last.touch()
    best.touch()
    for round_id, path in ((5, best), (9, best), (5, tmp_path / "far" / "best.safetensors")):
        watcher = LineWatcher()
        watcher.finish(RunResult("ecg-1", "finished", "", 9, last, None, (round_id, path)), None)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("best")]
    far = f"best: round 5, {tmp_path}/far/best.safetensors; get it with: "
    assert said[0] == f"best: round 5, {best}" and len(said) == 2
    assert said[1].startswith(far) and said[1].endswith(
        "runs export ecg-1 --format safetensors --which best"
    )


def test_ctrl_c_while_a_coordinator_begins_the_run(capsys):
    """Nobody says that it was stopped: the coordinator has the order, and goes on with it."""
    watcher = LineWatcher()
    watcher.embedded, watcher.again = False, " --context ward"
    with pytest.raises(KeyboardInterrupt), watcher:
        raise KeyboardInterrupt
    said = capsys.readouterr().err
    assert "stopped before" not in said
    assert "it continues" in said
    assert "runs list --context ward" in said and "runs stop RUN --context ward" in said
    with pytest.raises(KeyboardInterrupt), LineWatcher():
        raise KeyboardInterrupt
    assert "stopped before the run began" in capsys.readouterr().err
