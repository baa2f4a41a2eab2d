"""`flctl alerts`: what is wrong in the fleet, who looks after it, and what is kept quiet."""

import typer

from flctl.cli import completion
from flctl.cli.options import At, Context, Json, State, argument, command, group, option
from flctl.errors import UsageError
from flctl.terminal.finding import coordinator
from flctl.terminal.output import answer
from flctl.values import seconds

app = group("Show, acknowledge and mute alerts about the fleet.")


@app.callback(invoke_without_command=True, no_args_is_help=False)
def alerts(
    ctx: typer.Context, state: State = None, context: Context = None, json: Json = False
) -> None:
    """Show, acknowledge and mute alerts about the fleet.

    The coordinator's settings say where alerts are sent (documentation: Alerts).
    """
    if ctx.invoked_subcommand is None:
        at = At(state, context)
        with coordinator(at.folder, at.context) as console:
            found = console.alerts()
        from flctl.terminal.alerts import picture

        answer(found, json, picture(found, at.again))


@command(app, "flctl alerts ack 17")
def ack(
    id: int = argument("ID", "Number of the alert, as listed by 'flctl alerts'.", min=0),
    at: At = At(),
    json: Json = False,
) -> None:
    """Acknowledge an alert: someone is working on it."""
    with coordinator(at.folder, at.context) as console:
        alert = console.ack_alert(id)
    what = f"{alert['alert']} of {alert['subject']}: {alert['text']}"
    answer(alert, json, f"alert {id} is acknowledged: {what}")


@command(app, "flctl alerts test")
def test(at: At = At(), json: Json = False) -> None:
    """Send a test alert to webhook and command, and print their answers.

    If one of them does not accept it, the exit code is 1, and the coordinator tries again later.
    """
    with coordinator(at.folder, at.context) as console:
        found = console.test_alert()
    answer(found, json, f"accepted by the {' and the '.join(found['accepted'])}")


@command(app, "flctl alerts mute pi-03 --for 2h", "flctl alerts mute throttled --for 7d")
def mute(
    name: str = argument("KIND|AGENT", "A kind of alert, or an agent.", completion.agents),
    at: At = At(),
    for_: str = option("TIME", "How long; 0 ends it.", "--for", default="1h"),
    json: Json = False,
) -> None:
    """Send no alerts of a kind or an agent for a while.

    They are still listed.
    """
    if (for_s := seconds(for_, "--for")) > 366 * 86400:
        raise UsageError(f"--for {for_}: at most 366d")
    with coordinator(at.folder, at.context) as console:
        console.mute_alerts(name, for_s)
    done = f"{name} is muted for {for_}" if for_s else f"{name} is no longer muted"
    answer({"name": name, "for_s": for_s}, json, done)
