"""`flctl coordinator`: be the coordinator, until told to stop."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from flctl.cli import logs
from flctl.cli.options import State, Verbose, path, state_folder
from flctl.cli.shards import Alpha, Partition, Seed, Shards, deal
from flctl.cli.values import seconds
from flctl.errors import UsageError
from flctl.files import expect_path
from flctl.terminal.output import warn


def coordinator(
    bind: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            envvar="FLCTL_BIND",
            help="Where agents dial in; 0.0.0.0:7700 for all networks, port 0 for any free one.",
        ),
    ] = "127.0.0.1:7700",
    heartbeat: Annotated[
        str,
        typer.Option(
            metavar="TIME",
            help="How often agents report; longer spares a mobile connection. An agent is lost "
            "after 6 of them, and not before 30 s.",
        ),
    ] = "5s",
    invite: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            parser=path,
            envvar="FLCTL_INVITE",
            help="Keep the server key in this folder, as server.pub, and for 15 minutes a join "
            "token, at the first start and after 'flctl keys invite': for agents that share the "
            "folder with this coordinator, as in a compose file.",
        ),
    ] = None,
    test_data: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH",
            parser=path,
            envvar="FLCTL_TEST_DATA",
            help="A file, or a folder of them, that operators on other machines may name as the "
            "test data of a run; may be repeated. Without it they can name none.",
        ),
    ] = None,
    shards: Shards = None,
    partition: Partition = None,
    alpha: Alpha = None,
    shard_seed: Seed = None,
    min_participants: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            envvar="FLCTL_MIN_PARTICIPANTS",
            help="Commit no round of fewer agents, whatever a run's quorum.",
        ),
    ] = 1,
    state: State = None,
    verbose: Verbose = False,
) -> None:
    """Be the coordinator: wait for agents, carry out runs.

    A run goes on when this process is killed and started again.
    """
    from flctl.coordinator.main import run_coordinator
    from flctl.extras import HOW, has_torch

    heartbeat_s = seconds(heartbeat, "--heartbeat")
    if not 1 <= heartbeat_s <= 600:
        raise UsageError(f"--heartbeat {heartbeat}: from 1s to 10m")
    dealt = deal(shards, partition, alpha, shard_seed)
    if dealt is not None and invite is None:
        raise UsageError("--shards goes with --invite; else: flctl keys token --shards N")
    listed = tuple(path.absolute() for path in test_data or ())
    for named in listed:
        expect_path(named, f"--test-data {named}")
    folder = state_folder(state)
    logs.set_up(verbose)
    if not has_torch():
        warn(f"no run can begin here: first models and tests need torch: {HOW}")

    def ready(endpoint: str, server_key: str) -> None:
        from flctl.terminal.output import print_line
        from flctl.transport.keys import shown

        key = shown(server_key)
        print_line(f"coordinator  {endpoint}\nserver key   {key}")
        print_line(
            "An agent joins with:\n"
            f"  flctl keys token --state {shlex.quote(str(folder))} > token\n"
            f"  flctl agent --coordinator {_dialled(endpoint)} --server-key {key} "
            "--join-token-file token --state DIR --data PATH"
        )

    run_coordinator(folder, bind, ready, heartbeat_s, invite, dealt, listed, min_participants)


def _dialled(endpoint: str) -> str:
    """The address as another machine would write it."""
    plain = endpoint.removeprefix("tcp://")
    host, _, port = plain.rpartition(":")
    if host in ("0.0.0.0", "[::]", "*"):
        import socket

        return f"{socket.gethostname()}:{port}"
    return plain
