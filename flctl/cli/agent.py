"""`flctl agent`: run an agent on this device."""

from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

from flctl.cli import completion
from flctl.cli.options import OWN_DATA, Device, Heartbeats, Here, Verbose, command, option, single
from flctl.cli.shards import AUTO, PANEL, Dealing, shard_of
from flctl.extras import needs_torch
from flctl.labels import changes
from flctl.terminal import logs
from flctl.wire.messages import Limits

app = single()
LIMITS = Limits()
coordinator_ = partial(option, panel="Coordinator")
identity = partial(option, panel="Identity")
work = partial(option, panel="Data and work")
OWNER = "Limits set by the owner of this device"
owner_ = partial(option, panel=OWNER)
Words = list[str] | None


class Owner(NamedTuple):
    """The fields of `Limits`."""

    min_examples: int = owner_(
        "N",
        "Fewest distinct examples for a round of training or an evaluation.",
        min=1,
        default=LIMITS.min_examples,
    )
    min_batch_size: int = owner_(
        "N",
        "Fewest examples in a batch; a smaller last one of an epoch is dropped.",
        min=1,
        default=LIMITS.min_batch_size,
    )
    min_batches: int = owner_("N", "Fewest batches in a round.", min=1, default=LIMITS.min_batches)
    max_model_mb: int = owner_(
        "MIB", "Largest model to download.", min=1, max=2**15, default=LIMITS.max_model_mb
    )
    max_rounds_per_hour: int = owner_(
        "N",
        "Most rounds in any hour, and as many evaluations; 0: no limit.",
        min=0,
        default=LIMITS.max_rounds_per_hour,
    )
    accept_weights: bool = owner_(
        None,
        "Also train in runs that begin with weights of an operator's (train --from).",
        "--accept-weights",
        default=LIMITS.accept_weights,
    )


@command(
    app,
    "flctl agent --coordinator SERVER:7700 --server-key KEY \\",
    "    --join-token-file token --data beats.npz",
    "flctl agent --coordinator SERVER:7700 --server-key-file key.pub --state pi-01",
    auto_envvar_prefix="FLCTL",
)
def agent(
    coordinator: Annotated[str, coordinator_("HOST:PORT", "Address of the coordinator.")],
    heartbeats: Heartbeats,
    dealing: Dealing,
    owner: Owner,
    here: Here,
    server_key: str | None = coordinator_(
        "KEY", "Public key of the coordinator, which it prints when it starts.", default=None
    ),
    server_key_file: Path | None = coordinator_("FILE", "File with that key.", default=None),
    join_token_file: str | None = identity(
        "FILE",
        "Enrol with the token in this file, made by 'flctl keys token' ('-': standard input; "
        "or use the variable FLCTL_JOIN_TOKEN).",
        default=None,
    ),
    name: str | None = identity(
        "NAME", "Name to ask for when joining; an enrolled agent keeps its name.", default=None
    ),
    label: Words = identity(
        "KEY=VALUE",
        "Fact about this device, such as site=ward-3; can be repeated.",
        default=None,
    ),
    role: str = work(
        "train|evaluate",
        "With 'evaluate' this agent never trains: it measures each round's model on its data. "
        "Needs a key with this role (flctl keys token --role evaluate).",
        default="train",
    ),
    data: Words = work(
        "[NAME=]PATH",
        "File or folder with the data of this agent; repeat it with names for several.  "
        f"[default: {OWN_DATA} if it is named with --task]",
        default=None,
    ),
    task: Words = work(
        "NAME",
        "Task to enable; it downloads its data if necessary. Can be repeated.  "
        "[default: all installed tasks]",
        complete=completion.tasks,
        default=None,
    ),
    task_args: str | None = work(
        "NAME=VALUE,…",
        "Arguments that tell the task how to read the data before a run has said its own.",
        default=None,
    ),
    shard: str | None = option(
        "K/N|auto",
        "Use only the K-th of N parts of the data, counted from 1; auto: the part that the "
        "coordinator assigns when this agent joins.",
        panel=PANEL,
        default=None,
    ),
    device: Device = "auto",
    threads: int | None = work(
        "N", "Threads of torch.  [default: half of the cores]", default=None
    ),
    allow_task: Words = owner_(
        "NAME",
        "Enabled task that the coordinator may ask for; can be repeated.  "
        "[default: all enabled tasks]",
        complete=completion.tasks,
        default=None,
    ),
    share_log: bool = owner_(
        None,
        "Let the coordinator's admins read this agent's log (flctl logs).",
        "--share-log/--no-share-log",
        default=True,
    ),
    verbose: Verbose = False,
    image: str | None = option("IMAGE", "", hidden=True, default=None),
    exit_with_parent: bool = option(None, "", hidden=True, default=False),
) -> None:
    """Run an agent, which trains on the data of this device.

    The agent connects to the coordinator and trains when it asks. It reconnects when the link is
    lost, and opens no port.
    Each agent needs its own state folder, which holds its key pair.
    """
    needs_torch("an agent")
    from flctl.agent import given
    from flctl.agent.main import run_agent

    config = {
        "coordinator": coordinator,
        "server_key": given.server_key_of(server_key, server_key_file),
        "state": here.folder,
        "name": given.name_of(name),
        "join_token": given.join_token_of(join_token_file, here.folder, waits=shard == AUTO),
        "join_token_file": None if join_token_file in (None, "-") else str(join_token_file),
        "labels": changes(label or [], "--label"),
        "share_log": share_log,
        "role": role,
        "datasets": given.datasets_of(data or [], shard_of(shard, dealing), task_args),
        "shard_from_coordinator": shard == AUTO,
        "tasks": tuple(task or ()),
        "allow_tasks": tuple(allow_task or ()),
        "limits": Limits(**owner._asdict()),
        "device": device,
        "threads": threads,
        "image": image,
    }
    heartbeats.apply()
    logs.set_up(verbose)
    run_agent(given.checked(config), exit_with_parent)
