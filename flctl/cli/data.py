"""`flctl data`: look at a data set, divide it among agents, check the shares."""

from pathlib import Path
from typing import Annotated

from flctl.cli.options import (
    Heartbeats,
    Json,
    Task,
    TaskArgs,
    Verbose,
    argument,
    command,
    flag,
    group,
    option,
    path,
)
from flctl.cli.shards import PARTITIONS
from flctl.errors import DataError
from flctl.formats import counted
from flctl.terminal import logs, output

app = group("Look at a data set, and divide it among agents.")
Data = Annotated[
    Path | None,
    argument(
        "PATH",
        "File or folder.  [default: the data that come with --task]",
        parser=path,
        show_default=False,
    ),
]


@command(app, "flctl data describe beats.npz", "flctl data describe --task ecg --png ecg.png")
def describe(
    heartbeats: Heartbeats,
    data: Data = None,
    task: Task = None,
    args: TaskArgs = None,
    png: Path | None = option(
        "FILE", "Also draw a picture into this file.", parser=path, default=None
    ),
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Count the examples of each class, part and record.

    For a folder made by 'flctl data split' it shows the shares of the agents.
    """
    from flctl.terminal import datasets

    logs.set_up(verbose, quiet=True)
    heartbeats.apply()
    datasets.describe(data, task, args or {}, png, json)


@command(
    app,
    "flctl data split --task ecg --agents 4 --out shares",
    "flctl data split beats.csv --agents 8 --out shares --partition dirichlet",
)
def split(
    out: Annotated[Path, option("DIR", "New folder for the shares.", parser=path)],
    agents: Annotated[int, option("N", "Number of agents.", min=1, max=10**6)],
    heartbeats: Heartbeats,
    data: Data = None,
    task: Task = None,
    args: TaskArgs = None,
    partition: str | None = option(
        PARTITIONS,
        "At random, two classes each, unequal mixes (--alpha), unequal sizes, or whole "
        "records.  [default: record for ecg and sensors, else iid]",
        default=None,
    ),
    alpha: float | None = option(
        "A", "For --partition dirichlet: small is very unequal.  [default: 0.5]", default=None
    ),
    seed: int | None = option(
        "N", "The same data and seed give the same shares.  [default: 1]", default=None
    ),
    force: bool = flag("Replace an earlier split.", "--force"),
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Divide a data set into one folder for each of N agents.

    The folders are named pi-01, pi-02, … Use DIR/pi-01 with 'flctl agent --data', and DIR/test, if
    the data have a test part, with 'flctl train --test-data'. The shares are the same as those of
    'flctl train --local N'. DIR/manifest.json lists them with the digest of each file;
    DIR/shares.png shows them (with matplotlib).
    """
    from flctl.terminal import datasets

    logs.set_up(verbose, quiet=True)
    heartbeats.apply()
    given = {"partition": partition, "alpha": alpha, "seed": seed, "virtual": agents}
    datasets.split(data, out, task, {**given, "task_args": args or {}}, force, json)


@command(app, "flctl data sample sensors pumps", "flctl data sample images shapes")
def sample(
    task: Annotated[str, argument("TASK", "'sensors', 'images' or another installed task.")],
    folder: Annotated[Path, argument("DIR", "New folder for the files.", parser=path)],
) -> None:
    """Write invented files in the layout that a task reads."""
    from flctl.learning.splitting import write_sample

    files = write_sample(task, folder)
    output.print_line(f"in {folder}: {counted(files, 'file')}; look: flctl data describe {folder}")


@command(app, "flctl data verify shares", "flctl data verify shares pi-03")
def verify(
    folder: Annotated[Path, argument("DIR", "Made by 'flctl data split'.", parser=path)],
    shares: list[str] | None = argument("NAME", "Only these shares.", default=None),
    json: Json = False,
) -> None:
    """Compare the files of a split with the digests in its manifest."""
    from flctl.learning.manifest import check, read_manifest

    checked = list(check(folder, read_manifest(folder), shares or ()))
    wrong = [(file, problem) for file, problem in checked if problem is not None]
    if json:
        problems = [{"file": file, "problem": problem} for file, problem in wrong]
        output.print_json({"files": len(checked), "same": not wrong, "problems": problems})
    if wrong:
        first = "; ".join(f"{file} {problem}" for file, problem in wrong[:3])
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise DataError(f"{folder}: differs from its manifest: {first}{more}")
    if not json:
        output.print_line(f"{folder}: {counted(len(checked), 'file')}, all match the manifest")
