"""`flctl keys`: who may connect, and as what."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, cast

import typer

from flctl.cli.finding import far
from flctl.cli.options import HELP, Commands, Context, Grouped, Json, State, again, state_folder
from flctl.cli.shards import Alpha, Partition, Seed, Shards, deal
from flctl.cli.values import seconds
from flctl.errors import FlctlError, UsageError

if TYPE_CHECKING:
    from flctl.wire.messages import Deal

app = typer.Typer(
    help="Who may connect: key pairs, enrolled keys, join tokens.",
    no_args_is_help=True,
    cls=Commands,
    rich_markup_mode=None,
    context_settings=HELP,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Of the agent or the operator.")]


class Book(Protocol):
    """The list of keys, of a coordinator that runs or in its folder."""

    def keys(self) -> dict[str, Any]: ...
    def add_key(self, name: str, key: str, role: str) -> None: ...
    def revoke(self, name: str) -> list[str]: ...
    def token(self, ttl_s: float, uses: int, deal: "Deal | None", evaluates: bool) -> str: ...
    def close_tokens(self, ids: Sequence[str] | None) -> list[str]: ...
    def invite(self, ttl_s: float) -> dict[str, Any]: ...
    def rotate_server(self, step: str, overlap_s: float, anyway: bool) -> dict[str, Any]: ...


@app.command(cls=Grouped)
def new(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="For the secret half: me.key; the other one goes to me.pub."
        ),
    ],
) -> None:
    """Make a key pair, for an operator or for an agent."""
    from flctl.terminal.output import print_line
    from flctl.transport.keys import load_or_make, shown

    if path.exists():
        raise UsageError(f"{path} exists; a key pair is never overwritten, name another file")
    print_line(shown(load_or_make(path.absolute()).public))


# A key in Z85 may begin with a hyphen.
@app.command(cls=Grouped, context_settings={**HELP, "ignore_unknown_options": True})
def add(
    name: Name,
    key: Annotated[str, typer.Argument(metavar="KEY", help="The public half, or a file with it.")],
    role: Annotated[
        str,
        typer.Option(
            metavar="agent|evaluate|read|admin",
            help="agent: trains. evaluate: an agent that only measures models. read: looks "
            "(status, runs). admin: steers (train, keys).",
        ),
    ] = "agent",
    state: State = None,
    context: Context = None,
) -> None:
    """Enrol a key under a name."""
    from flctl.terminal.output import print_line
    from flctl.transport.keys import is_public_key, public_key, read_public

    named = not is_public_key(key) and Path(key).is_file()
    text = read_public(Path(key)) if named else public_key(key, f"key of {name}")
    with _book(state, context) as book:
        book.add_key(name, text, role)
    print_line(f"{name} may connect, as {role}")


@app.command(cls=Grouped, name="list")
def list_(state: State = None, context: Context = None, json: Json = False) -> None:
    """Show the server's key, enrolled keys, and unknown ones that knock."""
    from flctl.terminal import output

    with _book(state, context, make=False) as book:
        found = _shown(book.keys())
    revoked = found.pop("revoked", [])
    tokens = found.pop("tokens", [])
    if json:
        output.print_json(found)
        return
    output.print_line(f"server key  {found['server_key']}")
    dealt = any(entry.get("shard") for entry in found["keys"])
    made = output.table("name", "role", "public key", *(["shard"] if dealt else []))
    for entry in found["keys"]:
        part = [entry.get("shard") or "-"] if dealt else []
        made.add_row(entry["name"], entry["role"], entry["public_key"], *part)
    for entry in revoked:
        made.add_row(entry["name"], "revoked", entry["public_key"])
    if found["keys"] or revoked:
        output.show(made)
    else:
        output.print_line("no key is enrolled; see: flctl keys token --help, flctl keys add --help")
    for waiting in found["waiting"]:
        output.print_line(
            f"waiting     {waiting['public_key']}  let it in with: "
            f"flctl keys add NAME {waiting['public_key']}{again(state, context)}"
        )
    if line := open_doors(tokens, again(state, context)):
        output.print_line(line)


@app.command(cls=Grouped)
def token(
    ttl: Annotated[
        str, typer.Option(metavar="TIME", help="How long it can be used: 90s, 10m, 2h, 7d.")
    ] = "10m",
    uses: Annotated[int, typer.Option(metavar="N", help="How many agents may join with it.")] = 1,
    role: Annotated[
        str,
        typer.Option(
            metavar="agent|evaluate",
            help="agent: they train. evaluate: they only measure models.",
        ),
    ] = "agent",
    shards: Shards = None,
    partition: Partition = None,
    alpha: Alpha = None,
    shard_seed: Seed = None,
    state: State = None,
    context: Context = None,
) -> None:
    """Print a token with which new agents can join for a while.

    Pass it on in a file (flctl agent --join-token-file): an argument stands in `ps`.

    With --shards N, agents that all have the same data set share it: each that joins with
    --shard auto is dealt a part that no other has, and the same one again whenever it comes
    back. Revoke an agent that is gone, and its part goes to the next one that joins.
    """
    from flctl.terminal.output import hint, print_line

    lasts_s = seconds(ttl, "--ttl")
    if role not in ("agent", "evaluate"):
        raise UsageError(f"--role {role}: agent or evaluate; keys add enrols operators")
    dealt = deal(shards, partition, alpha, shard_seed)
    with _book(state, context) as book:
        print_line(book.token(lasts_s, uses, dealt, role == "evaluate"))
    hint(f"good for {uses} within {ttl}; use it with: flctl agent --join-token-file FILE")


@app.command(cls=Grouped)
def tokens(
    close: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="Nobody joins with this one any more; several times."),
    ] = None,
    close_all: Annotated[bool, typer.Option("--close-all", help="Close all of them.")] = False,
    state: State = None,
    context: Context = None,
    json: Json = False,
) -> None:
    """Show the join tokens that are open, or close some.

    While one is open, unknown keys may connect and ask to join. A token closes by itself when its
    uses are spent or its time is over, and when an agent that joined with it is revoked.
    """
    from flctl import formats
    from flctl.terminal import output

    if close and close_all:
        raise UsageError("--close ID or --close-all, not both")
    with _book(state, context, make=False) as book:
        if close or close_all:
            closed = book.close_tokens(None if close_all else close)
            if json:
                output.print_json({"closed": closed})
            else:
                output.print_line(f"closed: {', '.join(closed) or 'none was open'}")
            return
        found = book.keys()
    if "tokens" not in found:
        raise FlctlError("the coordinator is older than this flctl: it does not list its tokens")
    if json:
        output.print_json(found["tokens"])
    elif not found["tokens"]:
        output.print_line("no join token is open; open one with: flctl keys token")
    else:
        made = output.table(
            "token", "closes in", ">uses left", "role", "deals", "opened", "made by"
        )
        for token in found["tokens"]:
            made.add_row(
                token["id"],
                formats.span(token["closes_in_s"]),
                str(token["uses_left"]),
                token.get("role", "agent"),
                _dealt(token["deal"]),
                time.strftime("%Y-%m-%d %H:%M", time.localtime(token["opened"])),
                token["by"] or "-",
            )
        output.show(made)


def _dealt(deal: Mapping[str, Any] | None) -> str:
    return "-" if deal is None else f"{deal['of']} shards, {deal['partition']}"


def open_doors(tokens: Sequence[Mapping[str, Any]], options: str = "") -> str:
    """A line that warns while a stranger could join, else "". `options` follow the command."""
    from flctl.formats import counted, span

    if not tokens:
        return ""
    uses = counted(sum(token["uses_left"] for token in tokens), "use")
    last = span(max(token["closes_in_s"] for token in tokens))
    number = counted(len(tokens), "join token")
    return f"{number} open, {uses} left, closed in {last}: flctl keys tokens{options}"


@app.command(cls=Grouped)
def invite(
    ttl: Annotated[str, typer.Option(metavar="TIME", help="For how long: 90s, 10m, 2h.")] = "15m",
    state: State = None,
    context: Context = None,
) -> None:
    """Let agents join that share a folder with the coordinator (coordinator --invite).

    It puts a token into that folder, and takes it away when its time is over.
    """
    from flctl.formats import counted
    from flctl.terminal.output import print_line

    lasts_s = seconds(ttl, "--ttl")
    with _book(state, context, make=False) as book:
        opened = book.invite(lasts_s)
    uses = counted(opened["uses"], "agent")
    print_line(f"token {opened['id']} lies in {opened['folder']}, for {uses} within {ttl}")


@app.command(cls=Grouped)
def revoke(name: Name, state: State = None, context: Context = None) -> None:
    """Shut a key out, at once; a token does not let it in again.

    An agent may still hold the token that it joined with: if that is open, it is closed too.
    """
    from flctl.terminal.output import print_line

    with _book(state, context, make=False) as book:
        closed = book.revoke(name)
    print_line(f"{name} is shut out")
    if closed:
        print_line(
            f"also closed: token {', '.join(closed)}, which {name} may hold; for other agents "
            "open a new one: flctl keys token"
        )


@app.command(cls=Grouped, name="rotate-server")
def rotate_server(
    overlap: Annotated[
        str, typer.Option(metavar="TIME", help="How long both keys are good: 2h, 7d, 30d.")
    ] = "7d",
    finish: Annotated[
        bool, typer.Option("--finish", help="Only the new key is good from now on.")
    ] = False,
    anyway: Annotated[
        bool,
        typer.Option("--anyway", help="Finish although some agents do not have the new key."),
    ] = False,
    abort: Annotated[
        bool, typer.Option("--abort", help="Only the old key is good from now on.")
    ] = False,
    state: State = None,
    context: Context = None,
    json: Json = False,
) -> None:
    """Replace the coordinator's own key, by which agents and operators know it.

    For a time both keys are good, and all agents and operators that connect are told the new one.
    'flctl status' shows how many agents have it. When the time is over, or with --finish, only
    the new one is good; an agent that was away all the time needs it by hand (flctl deploy).
    """
    from flctl.terminal import output

    if finish and abort:
        raise UsageError("--finish or --abort, not both")
    if anyway and not finish:
        raise UsageError("--anyway goes with --finish")
    step = "finish" if finish else "abort" if abort else "begin"
    lasts_s = seconds(overlap, "--overlap")
    with _book(state, context, make=False) as book:
        found = _shown(book.rotate_server(step, lasts_s if step == "begin" else 0.0, anyway))
    if json:
        output.print_json(found)
    elif (rotation := found["rotation"]) is None:
        output.print_line(f"server key  {found['server_key']}, and no other one is good")
    else:
        output.print_line(f"server key  {found['server_key']}, and for {overlap} as well")
        output.print_line(f"new key     {rotation['new_key']}")
        output.print_line(key_rotation(rotation, again(state, context)))


def key_rotation(rotation: Mapping[str, Any], options: str = "") -> str:
    """A line about a server key that is being replaced. `options` follow the command."""
    from flctl.formats import counted, span

    missing = list(rotation["missing"])
    line = (
        f"the server key is being replaced: {counted(rotation['have'], 'agent')} with the new one"
    )
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        line += f", not yet {', '.join(missing[:5])}{more}"
    left = span(max(0.0, rotation["ends_in_s"]))
    return f"{line}; the old one is good for {left}: flctl keys rotate-server{options} --finish"


def _shown(found: Any) -> Any:
    """An answer with its keys as people see them; as `z85` stands what a file of an older version
    has, to compare with."""
    from flctl.transport.keys import shown

    if isinstance(found, list):
        return [_shown(part) for part in found]
    if not isinstance(found, Mapping):
        return found
    made = {k: shown(v) if k in KEYS and v else _shown(v) for k, v in found.items()}
    if "public_key" in found:
        made["z85"] = found["public_key"]
    return made


KEYS = ("server_key", "public_key", "new_key")


class _Folder:
    """The list in a state folder; a coordinator that runs on it sees a change at once."""

    def __init__(self, state: Path) -> None:
        from flctl.transport.keys import Keyring

        self._keyring = Keyring(state / "keys")

    def keys(self) -> dict[str, Any]:
        from flctl.coordinator.front.views import shown_key, shown_tokens

        entries = [shown_key(entry) for entry in self._keyring.entries()]
        return {
            "server_key": self._keyring.server.public,
            "keys": entries,
            "revoked": [shown_key(entry) for entry in self._keyring.revoked()],
            "waiting": [],
            "tokens": shown_tokens(self._keyring),
        }

    def add_key(self, name: str, key: str, role: str) -> None:
        self._keyring.add(name, key, role)  # type: ignore[arg-type]  # checked there

    def revoke(self, name: str) -> list[str]:
        return [token.id for token in self._keyring.revoke(name)]

    def token(self, ttl_s: float, uses: int, deal: "Deal | None", evaluates: bool) -> str:
        from flctl.transport.channel import LOCAL

        return self._keyring.new_token(ttl_s, uses, deal, LOCAL, evaluates)

    def token_id(self, text: str) -> str | None:
        token = self._keyring.open_token(text)
        return token.id if token is not None else None

    def close_tokens(self, ids: Sequence[str] | None) -> list[str]:
        return [token.id for token in self._keyring.close_tokens(ids)]

    def invite(self, ttl_s: float) -> dict[str, Any]:  # noqa: ARG002
        raise UsageError("no coordinator runs here, and only one that runs keeps such a folder")

    def rotate_server(self, step: str, overlap_s: float, anyway: bool) -> dict[str, Any]:
        """Without a coordinator nobody is told before it runs again."""
        keys = self._keyring.server_keys
        agents = [entry.name for entry in self._keyring.entries() if entry.role == "agent"]
        if step == "begin":
            keys.begin(overlap_s)
        elif step == "abort":
            keys.abort()
        elif agents and keys.overlap is not None and not anyway:
            raise UsageError(
                "no coordinator runs here, so that nobody knows which agents have the new key: "
                "start it, or add --anyway"
            )
        else:
            keys.finish()
        found = keys.overlap
        rotation = None
        if found is not None:
            rotation = {
                "new_key": found.new,
                "ends": found.ends,
                "ends_in_s": found.ends - self._keyring.now,
                "have": 0,
                "missing": agents,
            }
        return {"server_key": keys.current.public, "rotation": rotation}


LOOKING = ("keys",)
"""Methods of a Book that change nothing."""
SHUTTING = ("revoke", "close_tokens")
"""Those that must not fail for want of a line in the audit file."""
WORDS = {"add_key": "key-add", "revoke": "key-revoke", "close_tokens": "token-close"}
"""As a coordinator that runs calls it in its audit file."""


class _Audited:
    """A book of which everything that changes it stands in the audit file beside it."""

    def __init__(self, book: _Folder, state: Path) -> None:
        from flctl.coordinator.store.audit import Audit

        self._book, self._audit = book, Audit(state)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._book, name)
        return method if name in LOOKING else partial(self._change, name, method)

    def _change(self, name: str, method: Callable[..., Any], *args: Any) -> Any:
        from msgspec import to_builtins

        from flctl.coordinator.store.audit import local_actor

        named = to_builtins(dict(signature(method).bind(*args).arguments))
        word = WORDS.get(name, name.replace("_", "-"))
        with self._audit.action(local_actor(), word, named, name not in SHUTTING) as came:
            result = method(*args)
            if name == "token":
                came["id"] = self._book.token_id(result)
            elif result is not None:
                came["result"] = to_builtins(result)
        return result


@contextmanager
def _book(state: Path | None, context: str | None, make: bool = True) -> Iterator[Book]:
    """`make`: whether a folder without keys gets some."""
    folder = state_folder(state)
    with far(folder, context, beside=folder / "keys") as console:
        if console is not None:
            yield console
            return
        if not make and not (folder / "keys").exists():
            raise UsageError(f"{folder}: no coordinator has kept keys there; name its --state")
        yield cast(Book, _Audited(_Folder(folder), folder))
