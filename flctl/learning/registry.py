"""Which tasks there are, found without importing them (or torch).

A task is named by its entry point in the group `flctl.tasks`, or, for local and
virtual runs, as `module:Class`.
"""

import difflib
import importlib
import shlex
import sys
from importlib.machinery import ModuleSpec
from importlib.metadata import entry_points
from pathlib import Path

from msgspec import Struct

from flctl.errors import TaskError, UnknownTask, UsageError, one_line
from flctl.learning.package_files import code_digest, covered_by

GROUP = "flctl.tasks"


class Installed(Struct, frozen=True):
    """A task that a package brings along."""

    name: str
    ref: str
    """module:Class."""
    package: str
    version: str


def installed_tasks() -> list[Installed]:
    """In order of the names; one that two packages register is there twice."""
    found = {
        Installed(
            entry.name,
            entry.value,
            entry.dist.name if entry.dist else "?",
            entry.dist.version if entry.dist else "?",
        )
        for entry in entry_points(group=GROUP)
    }
    return sorted(found, key=lambda task: (task.name, task.package, task.ref))


def known_tasks() -> dict[str, str]:
    """Name → "module:Class" of every installed task, in order of the names."""
    return {task.name: task.ref for task in installed_tasks()}


def task_to_load(given: str | None, named: str, whence: str) -> str:
    """The task to load: `given` on the command line, else the one that `whence` names.

    A file or a coordinator that names `module:Class` would choose code to run, so that from
    there only the names of installed tasks are taken. Raises UsageError.
    """
    if given is not None:
        return given
    if ":" in named:
        raise UsageError(
            f"{whence} names code to import, the task '{one_line(named)}'; only installed tasks "
            f"are taken from there: if you trust it, say --task {shlex.quote(one_line(named))}"
        )
    return named


def check_ref(ref: str) -> None:
    """Raises UnknownTask unless `ref` is installed or names a module that exists."""
    _find(ref)


def task_digest(ref: str) -> str:
    """sha256 of the code and the files that the task comes with, in hexadecimal.

    Of a module in a package it covers the whole package (`covered`), of a single module that
    file. Raises UnknownTask, or TaskError when the module has no source file.
    """
    file = source_file(ref)
    try:
        return code_digest(file, locate(ref)[0])
    except OSError as error:
        where = error.filename or file
        raise TaskError(f"task '{ref}': cannot read {where}: {error.strerror}") from error


def covered(ref: str) -> Path:
    """What the digest is of: see `covered_by`. Raises UnknownTask, TaskError."""
    return covered_by(source_file(ref), locate(ref)[0])


def source_file(ref: str) -> Path:
    """The file of the module that holds the task. Raises UnknownTask, TaskError."""
    spec = _find(ref)
    if spec.origin is None or not spec.has_location:
        raise TaskError(f"task '{ref}': the module {spec.name} has no source file to compare")
    return Path(spec.origin)


def locate(ref: str) -> tuple[str, str]:
    """Module and class that `ref` stands for. Raises UnknownTask, or TaskError when two
    packages bring along a task of that name."""
    own = ":" in ref
    module, _, name = (ref if own else _registered(ref)).partition(":")
    if not module or not name.isidentifier() or not all(map(str.isidentifier, module.split("."))):
        raise UnknownTask(f"task '{ref}' is neither a name nor of the form module:Class")
    if own and str(Path.cwd()) not in sys.path:
        # The console script does not look into the folder that it was started in.
        sys.path.append(str(Path.cwd()))
    return module, name


def _registered(name: str) -> str:
    installed = [task for task in installed_tasks() if task.name == name]
    if len({task.ref for task in installed}) > 1:
        packages = " and ".join(task.package for task in installed)
        raise TaskError(f"task '{name}' is brought along by {packages}: uninstall one of them")
    if installed:
        return installed[0].ref
    tasks = known_tasks()
    near = difflib.get_close_matches(name, tasks, n=1, cutoff=0.5)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    raise UnknownTask(f"unknown task '{name}'{hint}; installed: {', '.join(tasks) or 'none'}")


def _find(ref: str) -> ModuleSpec:
    module, _ = locate(ref)
    importlib.invalidate_caches()
    try:
        spec = _spec_of(module)
    except (Exception, SystemExit) as error:  # of a finder that some package has put there
        raise UnknownTask(f"task '{ref}': cannot import '{module}': {one_line(error)}") from error
    if spec is None:
        raise UnknownTask(f"task '{ref}': there is no module '{module}'")
    return spec


def _spec_of(module: str) -> ModuleSpec | None:
    """As importlib.util.find_spec, which imports the packages around the module: a supervisor or
    a coordinator that only looks must not run the code of a task's package, or load its torch."""
    spec, within, name = None, None, ""
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        found = (finder.find_spec(name, within) for finder in sys.meta_path)
        spec = next((each for each in found if each is not None), None)
        within = spec.submodule_search_locations if spec is not None else None
        if within is None and name != module:
            return None
    return spec
