"""What a run's events add up to for somebody who watches: pure, with the time passed in."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flctl.core.history import best_round
from flctl.wire.messages import TRAINING

NEWS = ("opened", "update", "agent-here", "attempt", "round", "waiting")
"""After these it shows anew whether a round waits for agents."""
RECENT = 5
"""Rounds whose mean length the estimate of the time left rests on."""


@dataclass
class Doing:
    """One agent in the round that is open."""

    state: str = "waiting"
    """waiting, training, done, rejected, failed, retrying, lost"""
    step: int = 0
    steps: int = 0
    loss: float | None = None
    examples: int | None = None
    note: str = ""


@dataclass
class RoundLine:
    """A committed round."""

    round: int
    seconds: float
    agents: int
    metrics: Mapping[str, Any] | None
    missing: tuple[str, ...] = ()


@dataclass
class Story:
    """Apply every event in order; the fields say how things stand."""

    now: float
    """When watching began, in seconds by a steady clock."""
    run: str = ""
    task: str = ""
    rounds: int = 0
    expected: int = 0
    """Agents that are named for the run; 0: whoever is there."""
    open_round: int = 0
    attempt: int = 1
    agents: dict[str, Doing] = field(default_factory=dict)
    done: list[RoundLine] = field(default_factory=list)
    message: str = ""
    """What holds the run up just now; empty when nothing does."""
    waits_until: float | None = None
    """When the wait for agents ends; None while there is none."""
    before: int = 0
    """Rounds that were committed before watching began."""
    ended: str = ""
    """paused, failed, stopped or finished."""

    def __post_init__(self) -> None:
        self.began = self.round_began = self.now

    def apply(self, event: Mapping[str, Any], now: float) -> None:
        """Unknown events are passed over: a newer coordinator may send more."""
        self.now = now
        if self.waits_until is not None and event.get("event") in NEWS:
            self.message, self.waits_until = "", None
        match event.get("event"):
            case "begun":
                self.run = event.get("run", self.run)
                self.before = max(self.before, event.get("round") or 0)
                self.rounds = event.get("rounds", self.rounds)
                self.task = event.get("task", self.task)
                self.expected = len(event.get("agents") or ())
            case "waiting":
                self.message = f"waiting for agents: {event.get('missing') or ''}".rstrip(": ")
                left_s = event.get("left_s")  # an older coordinator does not say it
                self.waits_until = math.inf if left_s is None else now + left_s
            case "opened":
                self._open(event)
            case "progress":
                self._progress(event)
            case "update":
                doing = self._agent(event)
                doing.state, doing.loss, doing.examples = "done", event["loss"], event["examples"]
                doing.step = doing.steps = event.get("batches", doing.steps)
            case "rejected" | "agent-failed" | "agent-lost" | "agent-here":
                self._trouble(event)
            case "attempt":
                self.message = f"attempt {event['attempt']} failed: {event['reason']}"
            case "round":
                self._commit(event)
            case "withdrawn":
                self.done = [line for line in self.done if line.round <= event["round"]]
                self.message = (
                    f"{event['reason']}; the rounds after round {event['round']} are done again"
                )
            case "paused" | "failed" | "stopped" | "finished" as ended:
                self.ended = ended
                self.message = event.get("reason") or ""

    @property
    def last_round(self) -> int:
        """Of those that were told; `reached` also knows of those before."""
        return self.done[-1].round if self.done else 0

    @property
    def reached(self) -> int:
        return max(self.last_round, self.before)

    @property
    def best(self) -> RoundLine | None:
        """Of those that were evaluated on data for testing."""
        losses = {
            line.round: float(line.metrics["loss"])
            for line in self.done
            if line.metrics and not on_training_data(line.metrics)
        }
        best = best_round(losses)
        return next((line for line in self.done if line.round == best), None)

    @property
    def accuracies(self) -> list[float]:
        return [_accuracy(line) for line in self.done if line.metrics]

    def share_done(self) -> float:
        """Of the whole run, in [0, 1]; the open round counts by its agents' steps."""
        if not self.rounds:
            return 0.0
        parts = [a.step / a.steps if a.steps else 0.0 for a in self.agents.values()]
        within = sum(parts) / len(parts) if parts and self.open_round > self.reached else 0.0
        return min((self.reached + within) / self.rounds, 1.0)

    def time_left(self, now: float) -> float | None:
        """In seconds, from the last rounds; None before the first of them."""
        left = self.rounds - self.reached
        if not self.done or left <= 0 or self.ended or self.waits_until is not None:
            return None
        recent = [line.seconds for line in self.done[-RECENT:]]
        mean = sum(recent) / len(recent)
        this = mean - (now - self.round_began)
        if this <= 0 and left == 1:
            return None  # it is late: nothing is known
        return mean * (left - 1) + max(this, 0.0)

    def _open(self, event: Mapping[str, Any]) -> None:
        again = event["round"] == self.open_round
        self.open_round, self.attempt = event["round"], event.get("attempt", 1)
        kept = self.agents if again else {}
        self.agents = {name: kept.get(name, Doing()) for name in event["invited"]}
        self.message = ""
        self.round_began = self.now

    def _progress(self, event: Mapping[str, Any]) -> None:
        doing = self._agent(event)
        doing.state, doing.note = "training", ""
        doing.step, doing.steps = event["step"], event["steps"]
        doing.loss = event.get("loss", doing.loss)

    def _trouble(self, event: Mapping[str, Any]) -> None:
        if event["agent"] not in self.agents:
            return
        doing = self._agent(event)
        match event["event"]:
            case "agent-here":
                if doing.state == "lost":
                    doing.state, doing.note = "waiting", ""
            case "agent-lost":
                if doing.state != "done":
                    doing.state, doing.note = "lost", event.get("reason", "")
            case "agent-failed":
                doing.state = "retrying" if event.get("retrying") else "failed"
                doing.note = f"{event.get('kind', 'error')}: {event.get('message', '')}"
            case "rejected":
                doing.state, doing.note = "rejected", event.get("reason", "")

    def _commit(self, event: Mapping[str, Any]) -> None:
        if event["round"] <= self.last_round:
            return  # told again after the coordinator was away
        people = event.get("participants") or ()
        self.done.append(
            RoundLine(
                round=event["round"],
                seconds=event["seconds"],
                agents=len(people),
                metrics=event.get("metrics"),
                missing=tuple(event.get("missing") or ()),
            )
        )
        self.round_began = self.now

    def _agent(self, event: Mapping[str, Any]) -> Doing:
        return self.agents.setdefault(event["agent"], Doing())


def on_training_data(metrics: Mapping[str, Any]) -> bool:
    """Whether they are figures on what the model has learnt."""
    return str(metrics.get("part", "")).startswith(TRAINING)


def _accuracy(line: RoundLine) -> float:
    return float(line.metrics["accuracy"]) if line.metrics else 0.0
