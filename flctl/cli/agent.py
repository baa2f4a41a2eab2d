"""`flctl agent`: be one agent, until told to stop."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from flctl.cli import logs, shards
from flctl.cli.flags import OWN_DATA
from flctl.cli.options import (
    Annotator,
    Lead,
    RAt,
    State,
    Verbose,
    read_all_as,
    reading_as,
    state_folder,
)
from flctl.cli.shards import Alpha, Partition, Seed
from flctl.cli.values import named_paths
from flctl.errors import AccessError, UsageError
from flctl.files import absent, read_small
from flctl.wire.messages import Limits

COORDINATOR, IDENTITY, WORK = "Coordinator", "Identity", "Data and work"
LIMITS = Limits()
OWNER = "What its owner allows (docs/security.md)"


def agent(
    coordinator: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            envvar="FLCTL_COORDINATOR",
            help="Where to dial.",
            rich_help_panel=COORDINATOR,
        ),
    ],
    server_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            envvar="FLCTL_SERVER_KEY",
            help="Public key of the coordinator, as it prints it at its start.",
            rich_help_panel=COORDINATOR,
        ),
    ] = None,
    server_key_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            envvar="FLCTL_SERVER_KEY_FILE",
            help="A file that holds that key.",
            rich_help_panel=COORDINATOR,
        ),
    ] = None,
    join_token_file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            envvar="FLCTL_JOIN_TOKEN_FILE",
            help="Enrol with the token in this file ('-' for standard input, or the variable "
            "FLCTL_JOIN_TOKEN); it comes from 'flctl keys token'.",
            rich_help_panel=IDENTITY,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            envvar="FLCTL_NAME",
            help="The name to ask for when joining; whoever is enrolled has one already.",
            rich_help_panel=IDENTITY,
        ),
    ] = None,
    role: Annotated[
        str,
        typer.Option(
            metavar="train|evaluate",
            envvar="FLCTL_ROLE",
            help="With 'evaluate' it never trains: its data measure every round's model, if its "
            "key is enrolled so (flctl keys token --role evaluate).",
            rich_help_panel=WORK,
        ),
    ] = "train",
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]PATH",
            envvar="FLCTL_DATA",
            help="A file or folder that this agent owns; several with names. "
            f" [default: {OWN_DATA} if it is named with --task]",
            rich_help_panel=WORK,
        ),
    ] = None,
    lead: Lead = None,
    annotator: Annotator = None,
    r_at: RAt = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            envvar="FLCTL_TASK",
            help="A task that is enabled, and downloads its data if need be; several times.  "
            "[default: all that are installed]",
            rich_help_panel=WORK,
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="K/N|auto",
            envvar="FLCTL_SHARD",
            help="Use only the K-th of N parts of the data, K from 1; with auto the part that "
            "the coordinator deals this agent when it joins.",
            rich_help_panel=shards.PANEL,
        ),
    ] = None,
    partition: Partition = None,
    alpha: Alpha = None,
    shard_seed: Seed = None,
    device: Annotated[
        str,
        typer.Option(
            metavar="auto|cpu|cuda",
            envvar="FLCTL_DEVICE",
            help="To train on.",
            rich_help_panel=WORK,
        ),
    ] = "auto",
    threads: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            envvar="FLCTL_THREADS",
            help="Of torch.  [default: half of the cores]",
            rich_help_panel=WORK,
        ),
    ] = None,
    min_examples: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            max=2**31,
            envvar="FLCTL_MIN_EXAMPLES",
            rich_help_panel=OWNER,
            help="Fewest distinct examples that a round trains on, or an evaluation measures on.",
        ),
    ] = LIMITS.min_examples,
    min_batch_size: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            max=2**31,
            envvar="FLCTL_MIN_BATCH_SIZE",
            rich_help_panel=OWNER,
            help="Fewest examples in a batch; the last of an epoch is left out if it is smaller.",
        ),
    ] = LIMITS.min_batch_size,
    min_batches: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            max=2**31,
            envvar="FLCTL_MIN_BATCHES",
            rich_help_panel=OWNER,
            help="Fewest batches of a round.",
        ),
    ] = LIMITS.min_batches,
    max_model_mb: Annotated[
        int,
        typer.Option(
            metavar="MIB",
            min=1,
            max=2**15,
            envvar="FLCTL_MAX_MODEL_MB",
            rich_help_panel=OWNER,
            help="Largest model that is fetched.",
        ),
    ] = LIMITS.max_model_mb,
    max_rounds_per_hour: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            max=10**6,
            envvar="FLCTL_MAX_ROUNDS_PER_HOUR",
            rich_help_panel=OWNER,
            help="Most rounds within any hour, and as many evaluations; 0: no limit.",
        ),
    ] = LIMITS.max_rounds_per_hour,
    allow_task: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            envvar="FLCTL_ALLOW_TASK",
            rich_help_panel=OWNER,
            help="Of the enabled tasks one that the coordinator may ask for; several times.  "
            "[default: all that are enabled]",
        ),
    ] = None,
    state: State = None,
    verbose: Verbose = False,
    image: Annotated[str | None, typer.Option(envvar="FLCTL_IMAGE", hidden=True)] = None,
    exit_with_parent: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Be an agent: train on this device's own data when asked.

    It dials the coordinator and keeps dialling; nothing listens on this device. Give each
    agent a state folder of its own: its key pair is made there.
    """
    from flctl.agent.main import run_agent
    from flctl.extras import needs_torch

    needs_torch("an agent")
    config = {
        "coordinator": coordinator,
        "server_key": _server_key(server_key, server_key_file),
        "state": state_folder(state),
        "name": _name(name),
        "join_token": _join_token(join_token_file, state_folder(state), waits=shard == shards.AUTO),
        "join_token_file": None if join_token_file in (None, "-") else str(join_token_file),
        "role": role,
        "datasets": _datasets(data or [], shards.shard(shard, partition, alpha, shard_seed)),
        "shard_from_coordinator": shard == shards.AUTO,
        "tasks": tuple(task or ()),
        "allow_tasks": tuple(allow_task or ()),
        "limits": Limits(
            min_examples=min_examples,
            min_batch_size=min_batch_size,
            min_batches=min_batches,
            max_model_mb=max_model_mb,
            max_rounds_per_hour=max_rounds_per_hour,
        ),
        "device": device,
        "threads": threads,
        "image": image,
    }
    read_all_as(reading_as(lead, annotator, r_at))
    logs.set_up(verbose)
    run_agent(_checked(config), exit_with_parent)


def _checked(config: dict[str, Any]) -> Any:
    import msgspec

    from flctl.agent.config import AgentConfig

    state = config.pop("state")
    given = {key: value for key, value in config.items() if value is not None}
    plain = {**msgspec.to_builtins(given), "state": str(state)}
    try:
        return msgspec.convert(plain, AgentConfig, dec_hook=lambda kind, value: kind(value))
    except msgspec.ValidationError as error:
        text, _, place = str(error).partition(" - at `$.")
        option = place.rstrip("`").split("[")[0].replace("_", "-")
        raise UsageError(f"--{option}: {text[0].lower()}{text[1:]}" if option else text) from error


def _server_key(key: str | None, file: Path | None) -> str:
    if file is not None:
        from flctl.transport.keypair import refuse_secret

        refuse_secret(file.expanduser())
        key = _read(str(file), "--server-key-file")
    if not key:
        raise UsageError(
            "no server key; give --server-key KEY, --server-key-file FILE or FLCTL_SERVER_KEY "
            "(the coordinator prints it at its start, and in: flctl keys list)"
        )
    from flctl.transport.keys import public_key

    return public_key(key, "--server-key")


def _name(name: str | None) -> str | None:
    from flctl.transport.allowlist import check_entry

    if name is not None:
        try:
            check_entry(name, "agent")
        except UsageError as error:
            raise UsageError(f"--name {error}") from error
    return name


def _join_token(file: str | None, state: Path, waits: bool = False) -> str | None:
    """Never an argument itself: those can be read in the list of processes. If it `waits` for a
    shard, the file may come later."""
    from flctl.agent.state import has_joined

    if file is None:
        return os.environ.get("FLCTL_JOIN_TOKEN") or None
    if file != "-" and _is_missing(file):
        if waits or has_joined(state):
            return None  # it is needed once
        raise UsageError(
            f"--join-token-file {file}: there is no such file; open the door on the coordinator "
            "with: flctl keys token (with coordinator --invite: flctl keys invite)"
        )
    token = sys.stdin.readline().strip() if file == "-" else _read(file, "--join-token-file")
    if not token:
        raise AccessError(f"--join-token-file {file}: is empty; flctl keys token makes a token")
    return token


def _is_missing(file: str) -> bool:
    """Not merely out of reach, which `_read` explains."""
    try:
        Path(file).expanduser().stat()
    except FileNotFoundError:
        return True
    except (OSError, RuntimeError):
        return False
    return False


def _read(file: str, flag: str) -> str:
    try:
        return read_small(Path(file).expanduser()).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not plain text"
        raise UsageError(f"{flag} {file}: cannot be read: {reason}") from error


def _datasets(data: list[str], shard: Any) -> dict[str, Any]:
    from flctl.settings import is_utf8

    paths = named_paths(data, "--data") if data else {"default": None}
    for text, path in zip(data, paths.values(), strict=False):
        if not is_utf8(text):
            raise UsageError(f"--data {text}: its name is not UTF-8: rename it")
        if path is not None and not Path(path).exists():
            name, equals, _ = text.partition("=")
            also = f", and '{name}' cannot name a data set: no / in names" if equals else ""
            why = f"{absent(Path(path))}{also if '/' in name else ''}"
            raise UsageError(f"--data {text}: {why}")
    return {name: {"path": path, "shard": shard} for name, path in paths.items()}
