"""`flctl coordinator`: run a coordinator on this machine."""

import shlex
from pathlib import Path

from flctl.cli.options import Here, Verbose, command, option, path, single
from flctl.cli.shards import Dealing, Shards, deal
from flctl.errors import UsageError
from flctl.extras import HOW, has_torch
from flctl.files import expect_path
from flctl.terminal import logs
from flctl.terminal.output import print_line, warn
from flctl.values import seconds

app = single()


@command(
    app,
    "flctl coordinator",
    "flctl coordinator --bind 0.0.0.0:7700 --state /srv/flctl",
    auto_envvar_prefix="FLCTL",
)
def coordinator(
    here: Here,
    dealing: Dealing,
    bind: str = option(
        "HOST:PORT",
        "Address to listen on for agents; 0.0.0.0:7700 for all networks, port 0 for any free port.",
        default="127.0.0.1:7700",
    ),
    heartbeat: str = option(
        "TIME",
        "Interval of the agents' reports; a longer one saves traffic on a mobile connection. "
        "An agent counts as lost after 6 intervals, but not before 30 s.",
        default="5s",
    ),
    invite: Path | None = option(
        "DIR",
        "Keep the server key in this folder, as server.pub, and a join token for 15 minutes "
        "after the first start and after 'flctl keys invite': for agents that share the "
        "folder with this coordinator, as in a compose file.",
        parser=path,
        default=None,
    ),
    test_data: list[Path] | None = option(
        "PATH",
        "File, or folder of files, that operators on other machines may choose as test data "
        "of a run; can be repeated. Without it they can choose none.",
        parser=path,
        default=None,
    ),
    shards: Shards = None,
    min_participants: int = option(
        "N", "Commit no round with fewer agents, whatever the quorum of a run.", min=1, default=1
    ),
    settings: Path | None = option(
        "FILE",
        "Its settings (documentation: Alerts).  [default: coordinator.toml in --state, if there]",
        parser=path,
        default=None,
        show_default=False,
    ),
    verbose: Verbose = False,
) -> None:
    """Run a coordinator, which accepts agents and conducts runs.

    A run continues after this process is killed and started again.
    """
    from flctl.coordinator.main import run_coordinator

    heartbeat_s = seconds(heartbeat, "--heartbeat")
    if not 1 <= heartbeat_s <= 600:
        raise UsageError(f"--heartbeat {heartbeat}: from 1s to 10m")
    dealt = deal(shards, dealing)
    if dealt is not None and invite is None:
        raise UsageError("--shards requires --invite; else use: flctl keys token --shards N")
    listed = tuple(path.absolute() for path in test_data or ())
    for named in listed:
        expect_path(named, f"--test-data {named}")
    logs.set_up(verbose)
    if not has_torch():
        warn(f"no run can start here: first models and tests need torch: {HOW}")

    def ready(endpoint: str, server_key: str) -> None:
        from flctl.transport.addresses import reachable
        from flctl.transport.keypair import shown

        key = shown(server_key)
        print_line(
            f"coordinator  {endpoint}\nserver key   {key}\nAn agent joins with:\n"
            f"  (umask 077; flctl keys token --state {shlex.quote(str(here.folder))} > token)\n"
            f"  flctl agent --coordinator {reachable(endpoint)} --server-key {key} "
            "--join-token-file token --state DIR --data PATH"
        )

    run_coordinator(
        here.folder, bind, ready, heartbeat_s, invite, dealt, listed, min_participants, settings
    )
