"""What `flctl data` reads, shows and divides."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec.structs import replace as replaced

import flctl
from flctl.errors import UsageError
from flctl.files import explained, make_folder, replace
from flctl.folders import new_folder
from flctl.learning.dealing import TRAIN, Plan, count, kinds_of, write_shares
from flctl.learning.manifest import MANIFEST, PICTURE, Manifest, check_place, read_manifest
from flctl.learning.origin import Origin
from flctl.learning.source import parts_of
from flctl.learning.splitting import read_named, split_command, split_settings
from flctl.records.plots.data import can_draw, draw_data, draw_shares
from flctl.records.plots.style import needs_matplotlib, picture_path
from flctl.terminal import data_tables, output
from flctl.terminal.patience import waiting
from flctl.wire.messages import VALIDATION

LOOKING_S = 60
"""Time for the examples that are read one by one; a picture of 12 megapixels takes 0.05 s."""


def describe(
    data: Path | None, task: str | None, args: Mapping[str, Any], png: Path | None, json: bool
) -> None:
    """Print, and draw, what there is of each class, part and record. Raises FlctlError."""
    if png is not None:
        needs_matplotlib()
        png = picture_path(png, "--png", [] if data is None else [data])
    if data is not None and task is None and (data / MANIFEST).exists():
        manifest = read_manifest(data)
        if png is not None:
            draw_shares(png, manifest)
        output.print_json(manifest) if json else data_tables.show_shares(manifest)
        return
    name, learnt, found = read_named(data, task, args)
    shown = found.parts
    if found.train is not None:
        training, validation = parts_of(learnt, data, found.train)
        shown = {TRAIN: training, **({VALIDATION: validation} if validation else {}), **found.tests}
    kinds = kinds_of(learnt, shown.values())
    parts = {part: count(examples, kinds) for part, examples in shown.items()}
    title = f"Data of task {name}" if data is None else f"{data.name} (task {name})"
    if png is not None:
        draw_data(png, title, kinds.noun, kinds.names, parts)
    origins = list(found.cases.origins if found.cases else learnt.origins(data))
    if any(part.items is not None for part in shown.values()):
        from flctl.learning.careful import unread

        with waiting(f"reading the examples of {title}"):
            broken = unread(shown.values(), time.monotonic() + LOOKING_S)
        first = origins.pop(0) if origins else Origin(file=str(data or name))
        origins.insert(0, replaced(first, left_out={**first.left_out, **broken}))
    if json:
        result = {"path": data and str(data), "task": name, "parts": parts, "read": origins}
        output.print_json(result)
        return
    data_tables.show_data(title, kinds.noun, kinds.names, parts)
    data_tables.show_origins(origins)
    if found.problem is not None:
        output.warn(f"nothing to train on: {found.problem}")


def split(
    data: Path | None,
    out: Path,
    task: str | None,
    given: Mapping[str, Any],
    force: bool,
    json: bool,
) -> None:
    """Divide data into the new folder `out`, by the settings `given`. Raises FlctlError."""
    place = Path(os.path.realpath(out.expanduser()))
    check_place(place, force)
    if data is not None and data.exists() and data.resolve().is_relative_to(place):
        raise UsageError(f"--out {out}: it contains {data}, the data to deal; name a new folder")
    split_settings("?", {}, given)  # finds mistakes before anything is read
    name, learnt, found = read_named(data, task, given["task_args"])
    settings = split_settings(name, learnt.defaults, given)
    agents = settings.virtual or 1
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
        check_place(place, force)  # another split may have ended there meanwhile
    if json:
        output.print_json(manifest)
        return
    data_tables.show_shares(manifest)
    there = (place / PICTURE).exists()
    picture = f" and {PICTURE}" if there else "; for a picture too: pip install 'flctl[plot]'"
    output.print_line(f"\nin {out}: a folder for each, {MANIFEST}{picture}")
