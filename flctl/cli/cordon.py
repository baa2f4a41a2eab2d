"""`flctl cordon` and `uncordon`: exclude agents from rounds for maintenance."""

from flctl.cli.options import Agents, At, command, option, single
from flctl.terminal.finding import coordinator
from flctl.terminal.output import hint
from flctl.values import seconds

app = single()


@command(app, "flctl cordon pi-02 --wait 10m", "flctl cordon pi-01 pi-02")
def cordon(
    names: Agents,
    at: At,
    wait: str | None = option(
        "TIME", "Also wait until they are idle; fail when it takes longer than TIME.", default=None
    ),
) -> None:
    """Stop inviting these agents to rounds.

    Each finishes its current round; then it can be upgraded, moved or switched off. An agent
    stays cordoned until flctl uncordon, also across restarts.
    """
    from flctl.fleet.idle import until_idle

    wait_s = None if wait is None else seconds(wait, "--wait")
    with coordinator(at.folder, at.context) as console:
        for name in names:
            console.cordon(name)
            hint(f"{name} is cordoned: it gets no further rounds")
        if wait_s is not None:
            until_idle(console, names, wait_s)


@command(app, "flctl uncordon pi-02")
def uncordon(names: Agents, at: At) -> None:
    """Invite these agents to rounds again."""
    with coordinator(at.folder, at.context) as console:
        for name in names:
            console.uncordon(name)
            hint(f"{name} is invited again")
