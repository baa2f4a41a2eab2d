"""`flctl keys`: who may connect, and as what."""

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

from flctl.cli import completion
from flctl.cli.options import At, Json, argument, command, flag, group, option
from flctl.cli.shards import Dealing, Shards, deal
from flctl.errors import FlctlError, UsageError
from flctl.formats import counted
from flctl.terminal import output
from flctl.terminal.finding import connected
from flctl.terminal.output import hint, print_line, warn
from flctl.values import seconds

if TYPE_CHECKING:
    from flctl.fleet.console import RemoteRuns

app = group("Manage who may connect: key pairs, keys, join tokens.")
Name = Annotated[str, argument("NAME", "Name of the agent or operator.", completion.agents)]


@command(app, "flctl keys new me.key")
def new(
    path: Annotated[
        Path, argument("FILE", "File for the secret half, me.key; the public half is me.pub.")
    ],
) -> None:
    """Make a key pair for an operator or an agent."""
    from flctl.transport.keypair import load_or_make, shown

    if path.exists():
        raise UsageError(f"{path} exists; a key pair is never overwritten, name another file")
    print_line(shown(load_or_make(path.absolute()).public))


# A key in Z85 may begin with a hyphen.
@command(app, "flctl keys add alice alice.pub --role admin", ignore_unknown_options=True)
def add(
    name: Annotated[str, argument("NAME", "Name of the agent or operator.")],
    key: Annotated[str, argument("KEY", "The public key, or a file with it.")],
    at: At,
    role: str = option(
        "agent|evaluate|read|admin",
        "agent: trains. evaluate: an agent that only measures models. read: may look (status, "
        "runs). admin: may also change (train, keys).",
        default="agent",
    ),
) -> None:
    """Enrol a key under a name."""
    from flctl.transport.keypair import is_public_key, public_key, read_public

    named = not is_public_key(key) and Path(key).is_file()
    text = read_public(Path(key)) if named else public_key(key, f"key of {name}")
    with _book(at) as book:
        book.add_key(name, text, role)
    print_line(f"{name} may connect, as {role}")


@command(app, "flctl keys list", name="list")
def list_(at: At, json: Json = False) -> None:
    """List the server's key, enrolled keys and unknown keys."""
    from flctl.terminal.keys import keys_table, open_tokens, shown_keys

    with _book(at, make=False) as book:
        found = shown_keys(book.keys())
    revoked, tokens = found.pop("revoked", []), found.pop("tokens", [])
    if json:
        output.print_json(found)
        return
    output.print_line(f"server key  {found['server_key']}")
    made = keys_table(found["keys"], revoked)
    none = "no key is enrolled; see: flctl keys token --help, flctl keys add --help"
    output.show(made if found["keys"] or revoked else none)
    for waiting in found["waiting"]:
        key = waiting["public_key"]
        output.print_line(f"waiting     {key}  enrol it with: flctl keys add NAME {key}{at.again}")
    if line := open_tokens(tokens, at.again):
        output.print_line(line)


@command(
    app,
    "(umask 077; flctl keys token > token)",
    "(umask 077; flctl keys token --uses 20 --ttl 1h --shards 20 > token)",
)
def token(
    at: At,
    dealing: Dealing,
    ttl: str = option("TIME", "How long it is valid: 90s, 10m, 2h, 7d.", default="10m"),
    uses: int = option("N", "Number of agents that may join with it.", default=1),
    role: str = option(
        "agent|evaluate", "agent: they train. evaluate: they only measure models.", default="agent"
    ),
    shards: Shards = None,
) -> None:
    """Create a token with which new agents can join, and print it.

    Pass it on in a file (flctl agent --join-token-file), because `ps` shows arguments.

    With --shards N, agents that hold the same data set share it: each one that joins with
    --shard auto gets its own part, and the same part when it reconnects. When an agent is
    revoked, its part goes to the next agent that joins.
    """
    lasts_s = seconds(ttl, "--ttl")
    if role not in ("agent", "evaluate"):
        raise UsageError(f"--role {role}: agent or evaluate; keys add enrols operators")
    dealt = deal(shards, dealing)
    with _book(at) as book:
        print_line(book.token(lasts_s, uses, dealt, role == "evaluate"))
    with suppress(OSError, ValueError):  # no file at all
        mode = os.fstat(sys.stdout.fileno()).st_mode
        if stat.S_ISREG(mode) and mode & 0o077:
            warn("others on this machine can read the file of the token: chmod 600 FILE")
    hint(f"good for {uses} within {ttl}; use it with: flctl agent --join-token-file FILE")


@command(app, "flctl keys tokens", "flctl keys tokens --close-all")
def tokens(
    at: At,
    close: list[str] | None = option("ID", "Close this token; can be repeated.", default=None),
    close_all: bool = flag("Close all of them.", "--close-all"),
    json: Json = False,
) -> None:
    """List the open join tokens, or close some.

    While one is open, unknown keys may connect and ask to join. A token closes when its uses or
    its time are over, and when an agent that joined with it is revoked.
    """
    from flctl.terminal.keys import tokens_table

    if close and close_all:
        raise UsageError("--close ID or --close-all, not both")
    with _book(at, make=False) as book:
        if close or close_all:
            closed = book.close_tokens(None if close_all else close)
            text = f"closed: {', '.join(closed) or 'none was open'}"
            output.answer({"closed": closed}, json, text)
            return
        found = book.keys()
    if "tokens" not in found:
        raise FlctlError("the coordinator is older than this flctl: it does not list its tokens")
    none = f"no join token is open; create one with: flctl keys token{at.again}"
    output.answer(found["tokens"], json, tokens_table(found["tokens"]) if found["tokens"] else none)


@command(app, "flctl keys invite --ttl 1h")
def invite(
    at: At, ttl: str = option("TIME", "How long it is valid: 90s, 10m, 2h.", default="15m")
) -> None:
    """Let agents join that share the folder of --invite.

    A token is placed in that folder, and removed when its time is over.
    """
    lasts_s = seconds(ttl, "--ttl")
    with _book(at, make=False) as book:
        opened = book.invite(lasts_s)
    uses = counted(opened["uses"], "agent")
    print_line(f"token {opened['id']} is in {opened['folder']}, for {uses} within {ttl}")


@command(app, "flctl keys revoke pi-03")
def revoke(name: Name, at: At) -> None:
    """Revoke a key at once; a token does not admit it again.

    An open token that the agent joined with is closed too, because the agent may still have it.
    """
    with _book(at, make=False) as book:
        closed = book.revoke(name)
    print_line(f"{name} is revoked")
    if closed:
        print_line(
            f"also closed: token {', '.join(closed)}, which {name} may hold; for other agents "
            f"create a new one: flctl keys token{at.again}"
        )


@command(
    app,
    "flctl keys rotate-server --overlap 14d",
    "flctl keys rotate-server --finish",
    name="rotate-server",
)
def rotate_server(
    at: At,
    overlap: str = option("TIME", "How long both keys are valid: 2h, 7d, 30d.", default="7d"),
    finish: bool = flag("Accept only the new key from now on.", "--finish"),
    anyway: bool = flag("Finish although some agents do not have the new key.", "--anyway"),
    abort: bool = flag("Accept only the old key from now on.", "--abort"),
    json: Json = False,
) -> None:
    """Replace the coordinator's own key without losing agents.

    Both keys are valid for a while, and agents and operators that connect receive the new one;
    'flctl status' shows how many agents have it. At the end of the time, or with --finish, only
    the new key is valid. An agent that was away until then needs it by hand (flctl deploy).
    """
    from flctl.terminal.keys import server_keys, shown_keys

    if finish and abort:
        raise UsageError("--finish or --abort, not both")
    if anyway and not finish:
        raise UsageError("--anyway requires --finish")
    step = "finish" if finish else "abort" if abort else "begin"
    lasts_s = seconds(overlap, "--overlap")
    with _book(at, make=False) as book:
        found = shown_keys(book.rotate_server(step, lasts_s if step == "begin" else 0.0, anyway))
    output.answer(found, json, server_keys(found, overlap, at.again))


@contextmanager
def _book(at: At, make: bool = True) -> "Iterator[RemoteRuns]":
    """`make`: whether a folder without keys gets some."""
    from flctl.coordinator.store.runs import LocalRuns

    folder = at.folder
    with connected(folder, at.context, beside=folder / "keys") as runs:
        if not isinstance(runs, LocalRuns):
            yield runs
            return
        from flctl.fleet.keybook import AuditedKeys

        if not make and not (folder / "keys").exists():
            raise UsageError(f"{folder}: no coordinator has kept keys there; name its --state")
        yield cast("RemoteRuns", AuditedKeys(folder))
