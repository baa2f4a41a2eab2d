"""`flctl logs`: the log of any agent."""

from typing import Annotated

from flctl.cli import completion
from flctl.cli.options import At, Json, argument, command, flag, option, single

app = single()


@command(app, "flctl logs pi-01", "flctl logs pi-01 --follow", "flctl logs pi-01 --since 2h --json")
def logs(
    agent: Annotated[str, argument("NAME", "The agent.", completion.agents)],
    at: At,
    follow: bool = flag("Continue with new lines, until Ctrl-C.", "--follow", "-f"),
    lines: int = option("N", "Most lines, the newest ones.", "--lines", "-n", min=1, max=2000,
                        default=200),
    since: str | None = option("TIME", "Only lines since then: 10m, 2h, 7d.", default=None),
    json: Json = False,
) -> None:  # fmt: skip
    """Show the newest lines of an agent's log, over the coordinator.

    Times are those of the agent's clock, in UTC. Requires an admin key; the owner of a device can
    forbid it (flctl agent --no-share-log).
    """
    from flctl.terminal.agent_log import show
    from flctl.terminal.finding import coordinator
    from flctl.values import seconds

    since_s = None if since is None else seconds(since, "--since")
    with coordinator(at.folder, at.context) as console:
        show(console, agent, lines, since_s, follow, json)
