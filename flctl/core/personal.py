"""What every way to personalise a model shares: its settings, and which tensors it changes."""

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from msgspec import to_builtins
from msgspec.structs import replace

from flctl.core.events import AgentPersonalised, PersonalisingBegan
from flctl.core.history import History
from flctl.core.metrics import metrics_of
from flctl.errors import SettingsError, UsageError
from flctl.settings import KEYS, LocalTraining, RunSettings, normalised, parse
from flctl.wire.messages import MeasuredPart, Measures, Metrics, Sums


def personal_training(settings: RunSettings) -> LocalTraining:
    """The training of a round, in whole epochs and without what is for the average's sake."""
    return replace(
        settings.local_training(1),
        epochs=settings.personal_epochs,
        lr=settings.personal_lr or settings.lr,
        federate_after_n_batches=None,
        proximal_mu=0.0,
        compression="none",
    )


ORDERED = ("personal_epochs", "personal_lr", "personal_tensors", "deadline_s", "wait_s", "jobs")
"""Settings that an order to personalise a finished run may change."""


def as_ordered(settings: RunSettings, changes: Mapping[str, Any]) -> RunSettings:
    """`settings` of a run with these changes. Raises SettingsError."""
    where = "the order to personalise"
    plain = normalised(changes, where)
    if fixed := sorted(plain.keys() - set(ORDERED)):
        raise SettingsError(f"{where}: {fixed[0]} cannot differ from the run")
    kept = {key: value for key in KEYS if (value := getattr(settings, key)) is not None}
    return parse({**to_builtins(kept), **plain}, where)


def begun(
    history: History,
    settings: RunSettings,
    at: float,
    agents: Sequence[str] = (),
    round_id: int | None = None,
) -> PersonalisingBegan:
    """The event that begins to personalise the model of a round, None: of the best one, else of the
    last. Raises UsageError."""
    if history.state != "finished" or not history.rounds or history.made_by:
        state = "made by an older flctl" if history.made_by else history.state
        raise UsageError(f"the run is {state}: only a finished run can be personalised")
    best = history.best
    number = round_id or (history.round if best is None else best.round)
    return PersonalisingBegan(
        at=at,
        number=history.personalisings + 1,
        round=number,
        model=history.model_of(number),
        training=personal_training(settings),
        tensors=settings.personal_tensors,
        agents=tuple(agents),
        deadline_s=settings.deadline_s,
        wait_s=settings.wait_s,
    )


def personalised(
    began: PersonalisingBegan,
    agent: str,
    epochs: int,
    found: Mapping[str, Mapping[MeasuredPart, Sums]],
    measures: Measures,
    at: float,
) -> AgentPersonalised:
    """The event of an agent that has done it; `found` are the sums of each model, by part. What it
    keeps of them are the figures."""

    def figures(sums: Mapping[MeasuredPart, Sums]) -> dict[MeasuredPart, Metrics]:
        return {part: replace(metrics_of(each, measures), counts={}) for part, each in sums.items()}

    return AgentPersonalised(
        at=at,
        number=began.number,
        round=began.round,
        agent=agent,
        kept=epochs > 0,
        epochs=epochs,
        shared=figures(found["shared"]),
        own=figures(found["own"]) if epochs else {},
        primary=measures.chooses,
    )


def matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def unmatched(patterns: Sequence[str], names: Collection[str]) -> str:
    """Problem with patterns that match none of the parameters `names`; empty if there is none."""
    for pattern in patterns:
        if not any(matches(name, [pattern]) for name in names):
            near = difflib.get_close_matches(pattern, names, n=1, cutoff=0.5)
            known = ", ".join(sorted(names)[:8]) + (" …" if len(names) > 8 else "")
            hint = f"did you mean '{near[0]}'?" if near else f"there are {known}"
            return f"tensors: '{pattern:.80}' matches no parameter of the model; {hint}"
    return ""
