"""Contents of a backup, in lines."""

from flctl.errors import printable
from flctl.fleet.restore import Contents
from flctl.formats import counted, moment, size
from flctl.terminal.output import print_line, warn
from flctl.transport.keypair import shown


def show_contents(contents: Contents, where: str) -> None:
    about = contents.about
    print_line(
        f"{where}: made {moment(about.at)} on {printable(about.host, '') or '?'} by flctl "
        f"{printable(about.version, '')}, {counted(contents.files, 'file')}, {size(contents.bytes)}"
    )
    if about.server_key:
        print_line(f"server key {shown(about.server_key)}")
    for run, count in contents.runs.items():
        print_line(f"run {run}  {size(count)}")
    for fault in contents.faults:
        warn(fault)
