"""What the events of a run add up to."""

import math
import sys
import tracemalloc

import msgspec
import pytest

from flctl.core import events as happened
from flctl.core.events import Participant, Score
from flctl.core.history import History, best_round
from flctl.core.randomness import Seeding
from flctl.errors import StateError
from flctl.settings import SCHEMA, LocalTraining
from flctl.wire.messages import Metric, Metrics

WORST = -sys.float_info.max
"""What stands for a figure that could not be computed."""
A, B, C = ("a" * 64, "b" * 64, "c" * 64)


def started() -> happened.RunStarted:
    return happened.RunStarted(
        at=1.0,
        schema=SCHEMA,
        run="ecg-1",
        kind="fleet",
        model=A,
        size=100,
        task_digest=C,
        version="1.0",
        machine="x86_64",
    )


def opened(round_id=1, base=A, attempt=1) -> happened.RoundOpened:
    return happened.RoundOpened(
        at=2.0, round=round_id, attempt=attempt, base=base, invited=("x", "y"), need=1
    )


def test_journals_that_know_nothing_of_compression_are_read():
    """Lines of a version before it: no bytes up, no error."""
    line = msgspec.json.decode(msgspec.json.encode(committed()))
    del line["participants"]["x"]["bytes_up"], line["participants"]["x"]["compression_error"]
    (part,) = msgspec.convert(line, happened.AnyEvent).participants.values()
    assert (part.bytes_up, part.compression_error) == (0, 0.0)
    older = msgspec.json.decode(msgspec.json.encode(update()))
    del older["compression_error"]
    assert msgspec.convert(older, happened.AnyEvent) == update()


def update(agent="x", round_id=1, batches=4, exhausted=False) -> happened.UpdateStored:
    return happened.UpdateStored(
        at=3.0,
        round=round_id,
        agent=agent,
        blob=B,
        size=100,
        examples=30,
        batches=batches,
        loss=0.5,
        last_loss=0.4,
        exhausted=exhausted,
        seconds=1.5,
    )


def committed(round_id=1, model=B, agents=("x",), loss=0.5, batches=4) -> happened.RoundCommitted:
    score = None
    if loss is not None:
        own = Metrics(values={"loss": loss}, examples=9)
        test = {"loss": -loss}  # is measured, never chosen by
        score = Score(values=test, examples=9, source="coordinator", validation=own)
    return happened.RoundCommitted(
        at=4.0,
        round=round_id,
        attempt=1,
        model=model,
        size=100,
        seconds=2.0,
        participants={
            a: Participant(examples=30, batches=batches, loss=0.5, last_loss=0.4, seconds=1.5)
            for a in agents
        },
        metrics=score,
    )


def history(*events: happened.AnyEvent) -> History:
    made = History()
    for event in (started(), *events):
        made.apply(event)
    return made


def test_a_run_begins_at_round_zero_with_its_first_model():
    """That is what round 1 starts from."""
    fresh = history()
    assert (fresh.round, fresh.base, fresh.state, fresh.best) == (0, A, "running", None)


def test_a_journal_without_its_start_has_no_model():
    """It is an error in words, not an AttributeError."""
    with pytest.raises(StateError, match="does not begin with the start"):
        _ = History().base


def test_an_open_round_keeps_what_was_accepted():
    """A restarted coordinator goes on in the same round with the same updates."""
    made = history(opened(), update("x"), update("y"))
    assert made.opened is not None and made.opened.invited == ("x", "y")
    assert set(made.accepted) == {"x", "y"}


def test_a_round_that_opens_again_keeps_its_updates():
    """A new attempt is the same round: nobody trains twice."""
    assert set(history(opened(), update("x"), opened(attempt=2)).accepted) == {"x"}


def test_an_update_that_comes_twice_counts_once():
    """The second one took the first one's file."""
    made = history(opened(), update("x", batches=4), update("x", batches=5))
    assert made.accepted["x"].batches == 5 and len(made.accepted) == 1


def test_a_commit_moves_on():
    """The new model is the base of the next round; the spool is forgotten."""
    made = history(opened(), update("x"), committed())
    assert (made.round, made.base, made.opened, made.accepted) == (1, B, None, {})


def test_positions_count_batches_of_committed_rounds_only():
    """What was trained for a round that did not commit is trained again, on the same data."""
    made = history(opened(), update(), committed(batches=4))
    made.apply(opened(2, B))
    made.apply(update(round_id=2, batches=7))
    assert made.positions == {"x": 4}
    made.apply(committed(2, C, batches=7))
    assert made.positions == {"x": 11}


def test_exhausted_agents_are_those_of_committed_updates():
    """An agent whose update came too late has not used up its data."""
    made = history(opened(), update("x", exhausted=True), update("y", exhausted=True))
    assert made.exhausted == set()
    made.apply(committed(agents=("x",)))
    assert made.exhausted == {"x"}


def test_the_best_round_has_the_smallest_loss():
    """The earlier one of two equals; rounds that nobody evaluated do not count."""
    made = history()
    base = A
    for round_id, loss in enumerate([None, 0.7, 0.3, 0.3, 0.9], start=1):
        model = f"{round_id:064x}"
        made.apply(opened(round_id, base))
        made.apply(committed(round_id, model, loss=loss))
        base = model
    assert made.best is not None and made.best.round == 3


@pytest.mark.parametrize(
    ("rounds", "best"),
    [
        ([(300, 0.69), (200, 0.93), (300, 0.70)], 3),
        ([(300, 0.69), (200, 0.93), (200, 0.95)], 1),
        ([(200, 0.93), (300, 0.69), (300, 0.68)], 2),
        ([(300, 0.69), (290, 0.71), (300, 0.70)], 2),
        ([(100, 0.9), (104, 0.8), (104, 0.85), (112, 0.7)], 4),
        ([(100, 0.9), None, (100, 0.9), (102, 0.91)], 4),
        ([None, (300, math.nan), (300, 0.1)], 3),
        ([(300, WORST), (200, 0.1), (400, WORST)], 2),
        ([(300, WORST), (300, WORST)], None),
        ([None, None], None),
    ],
    ids=[
        "without the rare classes a model looks better",
        "also to the end",
        "with more agents it looks worse",
        "few examples fewer",
        "data that grow",
        "not every round is measured",
        "not a number",
        "defined once, on fewer examples",
        "never defined",
        "never measured",
    ],
)
def test_rounds_are_compared_on_nearly_the_same_examples(rounds, best):
    """(validation examples, accuracy) of each round, and the best one."""
    accuracy = Metric("accuracy")
    scores = {
        number: None
        if found is None
        else Score(
            examples=500,
            values={"accuracy": 0.5},
            source="coordinator",
            validation=Metrics(examples=found[0], values={"accuracy": found[1]}),
            primary=accuracy,
        )
        for number, found in enumerate(rounds, start=1)
    }
    assert best_round(scores) == best
    before = None
    for last in range(1, len(rounds) + 1):
        now = best_round({number: scores[number] for number in range(1, last + 1)})
        assert now in (before, last), "any other round's model may be gone"
        before = now


@pytest.mark.parametrize(
    ("event", "state", "reason"),
    [
        (happened.RunPaused(at=9.0, reason="disk full"), "paused", "disk full"),
        (happened.RunFinished(at=9.0), "finished", ""),
        (happened.RunFailed(at=9.0, reason="bug"), "failed", "bug"),
        (happened.RunStopped(at=9.0, reason="by hand"), "stopped", "by hand"),
    ],
)
def test_a_run_ends_and_goes_on(event, state, reason):
    """The reason stays until the run is resumed; the open round stays open."""
    made = history(opened(), update("x"), event)
    assert (made.state, made.reason, made.updated_at) == (state, reason, 9.0)
    made.apply(happened.RunResumed(at=10.0))
    assert (made.state, made.reason) == ("running", "")
    assert set(made.accepted) == {"x"} and made.reproducible


def test_one_resume_on_another_machine_is_enough():
    """Later ones on the same machine do not make the run reproducible again."""
    made = history(happened.RunResumed(at=1.0, reproducible=False), happened.RunResumed(at=2.0))
    assert not made.reproducible


def test_the_last_rejection_of_an_agent_is_known():
    """For the person who asks why it is missing."""
    rejected = [
        happened.UpdateRejected(at=1.0, round=1, agent="x", reason=reason)
        for reason in ("NaN", "shape")
    ]
    assert history(opened(), *rejected).last_rejected == {"x": "shape"}


@pytest.mark.parametrize(
    ("events", "wrong"),
    [
        ([opened(2)], "'opened' of round 2 after round 0"),
        ([opened(1, B)], "'opened' of round 1 after round 0"),
        ([update()], "'update' of round 1 after round 0"),
        ([opened(), update(round_id=2)], "'update' of round 2 after round 0"),
        ([opened(), committed(), committed()], "'round' of round 1 after round 1"),
        ([opened(), committed(2)], "'round' of round 2 after round 0"),
    ],
)
def test_events_that_cannot_follow_each_other_are_refused(events, wrong):
    """A journal of another run, or one with a hole."""
    with pytest.raises(StateError, match=wrong):
        history(*events)


def test_every_event_survives_json():
    """What is written to the journal is what is read from it."""
    about = {"at": 1.0, "number": 1, "round": 1}
    figures = Metrics(examples=9, values={"accuracy": 0.5})
    events = [
        started(),
        opened(),
        update(),
        happened.UpdateRejected(at=1.0, round=1, agent="x", reason="NaN"),
        happened.AttemptFailed(at=1.0, round=1, attempt=1, reason="quorum"),
        committed(),
        happened.RoundsWithdrawn(at=1.0, round=0, reason="r"),
        happened.PauseOrdered(at=1.0, withdrawn=True),
        happened.RunPaused(at=1.0, reason="r"),
        happened.RunResumed(at=1.0, reproducible=False),
        happened.RunFinished(at=1.0),
        happened.RunFailed(at=1.0, reason="r"),
        happened.RunStopped(at=1.0),
        happened.PersonalisingBegan(**about, model=A, training=LocalTraining(), agents=("x",)),
        happened.AgentPersonalised(
            **about, agent="x", kept=True, epochs=2, shared={"test": figures}, own={"test": figures}
        ),
        happened.PersonalisingEnded(**about, without={"y": "away"}),
    ]
    for event in events:
        line = msgspec.json.encode(event)
        assert msgspec.json.decode(line, type=happened.AnyEvent) == event
    assert len(events) == len(happened.AnyEvent.__args__)


def test_a_number_that_json_does_not_have_would_not_be_read_back():
    """Why the journal refuses it, and why losses are checked before they get there."""
    line = msgspec.json.encode(committed(loss=math.nan))
    with pytest.raises(msgspec.ValidationError, match="got `null`"):
        msgspec.json.decode(line, type=happened.AnyEvent)


@pytest.mark.parametrize("lean", [False, True])
def test_withdrawn_rounds_are_as_if_they_had_never_been(lean):
    """Positions, exhausted data and what was accepted since are taken back with them."""
    once, twice = History(lean), History(lean)
    for made in (once, twice):
        for event in (started(), opened(), update(), committed()):
            made.apply(event)
    for event in (opened(2, B), update(round_id=2, exhausted=True), committed(2, C), opened(3, C)):
        twice.apply(event)
    twice.apply(happened.RoundsWithdrawn(at=9.0, round=1, reason="damaged"))
    assert (twice.round, twice.base, twice.positions) == (once.round, once.base, once.positions)
    assert twice.exhausted == once.exhausted and not twice.accepted and twice.opened is None
    with pytest.raises(StateError):
        twice.apply(happened.RoundsWithdrawn(at=9.0, round=1, reason="damaged"))


def test_a_lean_history_of_a_large_fleet_stays_small():
    """A round of 300 agents, of whom each was evaluated: of those before the last 6.5 kB stay."""
    names = [f"pi-{number:03}" for number in range(300)]
    values = {"loss": 0.5, "accuracy": 0.5, "macro_f1": 0.5}
    beside = {name: Metrics(values=values, examples=9) for name in names}
    counts = {"classes": ((5,) * 5,) * 5}
    own = Metrics(values=values, examples=9)
    score = Score(
        values=values, examples=9, source="agents", counts=counts, beside=beside, validation=own
    )
    whole = msgspec.structs.replace(committed(agents=names), metrics=score)
    events = [started(), *(msgspec.structs.replace(whole, round=n) for n in range(1, 101))]
    lean, full = History(lean=True), History()
    tracemalloc.start()
    for event in events:
        line = msgspec.json.encode(event)  # objects of its own, as a journal's
        lean.apply(msgspec.json.decode(line, type=happened.AnyEvent))
        if lean.round <= 1:
            whole_round = tracemalloc.get_traced_memory()[0]
    grown = tracemalloc.get_traced_memory()[0] - whole_round
    tracemalloc.stop()
    assert grown < 99 * 6_500
    for event in events:
        full.apply(event)
    assert lean.rounds[-1] == full.rounds[-1] and lean.positions == full.positions
    assert lean.best is not None and full.best is not None
    assert (lean.best.round, lean.best.model) == (full.best.round, full.best.model)


def test_a_repeated_order_has_the_same_number():
    """An attempt that is tried again, and an agent that has lost its state: the same seeding, so
    the same bytes. What did not count is not counted; rounds taken back give their numbers back."""
    made = history(opened())
    first = Seeding(7, "x", version=0, sequence=1, position=0)
    assert made.seeding("x", 7) == first
    made.apply(update())
    made.apply(opened(attempt=2))
    assert made.seeding("x", 7) == first
    made.apply(committed(agents=("x",)))
    assert made.seeding("x", 7) == Seeding(7, "x", version=1, sequence=2, position=4)
    assert made.seeding("y", 7) == Seeding(7, "y", version=1, sequence=1, position=0)
    assert made.seeding("x", 7).derive("train") != msgspec.structs.replace(
        made.seeding("x", 7), sequence=3
    ).derive("train")  # two updates of one base
    made.apply(opened(2, B))
    made.apply(committed(2, C))
    made.apply(happened.RoundsWithdrawn(at=9.0, round=1, reason="damaged"))
    assert made.seeding("x", 7) == Seeding(7, "x", version=1, sequence=2, position=4)
