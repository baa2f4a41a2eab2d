"""`flctl personalise`: a model of its own for each agent of a finished run."""

from typing import Annotated, Any

import typer

from flctl.cli import completion
from flctl.cli.options import At, Json, OfTask, Verbose, argument, command, option, single
from flctl.cli.where import Where
from flctl.terminal import logs
from flctl.values import names, seconds

app = single()


@command(
    app,
    "flctl personalise ecg-20261127-102328",
    "flctl personalise ecg-2026 --agents pi-02,pi-07 --epochs 20 --tensors 'head.*'",
)
def personalise(
    run: Annotated[
        str,
        argument(
            "RUN|CHECKPOINT",
            "A finished run: its name, how it begins, or its last part; or one of its models.",
            completion.runs,
        ),
    ],
    at: At,
    agents: str | None = option(
        "NAME,…",
        "Only these agents.  [default: all of the run]",
        complete=completion.agents,
        default=None,
    ),
    where: Where = None,
    which: str = option("best|last|N", "Round whose model is fine-tuned.", default="best"),
    epochs: int | None = option(
        "N", "Most epochs.  [default: as the run says, else 10]", min=1, default=None
    ),
    lr: float | None = option(
        "RATE", "Learning rate.  [default: as the run says, else --lr of the run]", default=None
    ),
    tensors: str | None = option(
        "PATTERN,…", "Parameters that change: head.*.  [default: all]", default=None
    ),
    deadline: str | None = option(
        "TIME",
        "How long to wait for all agents.  [default: that of the run's rounds]",
        default=None,
    ),
    wait: str | None = option(
        "TIME",
        "How long to wait for an agent that is away.  [default: as the run says]",
        default=None,
    ),
    jobs: int | None = option(
        "N",
        "For virtual agents: processes that share the work; 0: one for each core.",
        min=0,
        default=None,
    ),
    task: OfTask = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Fine-tune a run's model on each agent, for that agent alone.

    Each agent trains on its own data. The result stays on the device, and is used there (flctl
    predict) if it beats the run's model on the agent's validation part. Only figures are sent.
    """
    from flctl.terminal.personal import PersonalOrder
    from flctl.terminal.personal import personalise as carry_out

    logs.set_up(verbose, quiet=True)
    given: dict[str, Any] = {
        "personal_epochs": epochs,
        "personal_lr": lr,
        "personal_tensors": None if tensors is None else names(tensors, "--tensors"),
        "deadline_s": None if deadline is None else seconds(deadline, "--deadline"),
        "wait_s": None if wait is None else seconds(wait, "--wait"),
        "jobs": jobs,
    }
    changes = {key: value for key, value in given.items() if value is not None}
    named = () if agents is None else names(agents, "--agents")
    chosen = named, where or ()
    order = PersonalOrder(at.folder, at.context, at.again, run, which, *chosen, changes, task)
    if not carry_out(order, json):
        raise typer.Exit(1)
