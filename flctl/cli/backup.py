"""`flctl backup` and `flctl restore`: the state folder as one encrypted file, and back."""

import os
from pathlib import Path
from typing import Annotated

import typer

from flctl.cli.options import Here, argument, command, flag, option, path, single
from flctl.errors import UsageError
from flctl.formats import counted, size
from flctl.terminal.output import print_line, warn

app = single()


@command(
    app,
    "flctl backup fleet.age --new-identity fleet.key",
    "flctl backup fleet.age --recipient age1...",
)
def backup(
    file: Annotated[Path, argument("FILE", "File to write.", parser=path)],
    here: Here,
    recipient: list[str] | None = option(
        "KEY",
        "Public key to encrypt for: age1..., or ssh-ed25519 ...; can be repeated.",
        default=None,
    ),
    recipients_file: Path | None = option(
        "PATH", "File with such keys, one per line.", parser=path, default=None
    ),
    new_identity: Path | None = option(
        "PATH",
        "Make a new key pair, with the secret half in this new file.",
        parser=path,
        default=None,
    ),
    force: bool = flag("Replace an existing FILE.", "--force"),
) -> None:
    """Write a coordinator's state into one encrypted file.

    The file holds its keys, runs and settings. The coordinator may keep running. The file has the
    format of age; `flctl restore` reads it with the secret half of one of the keys that it is
    encrypted for.
    """
    from flctl.coordinator.store.audit import Audit, local_actor
    from flctl.fleet import age
    from flctl.fleet.backup import Stream

    readers = [age.recipient(text, "--recipient") for text in recipient or []]
    if recipients_file is not None:
        readers += age.recipients(recipients_file)
    if not readers and new_identity is None:
        raise UsageError(
            "name whom the backup is encrypted for: --recipient age1..., --recipients-file, or "
            "--new-identity PATH for a new key pair"
        )
    if not force and os.path.lexists(file):
        raise UsageError(f"{file}: is there already; name a new file, or replace it by --force")
    stream = Stream(here.folder)
    identity = None if new_identity is None else age.NewIdentity(new_identity)
    if identity is not None:
        readers.append(identity.public)
    asked = {"file": str(file), "for": ", ".join(map(str, readers))}
    with Audit(here.folder).action(local_actor(), "backup", asked, needed=False):
        age.encrypt(stream, file, readers, identity)
    if identity is not None:
        print_line(f"key pair made: public key {identity.public}, secret half in {new_identity}")
        print_line("keep a copy of that file elsewhere: without it the backup cannot be read")
    for name in stream.left_out:
        warn(f"{here.folder / name}: is a link, or not written by flctl: not in the backup")
    runs = counted(stream.about.runs, "run")
    print_line(f"{file}: {size(file.stat().st_size)}, with the keys and {runs} of {here.folder}")


@command(
    app,
    "flctl restore fleet.age --identity fleet.key --list",
    "flctl restore fleet.age --identity fleet.key --state /srv/flctl",
)
def restore(
    file: Annotated[Path, argument("FILE", "The backup.", parser=path)],
    identity: Annotated[
        Path,
        option("PATH", "File with the secret key, of age or ssh, to decrypt with.", parser=path),
    ],
    here: Here,
    list_: bool = flag("Only check the backup and show its contents.", "--list"),
) -> None:
    """Make a new state folder from a backup.

    The folder must be empty or missing. It appears once everything is checked, or not at all.
    """
    from flctl.fleet import age
    from flctl.fleet import restore as restoring
    from flctl.terminal.backup import show_contents

    keys, where = age.identities(identity), str(file)
    if list_:
        with age.decrypted(file, keys) as clear:
            contents = restoring.look(clear, where)
        show_contents(contents, where)
        return

    def unpack(into: Path) -> restoring.Contents:
        with age.decrypted(file, keys) as clear:
            return restoring.unpack(clear, where, into)

    contents = restoring.restore(unpack, here.folder)
    show_contents(contents, where)
    print_line(f"restored to {here.folder}")
    if contents.about.server_key:
        print_line(
            f"next: make sure that the coordinator on {contents.about.host or 'the old host'} is "
            f"stopped for good, then start this one: flctl coordinator{here.again}"
        )
        print_line("agents find it at the old address; else start them with the new one")
    if contents.faults:
        raise typer.Exit(1)
