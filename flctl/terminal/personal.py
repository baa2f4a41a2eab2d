"""`flctl personalise`, and the table of what a model of its own gives each agent."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flctl.coordinator.store.folder import RunFolder
from flctl.coordinator.store.runs import LocalRuns
from flctl.core.events import AgentPersonalised, PersonalisingBegan, PersonalisingEnded
from flctl.core.history import History
from flctl.core.metrics import computed, labels
from flctl.core.stream import BatchTrained, Published
from flctl.errors import RunError, UsageError
from flctl.extras import needs_torch
from flctl.fleet.console import RemoteRuns
from flctl.formats import counted, few
from flctl.learning.whole import round_model
from flctl.terminal import output
from flctl.terminal.agents import EXAMPLES, show_agents
from flctl.terminal.checkpoints import expect_task
from flctl.terminal.finding import connected
from flctl.terminal.lines import trouble_line
from flctl.terminal.patience import waiting

Show = Callable[[Published], None]
Personal = Mapping[str, AgentPersonalised]
"""By agent."""


class PersonalOrder(NamedTuple):
    state: Path
    context: str | None
    again: str
    """Options that a suggested command needs to find the run."""
    run: str
    """Name of a run, or the path of one of its models."""
    which: str
    agents: tuple[str, ...]
    where: Sequence[str]
    """Requirements for the agents' labels."""
    changes: dict[str, Any]
    task: str | None


def personalise(order: PersonalOrder, as_json: bool) -> bool:
    """Carry the order out and print what came of it; whether all agents have done it."""
    told: list[Published] = []

    def on_event(event: Published) -> None:
        told.append(event)
        if as_json and not isinstance(event.event, BatchTrained):
            output.print_json(event.plain(), indent=False)
        elif not as_json and (text := trouble_line(event)):
            output.warn(text)

    try:
        with waiting("the agents personalise the model"):
            run, history = drive(order, on_event)
    except KeyboardInterrupt:
        begun = next((each.run for each in told), None)
        if begun is not None:
            show_again = f"{output.program()} runs show {begun}{order.again}"
            output.warn(f"interrupted; see which agents have a model of their own: {show_again}")
        raise
    last = {e.event.agent for e in told if isinstance(e.event, AgentPersonalised)}
    personal = {agent: history.personal[agent] for agent in sorted(last)}
    if as_json:
        end = {"event": "end", "run": run, "agents": sorted(last), "without": history.without}
        output.print_json(end, indent=False)
    else:
        again = f"{output.program()} personalise {run}{order.again}"
        show(personal, history.without, again)
    return not history.without and bool(personal)


def drive(order: PersonalOrder, show: Show) -> tuple[str, History]:
    """The run's name and history after it. Raises FlctlError; Ctrl-C ends it where the agents are
    simulated here, else the watching alone."""
    with connected(order.state, order.context, order.run) as runs:
        run, number = _chosen(order, runs)
        asked = {"agents": order.agents, "round": number, "changes": order.changes}
        given = {key: value for key, value in asked.items() if value not in ((), None, {})}
        if runs.here:
            folder = RunFolder.find(order.state, run)
            started = folder.history(lean=True).started
            if started is not None and started.kind != "fleet":
                if order.where:
                    raise UsageError("--where: only the agents of a fleet have labels")
                expect_task(folder, order.task)
                return run, _here(folder, given, show)
        if isinstance(runs, LocalRuns):
            raise UsageError(
                f"run {run}: it belongs to a fleet, and no coordinator runs on {runs.where}"
            )
        if order.where:
            given["agents"] = _chosen_by_label(order, runs, run)
        name, session = runs.personalise(run, **given)
        _follow(runs, name, session, show)
        return name, History.of(runs.events(name))


def _chosen_by_label(order: PersonalOrder, runs: RemoteRuns, run: str) -> tuple[str, ...]:
    """Those with the labels that may train on data for the task, if that is known. Raises
    UsageError."""
    if order.agents:
        raise UsageError("--agents and --where exclude each other; choose one")
    task = runs.about(run)["task"]
    found = tuple(
        agent["name"]
        for agent in runs.status(order.where)["agents"]
        if agent["role"] != "evaluate"
        and (not agent["datasets"] or any(each["task"] == task for each in agent["datasets"]))
    )
    if not found:
        raise UsageError(f"--where {' '.join(order.where)}: no agent has data for task {task}")
    return found


def _here(folder: RunFolder, order: Mapping[str, Any], show: Show) -> History:
    needs_torch("to train on this machine")
    from flctl.fleet.personal_here import PersonalHere

    return PersonalHere(folder, show, order=order).run()


def _follow(runs: RemoteRuns, run: str, session: int, show: Show) -> None:
    begun = False
    for told in filter(None, runs.watch(run)):
        event = told.event
        if isinstance(event, PersonalisingBegan):
            begun = event.number == session
        if begun:
            show(told)
        if begun and isinstance(event, PersonalisingEnded):
            if event.reason:
                raise RunError(f"run {run} cannot be personalised: {event.reason}")
            return


def _chosen(order: PersonalOrder, runs: LocalRuns | RemoteRuns) -> tuple[str, int | None]:
    """The run, and the round whose model is meant; None: the best one."""
    path = Path(order.run)
    if path.is_file():
        return _of_file(path, runs)
    about = runs.about(order.run)
    if order.which == "best":
        return about["run"], None
    if order.which == "last":
        return about["run"], about["round"]
    if not (order.which.isascii() and order.which.isdigit() and int(order.which)):
        raise UsageError(f"--which {order.which}: it is best, last or the number of a round")
    if int(order.which) > about["round"]:
        raise UsageError(f"--which {order.which}: the run ends with round {about['round']}")
    return about["run"], int(order.which)


def _of_file(path: Path, runs: LocalRuns | RemoteRuns) -> tuple[str, int]:
    digest = round_model(path)
    for about in reversed(runs.look().summaries):
        history = History.of(runs.events(about["run"]))
        for event in reversed(history.rounds):
            if event.model == digest:
                return about["run"], event.round
    raise UsageError(f"{path}: not a model of any run in {runs.where}")


# The table ---------------------------------------------------------------------------------


def show(personal: Personal, without: Mapping[str, str], again: str = "") -> None:
    """Each agent's figures, then those that have none; `again`: a command that asks these."""
    tested = {agent: event for agent, event in personal.items() if "test" in event.shared}
    if tested:
        primary = next(iter(tested.values())).primary
        names = [primary.name, *({"accuracy"} - {primary.name})]
        there = labels(event.shared["test"] for event in tested.values())
        heads = {EXAMPLES: EXAMPLES}
        for name in (name for name in names if name in there):
            heads |= {name: there[name], f"own {name}": "own"}
        show_agents(
            "on its later data",
            {agent: _row(event) for agent, event in tested.items()},
            heads,
            by=f"own {primary.name}",
            lower=[n for n in (primary.name, f"own {primary.name}") if primary.lower],
            everyone=True,
        )
    if not personal and not without:
        output.print_line("no connected agent has data for the run")
    if personal:
        lack = [agent for agent, e in sorted(personal.items()) if "validation" not in e.shared]
        others = [a for a, event in sorted(personal.items()) if not event.kept and a not in lack]
        kept = sum(event.kept for event in personal.values())
        text = f"{kept} of {counted(len(personal), 'agent')} "
        text += "use their own model, which did better on their validation data"
        output.print_line(text + (f"; the run's model: {', '.join(others)}" if others else ""))
        if lack:
            text = "too little validation data to choose by, so the run's model is used"
            output.print_line(f"{text}: {few(lack)}")
    for agent, why in without.items():
        output.print_line(f"{agent} did not personalise: {why or 'away'}")
    if without and again:
        output.print_line(f"ask again with: {again} --agents {','.join(without)}")


def _row(event: AgentPersonalised) -> dict[str, float]:
    """Figures of the run's model, and of the one that the agent uses."""
    shared = event.shared["test"]
    used = event.used("test") or shared
    own = {f"own {name}": value for name, value in used.values.items()}
    return {EXAMPLES: float(shared.examples), **computed({**shared.values, **own})}
