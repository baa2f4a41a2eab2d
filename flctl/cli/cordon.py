"""`flctl cordon` and `uncordon`: exclude agents from rounds for maintenance."""

from flctl.cli.options import At, command, option, single
from flctl.cli.where import Agents, Where
from flctl.terminal.finding import coordinator
from flctl.terminal.labels import chosen
from flctl.terminal.output import hint
from flctl.values import seconds

app = single()


@command(app, "flctl cordon pi-02 --wait 10m", "flctl cordon --where site=ward-3")
def cordon(
    at: At,
    agents: Agents = None,
    where: Where = None,
    wait: str | None = option(
        "TIME", "Also wait until they are idle; fail when it takes longer than TIME.", default=None
    ),
) -> None:
    """Stop inviting agents to rounds.

    Each finishes its current round; then it can be upgraded, moved or switched off. An agent
    stays cordoned until flctl uncordon, also across restarts.
    """
    from flctl.fleet.idle import until_idle

    wait_s = None if wait is None else seconds(wait, "--wait")
    with coordinator(at.folder, at.context) as console:
        for name in (names := chosen(console, agents, where)):
            console.cordon(name)
            hint(f"{name} is cordoned: it gets no further rounds")
        if wait_s is not None:
            until_idle(console, names, wait_s)


@command(app, "flctl uncordon pi-02")
def uncordon(at: At, agents: Agents = None, where: Where = None) -> None:
    """Invite cordoned agents to rounds again."""
    with coordinator(at.folder, at.context) as console:
        for name in chosen(console, agents, where):
            console.uncordon(name)
            hint(f"{name} is invited again")
