"""`flctl backup` and `flctl restore`: the state folder as one encrypted file, and back."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flctl.cli.options import State, again, path, state_folder
from flctl.errors import UsageError

if TYPE_CHECKING:
    from flctl.fleet.restore import Contents


def backup(
    file: Annotated[Path, typer.Argument(parser=path, metavar="FILE", help="To be written.")],
    recipient: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            help="Public key that the backup is encrypted for: age1..., or ssh-ed25519 ...; may be "
            "given several times.",
        ),
    ] = None,
    recipients_file: Annotated[
        Path | None,
        typer.Option(
            parser=path, metavar="PATH", help="File with such keys, one a line.", show_default=False
        ),
    ] = None,
    new_identity: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            metavar="PATH",
            help="Make a key pair for it, with the secret half in this new file.",
            show_default=False,
        ),
    ] = None,
    state: State = None,
) -> None:
    """Write keys, runs and settings of a coordinator into one encrypted file.

    The coordinator may run meanwhile. The format is age's; `flctl restore` reads the file, with the
    secret half of one of the keys that it is encrypted for.
    """
    from flctl.coordinator.store.audit import Audit, local_actor
    from flctl.fleet import age
    from flctl.fleet.backup import Stream
    from flctl.formats import counted, size
    from flctl.terminal.output import print_line, warn

    readers = [age.recipient(text, "--recipient") for text in recipient or []]
    if recipients_file is not None:
        readers += age.recipients(recipients_file)
    if not readers and new_identity is None:
        raise UsageError(
            "name whom the backup is encrypted for: --recipient age1..., --recipients-file, or "
            "--new-identity PATH for a new key pair"
        )
    folder = state_folder(state)
    stream = Stream(folder)
    if new_identity is not None:
        public = age.new_identity(new_identity)
        readers.append(public)
        print_line(f"key pair made: public key {public}, secret half in {new_identity}")
        print_line("keep a copy of that file elsewhere: without it the backup cannot be read")
    asked = {"file": str(file), "for": ", ".join(map(str, readers))}
    with Audit(folder).action(local_actor(), "backup", asked, needed=False):
        age.encrypt(stream, file, readers)
    for name in stream.left_out:
        warn(f"{folder / name}: is a link, or nothing that flctl has written: not in the backup")
    runs = counted(stream.about.runs, "run")
    print_line(f"{file}: {size(file.stat().st_size)}, with the keys and {runs} of {folder}")


def restore(
    file: Annotated[Path, typer.Argument(parser=path, metavar="FILE", help="The backup.")],
    identity: Annotated[
        Path,
        typer.Option(
            parser=path,
            metavar="PATH",
            help="File with the secret key of age or ssh that it is encrypted for.",
        ),
    ],
    list_: Annotated[
        bool, typer.Option("--list", help="Only check it, and show what is in it.")
    ] = False,
    state: State = None,
) -> None:
    """Make a new state folder out of a backup.

    The folder must not have anything in it. It is there once everything is checked, or not at all.
    """
    from flctl.fleet import age
    from flctl.fleet import restore as restoring
    from flctl.terminal.output import print_line

    keys, where = age.identities(identity), str(file)
    if list_:
        with age.decrypted(file, keys) as clear:
            contents = restoring.look(clear, where)
        _tell(contents, where)
        return

    def unpack(into: Path) -> "Contents":
        with age.decrypted(file, keys) as clear:
            return restoring.unpack(clear, where, into)

    folder = state_folder(state)
    contents = restoring.restore(unpack, folder)
    _tell(contents, where)
    print_line(f"restored to {folder}")
    if contents.about.server_key:
        print_line(
            f"next: see that the coordinator on {contents.about.host or 'the old host'} is stopped "
            f"for good, then start this one: flctl coordinator{again(state)}"
        )
        print_line("agents find it if it has the old address; else start them with the new one")
    if contents.faults:
        raise typer.Exit(1)


def _tell(contents: "Contents", where: str) -> None:
    from datetime import UTC, datetime

    from flctl.errors import printable
    from flctl.formats import counted, size
    from flctl.terminal.output import print_line, warn
    from flctl.transport.keypair import shown

    about = contents.about
    at = datetime.fromtimestamp(about.at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    print_line(
        f"{where}: made {at} on {printable(about.host, '') or '?'} by flctl "
        f"{printable(about.version, '')}, {counted(contents.files, 'file')}, {size(contents.bytes)}"
    )
    if about.server_key:
        print_line(f"server key {shown(about.server_key)}")
    for run, count in contents.runs.items():
        print_line(f"run {run}  {size(count)}")
    for fault in contents.faults:
        warn(fault)
