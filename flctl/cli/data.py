"""`flctl data`: look at a data set, deal it to agents, check what was dealt."""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flctl.cli.options import (
    HELP,
    Annotator,
    Commands,
    Grouped,
    Json,
    Lead,
    RAt,
    Verbose,
    path,
    read_all_as,
    reading_as,
)
from flctl.errors import DataError, UsageError
from flctl.files import expect_path

if TYPE_CHECKING:
    from flctl.learning.dealing import DataSet
    from flctl.learning.task import Task
    from flctl.settings import RunSettings

app = typer.Typer(
    help="Look at a data set, deal it to agents, check what was dealt.",
    no_args_is_help=True,
    cls=Commands,
    rich_markup_mode=None,
    context_settings=HELP,
)
Data = Annotated[
    Path | None,
    typer.Argument(
        parser=path,
        metavar="PATH",
        help="A file or folder.  [default: what ships with --task]",
        show_default=False,
    ),
]
TaskName = Annotated[
    str | None,
    typer.Option(
        "--task",
        metavar="NAME",
        help="Of which task the data are: 'ecg', 'mnist', an installed one, or module:Class. "
        " [default: the installed task that reads them]",
    ),
]


@app.command(cls=Grouped)
def describe(
    data: Data = None,
    task: TaskName = None,
    png: Annotated[
        Path | None,
        typer.Option(parser=path, metavar="FILE", help="Also draw it into this file."),
    ] = None,
    lead: Lead = None,
    annotator: Annotator = None,
    r_at: RAt = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Count the examples of each class, part and record.

    Of a folder that 'flctl data split' has made it shows who got what.
    """
    from flctl.cli import logs
    from flctl.learning.manifest import MANIFEST, read_manifest
    from flctl.records.plots import data as bars
    from flctl.records.plots.style import needs_matplotlib, picture_path
    from flctl.terminal import data_tables, output
    from flctl.terminal.output import warn

    logs.set_up(verbose, quiet=True)
    if png is not None:
        needs_matplotlib()
        png = picture_path(png, "--png", [] if data is None else [data])
    if data is not None and task is None and (data / MANIFEST).exists():
        manifest = read_manifest(data)
        if png is not None:
            bars.draw_shares(png, manifest)
        if json:
            output.print_json(manifest)
        else:
            data_tables.show_shares(manifest)
        return
    from flctl.learning.dealing import count

    read_all_as(reading_as(lead, annotator, r_at))
    name, learnt, found = _read(data, task)
    parts = {part: count(examples, learnt.classes) for part, examples in found.parts.items()}
    if png is not None:
        bars.draw_data(png, _title(data, name), learnt.classes, parts)
    origins = learnt.origins(data)
    if json:
        told = {"path": data and str(data), "task": name, "parts": parts, "read": list(origins)}
        output.print_json(told)
        return
    data_tables.show_data(_title(data, name), learnt.classes, parts)
    data_tables.show_origins(origins)
    if found.problem is not None:
        warn(f"nothing to train on: {found.problem}")


@app.command(cls=Grouped)
def split(
    out: Annotated[
        Path,
        typer.Option(parser=path, metavar="DIR", help="New folder for the shares."),
    ],
    agents: Annotated[
        int, typer.Option(metavar="N", min=1, max=10**6, help="To how many it is dealt.")
    ],
    data: Data = None,
    task: TaskName = None,
    partition: Annotated[
        str | None,
        typer.Option(
            metavar="iid|label|dirichlet|size|record",
            help="At random, two classes each, unequal mixes (--alpha), unequal sizes, or whole "
            "records.  [default: record for ecg, else iid]",
        ),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(
            metavar="A", help="For --partition dirichlet: small is very unequal.  [default: 0.5]"
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", help="Same data and seed, same shares.  [default: 1]"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier split.")] = False,
    lead: Lead = None,
    annotator: Annotator = None,
    r_at: RAt = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Deal a data set: a folder pi-01, pi-02, … for each of N agents.

    DIR/pi-01 is what 'flctl agent --data' takes; DIR/test, where the data have a part for
    testing, what 'flctl train --test-data' takes. The shares are those that 'flctl train
    --local N' deals. DIR/manifest.json says who has how much of what, with the digest of each
    file, and DIR/shares.png shows it (if matplotlib is installed).
    """
    from flctl.cli import logs
    from flctl.learning.manifest import MANIFEST, PICTURE, check_place
    from flctl.records.plots import data as bars
    from flctl.terminal import data_tables, output

    logs.set_up(verbose, quiet=True)
    place = Path(os.path.realpath(out.expanduser()))
    check_place(place, force)
    if data is not None and data.exists() and data.resolve().is_relative_to(place):
        raise UsageError(f"--out {out}: {data}, which is to be dealt, is in it; name a new folder")
    given = {"partition": partition, "alpha": alpha, "seed": seed, "virtual": agents}
    _settings("?", {}, given)  # so that a mistake is told before anything is read
    read_all_as(reading_as(lead, annotator, r_at))
    name, learnt, found = _read(data, task)
    settings = _settings(name, learnt.defaults, given)

    import flctl
    from flctl.files import explained, make_folder, new_folder, replace
    from flctl.learning.dealing import Plan, write_shares
    from flctl.learning.manifest import Manifest

    plan = Plan(of=agents, partition=settings.partition, alpha=settings.alpha, seed=settings.seed)
    make_folder(place.parent, "--out")
    with explained(out, "write the shares", "--out"), new_folder(place) as folder:
        manifest = Manifest(
            command=_command(data, out, name, settings),
            flctl=flctl.__version__,
            task=name,
            classes=learnt.classes,
            partition=plan.partition,
            alpha=plan.alpha,
            seed=plan.seed,
            agents=agents,
            shares=write_shares(learnt, found, plan, folder),
        )
        replace(folder / MANIFEST, manifest.encoded(), mode=0o644)
        if bars.can_draw():
            bars.draw_shares(folder / PICTURE, manifest)
    if json:
        output.print_json(manifest)
        return
    data_tables.show_shares(manifest)
    output.print_line("")
    output.print_line(f"in {out}: a folder for each, {MANIFEST}" + _picture_of(place))


@app.command(cls=Grouped)
def verify(
    folder: Annotated[
        Path, typer.Argument(parser=path, metavar="DIR", help="What 'flctl data split' has made.")
    ],
    shares: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Only these shares.")
    ] = None,
    json: Json = False,
) -> None:
    """Compare the files of a split with the digests in its manifest."""
    from flctl import formats
    from flctl.learning.manifest import check, read_manifest
    from flctl.terminal import output

    checked = list(check(folder, read_manifest(folder), shares or ()))
    wrong = [(file, problem) for file, problem in checked if problem is not None]
    if json:
        problems = [{"file": file, "problem": problem} for file, problem in wrong]
        output.print_json({"files": len(checked), "same": not wrong, "problems": problems})
    if wrong:
        first = "; ".join(f"{file} {problem}" for file, problem in wrong[:3])
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise DataError(f"{folder}: not as the manifest says: {first}{more}")
    if not json:
        output.print_line(
            f"{folder}: {formats.counted(len(checked), 'file')}, all as the manifest says"
        )


def _read(data: Path | None, task: str | None) -> "tuple[str, Task, DataSet]":
    """The task by its name, and what it reads. Raises FlctlError."""
    if data is not None:
        expect_path(data)
    if data is None and task is None:
        raise UsageError("name a file or folder, or with --task the task that brings data along")
    from flctl.learning.dealing import find_task, read_data
    from flctl.learning.task import load_task

    if task is None:
        assert data is not None
        name, found = find_task(data)
        return name, load_task(name), found
    learnt = load_task(task)
    return task, learnt, read_data(learnt, data)


def _settings(task: str, defaults: Mapping[str, Any], given: Mapping[str, Any]) -> "RunSettings":
    """What `flctl train` makes of the same flags. Raises SettingsError."""
    from flctl.settings import normalised, parse

    plain = {key: value for key, value in given.items() if value is not None}
    own = normalised(defaults, f"the defaults of task '{task}'")
    return parse({**own, **plain, "task": task}, "command line")


def _command(data: Path | None, out: Path, task: str, settings: "RunSettings") -> str:
    words = ["flctl", "data", "split", *([] if data is None else [str(data)]), "--task", task,
             "--out", str(out), "--agents", str(settings.virtual),
             "--partition", settings.partition]  # fmt: skip
    if settings.partition == "dirichlet":
        words += ["--alpha", repr(settings.alpha)]
    return shlex.join([*words, "--seed", str(settings.seed)])


def _title(data: Path | None, task: str) -> str:
    return f"Data of task {task}" if data is None else f"{data.name} (task {task})"


def _picture_of(place: Path) -> str:
    from flctl.learning.manifest import PICTURE

    if (place / PICTURE).exists():
        return f" and {PICTURE}"
    return "; for a picture too: pip install 'flctl[plot]'"
