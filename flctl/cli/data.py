"""`flctl data`: look at a data set, deal it to agents, check the shares."""

import os
from pathlib import Path
from typing import Annotated, Any

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
from flctl.errors import DataError, UsageError
from flctl.files import explained, make_folder, new_folder, replace
from flctl.formats import counted
from flctl.terminal import logs, output

app = group("Look at a data set, deal it to agents, check the shares.")
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
    from flctl.learning.manifest import MANIFEST, read_manifest
    from flctl.records.plots.data import draw_data, draw_shares
    from flctl.records.plots.style import needs_matplotlib, picture_path
    from flctl.terminal import data_tables, output

    logs.set_up(verbose, quiet=True)
    if png is not None:
        needs_matplotlib()
        png = picture_path(png, "--png", [] if data is None else [data])
    if data is not None and task is None and (data / MANIFEST).exists():
        manifest = read_manifest(data)
        if png is not None:
            draw_shares(png, manifest)
        if json:
            output.print_json(manifest)
        else:
            data_tables.show_shares(manifest)
        return
    from flctl.learning.dealing import TRAIN, count, kinds_of
    from flctl.learning.source import parts_of
    from flctl.learning.splitting import read_named
    from flctl.wire.messages import VALIDATION

    heartbeats.apply()
    name, learnt, found = read_named(data, task, args or {})
    shown = found.parts
    if found.train is not None:
        training, validation = parts_of(learnt, data, found.train)
        shown = {TRAIN: training, **({VALIDATION: validation} if validation else {}), **found.tests}
    kinds = kinds_of(learnt, shown.values())
    parts = {part: count(examples, kinds) for part, examples in shown.items()}
    title = f"Data of task {name}" if data is None else f"{data.name} (task {name})"
    if png is not None:
        draw_data(png, title, kinds.noun, kinds.names, parts)
    origins = learnt.origins(data)
    if json:
        result = {"path": data and str(data), "task": name, "parts": parts, "read": list(origins)}
        output.print_json(result)
        return
    data_tables.show_data(title, kinds.noun, kinds.names, parts)
    data_tables.show_origins(origins)
    if found.problem is not None:
        output.warn(f"nothing to train on: {found.problem}")


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
        "records.  [default: record for ecg, else iid]",
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
    """Deal a data set: one folder for each of N agents, pi-01, pi-02, …

    Use DIR/pi-01 with 'flctl agent --data', and DIR/test, if the data have a test part, with
    'flctl train --test-data'. The shares are the same as those of 'flctl train --local N'.
    DIR/manifest.json lists them with the digest of each file; DIR/shares.png shows them (with
    matplotlib).
    """
    import flctl
    from flctl.learning.manifest import MANIFEST, PICTURE, Manifest, check_place
    from flctl.records.plots.data import can_draw, draw_shares
    from flctl.terminal import data_tables, output

    logs.set_up(verbose, quiet=True)
    place = Path(os.path.realpath(out.expanduser()))
    check_place(place, force)
    if data is not None and data.exists() and data.resolve().is_relative_to(place):
        raise UsageError(f"--out {out}: it contains {data}, the data to deal; name a new folder")
    from flctl.learning.splitting import read_named, split_command, split_settings

    given: dict[str, Any] = {"partition": partition, "alpha": alpha, "seed": seed}
    given |= {"virtual": agents, "task_args": args or {}}
    split_settings("?", {}, given)  # finds mistakes before anything is read
    heartbeats.apply()
    name, learnt, found = read_named(data, task, args or {})
    settings = split_settings(name, learnt.defaults, given)

    from flctl.learning.dealing import Plan, kinds_of, write_shares

    plan = Plan(of=agents, partition=settings.partition, alpha=settings.alpha, seed=settings.seed)
    make_folder(place.parent, "--out")
    with explained(out, "write the shares", "--out"), new_folder(place) as folder:
        manifest = Manifest(
            command=split_command(data, out, name, settings),
            flctl=flctl.__version__,
            task=name,
            classes=kinds_of(learnt, found.parts.values()).names,
            partition=plan.partition,
            alpha=plan.alpha,
            seed=plan.seed,
            agents=agents,
            shares=write_shares(learnt, found, plan, folder),
        )
        replace(folder / MANIFEST, manifest.encoded(), mode=0o644)
        if can_draw():
            draw_shares(folder / PICTURE, manifest)
    if json:
        output.print_json(manifest)
        return
    data_tables.show_shares(manifest)
    there = (place / PICTURE).exists()
    picture = f" and {PICTURE}" if there else "; for a picture too: pip install 'flctl[plot]'"
    output.print_line(f"\nin {out}: a folder for each, {MANIFEST}{picture}")


@command(app, "flctl data sample sensors pumps", "flctl data sample images shapes")
def sample(
    task: Annotated[str, argument("TASK", "'sensors', 'images' or another installed task.")],
    folder: Annotated[Path, argument("DIR", "New folder for the files.", parser=path)],
) -> None:
    """Write small files to try a task with, in the layout that it reads. They are invented."""
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
