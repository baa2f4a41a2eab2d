"""Checks what a task must do, one by one, before it is used on a fleet.

Each check takes a `Subject`, says what it has found, and raises FlctlError for a problem.
`flctl.fleet.checking` runs them in order.
"""

import inspect
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray
from torch import nn

from flctl.errors import DataError, FlctlError, TaskError
from flctl.formats import counted
from flctl.learning.dealing import count, kinds_of
from flctl.learning.declared import wrong_threshold
from flctl.learning.examples import Examples
from flctl.learning.fingerprint import SEED, digest_of_data, local_training
from flctl.learning.groups import Groups, save_first
from flctl.learning.partition import partition
from flctl.learning.registry import covered
from flctl.learning.state import (
    assign,
    expect_finite,
    load_state,
    same_bytes,
    save_state,
    specs_of,
)
from flctl.learning.task import Task, initial_model
from flctl.learning.unread import unread
from flctl.settings import Partition

Verdict: TypeAlias = Literal["ok", "note", "problem", "skipped"]
SHORTEST = 4
"""Different numbers in a row that are no coincidence."""
PARTITIONS: tuple[Partition, ...] = ("iid", "label", "dirichlet", "size", "record")


class Finding(msgspec.Struct, frozen=True):
    check: str
    verdict: Verdict
    """A note is no problem, but worth to know; skipped: a check before it has found a problem."""
    text: str
    figures: dict[str, Any] = {}


class Said(msgspec.Struct, frozen=True):
    """What a check says when there is no problem."""

    text: str
    figures: dict[str, Any] = {}
    verdict: Verdict = "ok"


@dataclass
class Subject:
    """A task under examination, and what its methods have made so far."""

    ref: str
    path: Path | None
    task: Task
    model: nn.Module = field(default_factory=nn.Identity)
    train: Examples = field(init=False)
    tests: dict[str, Examples] = field(default_factory=dict)
    groups: Groups = field(init=False)

    def problem(self, what: str, text: str) -> TaskError:
        return TaskError(f"task '{self.task.name}', {what}: {text}")


def check_class(subject: Subject) -> Said:
    """What the class says of itself, before any of its methods is called."""
    task = subject.task
    classes, full = task.classes, task.class_names
    least = {"class": 2, "labels": 1}.get(task.says, 0)
    if len(classes) < least or len(set(classes)) < len(classes):
        raise subject.problem("classes", f"{classes!r}: name two or more, each once")
    if full and len(full) != len(classes):
        raise subject.problem("class_names", f"{len(full)} for {len(classes)} classes")
    if isinstance(task.workers, bool) or not isinstance(task.workers, int) or task.workers < 0:
        raise subject.problem(
            "workers", f"{task.workers!r}: write a number of processes, 0 or more"
        )
    if wrong := wrong_threshold(task):  # one that depends on the task's arguments
        raise subject.problem("threshold", wrong)
    _check_signatures(subject)
    try:
        local_training(task, subject.ref)
    except (FlctlError, AttributeError, TypeError) as error:
        raise subject.problem("defaults", str(error)) from error
    noun = "labels" if task.says == "labels" else "classes"
    text = {"number": "a number", "score": "how unusual an example is"}.get(
        task.says, f"{len(classes)} {noun}: {', '.join(classes)}"
    )
    text += f", in {task.unit}" if task.unit else ""
    figures: dict[str, Any] = {"name": task.name, "classes": list(classes)}
    if ":" not in subject.ref and task.name != subject.ref:
        text += f"; it calls itself '{task.name}', but is installed as '{subject.ref}'"
        return Said(text, figures, "note")
    if idle := ", ".join(f"'{name}'" for name in unread(subject.ref, type(task))):
        return Said(f"{text}; nothing reads its {idle}", figures, "note")
    return Said(text, figures)


def check_model(subject: Subject) -> Said:
    """The model is built on the CPU and has something to train."""
    model = subject.model = initial_model(subject.task, SEED)
    away = {str(t.device) for t in model.state_dict().values()} - {"cpu"}
    if away:
        raise subject.problem(
            "model", f"is built on {', '.join(away)}; build it on the CPU, flctl moves it"
        )
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    subject.groups = Groups.of(subject.task, model)
    text = f"{type(model).__name__}, {total:,} parameters"
    text += f", {trained:,} of them trained" if trained < total else ""
    figures = {"parameters": total, "trained": trained}
    module = type(model).__module__
    if module.partition(".")[0] not in ("torch", "flctl") and not _is_covered(module, subject.ref):
        text += f"; it is defined in {module}, which the task's digest does not cover"
        return Said(text, figures, "note")
    return Said(text, figures)


def _is_covered(module: str, ref: str) -> bool:
    """Whether the task's digest changes with the code of `module`."""
    file = getattr(sys.modules.get(module), "__file__", None)
    root = covered(ref)
    return file is not None and (Path(file) == root or Path(file).is_relative_to(root))


def check_state(subject: Subject) -> Said:
    """The state dict is stored and read back exactly; also how much is sent."""
    state = subject.model.state_dict()
    specs = specs_of(state)
    with tempfile.TemporaryFile() as file:
        _, size = save_state(file.fileno(), state)
        back = load_state(file.fileno(), "the first model")
    expect_finite(subject.model)
    for name, tensor in state.items():
        if not same_bytes(back[name], tensor):
            raise subject.problem("model", f"its state '{name}' is not read back as it was written")
    again = subject.task.model()
    try:
        assign(again, back)
    except Exception as error:
        raise subject.problem("model", f"another one does not take its state: {error}") from error
    once, private = 0, [spec.name for spec in subject.groups.private]
    if subject.groups.frozen or private:
        specs = subject.groups.shared
        with tempfile.TemporaryFile() as file:
            first = save_first(file.fileno(), subject.task.name, subject.model, subject.groups, {})
        size, once = first.size, first.frozen_size
    kinds = ", ".join([counted(len(specs), "tensor"), *sorted({spec.dtype for spec in specs})])
    text = f"an agent receives and sends {size:,} bytes a round: {kinds}"
    text += f"; {once:,} bytes that do not train are sent to it once" if once else ""
    text += f"; {', '.join(private)} never leave it" if private else ""
    return Said(
        text,
        {
            "bytes_per_round": size,
            "bytes_once": once,
            "private": private,
            "tensors": [
                {"name": s.name, "dtype": s.dtype, "shape": list(s.shape), "bytes": s.nbytes}
                for s in specs
            ],
        },
    )


def check_data(subject: Subject) -> Said:
    """There is something to train on, and it is the same each time it is read."""
    task = subject.task
    found = subject.train = task.train_data(subject.path)
    if digest_of_data(task.train_data(subject.path)) != digest_of_data(found):
        raise subject.problem(
            "train_data",
            "another call gives other data, or another order; draw with a seed of your own, "
            "and sort what comes from a set or a folder",
        )
    counts = count(found, kinds_of(task, [found])).classes
    shape, dtype = _form(found)
    each = f"of shape {shape}, {dtype}"
    of = "in a list" if isinstance(found.items, list | tuple) else "of a Dataset"
    text = f"{counted(len(found), 'example')} {each if found.items is None else of}"
    if found.group is not None:
        text += f", of {counted(len(np.unique(found.group)), 'record')}"
    figures = {
        "examples": len(found),
        "shape": shape,
        "dtype": dtype,
        "classes": counts,
        "records": None if found.group is None else len(np.unique(found.group)),
    }
    missing = [name for name in task.classes if found.labelled and not counts.get(name)]
    if missing and task.says != "score":  # those train on what is normal
        return Said(f"{text}; none is of class {', '.join(missing)}", figures, "note")
    return Said(text, figures)


def check_tests(subject: Subject) -> Said:
    """Test data look like training data, but are not the same."""
    task = subject.task
    parts = dict(task.test_parts(subject.path))
    held_out = task.held_out(subject.path)
    subject.tests = parts or ({} if held_out is None else {"held out": held_out})
    if not subject.tests:
        return Said(
            "nothing to evaluate on: give it a method 'held_out', or name --test-data",
            {"parts": {}},
            "note",
        )
    rows: set[int] = set()
    for name, part in {**subject.tests, **({"held out": held_out} if held_out else {})}.items():
        in_memory = part.items is None and subject.train.items is None
        (shape, dtype), (wanted, usual) = _form(part), _form(subject.train)
        if in_memory and (shape, dtype) != (wanted, usual):
            raise DataError(
                f"task '{task.name}', test_parts: '{name}' holds {dtype} of shape {shape}, but "
                f"train_data {usual} of shape {wanted}"
            )
        rows |= part.rows()
    copies = len(rows & subject.train.rows())
    text = ", ".join(f"{n}: {counted(len(p), 'example')}" for n, p in subject.tests.items())
    figures = {"parts": {n: len(p) for n, p in subject.tests.items()}, "also_trained_on": copies}
    if copies:
        return Said(f"{text}; {copies:,} of them are also trained on", figures, "note")
    shared = [n for n, part in subject.tests.items() if _overlaps(subject.train, part)]
    if shared:
        advice = "leave the length of a window between them, or the figures are too good"
        text += f"; windows of {', '.join(shared)} overlap with those for training: {advice}"
        return Said(text, figures, "note")
    return Said(text, figures)


def _overlaps(train: Examples, test: Examples) -> bool:
    """Whether some of a few for testing begin within one for training, after its first sample."""
    long, some = _lines(train, 5000), _lines(test, 100)
    head, found = long.shape[1] // 4, 0
    if head < SHORTEST or long.shape[1] != some.shape[1]:
        return False
    for each in some[:, :head]:
        rows, at = np.nonzero(long[:, 1 : 1 - head] == each[0])
        pairs = list(zip(rows, at + 1, strict=True))[:1000]
        same = any(np.array_equal(long[row, a : a + head], each) for row, a in pairs)
        found += same and len(np.unique(each)) >= SHORTEST
    return found > len(some) / 20


def _lines(examples: Examples, most: int) -> NDArray[Any]:
    """Of up to so many spread over them, one number for each step of the longest dimension."""
    rows = np.unique(np.linspace(0, len(examples) - 1, most).astype(np.int64))
    x = examples.batch(rows)[0].float().numpy()
    longest = max(range(x.ndim), key=lambda at: x.shape[at] * (at > 0))
    return np.moveaxis(x, longest, -1).reshape(len(x), -1, x.shape[longest] if longest else 1)[:, 0]


def check_partition(subject: Subject) -> Said:
    """Which ways there are to deal the data to local and virtual agents."""
    works, fails = [], []
    for way in PARTITIONS:
        try:
            partition(way, subject.train.labels, subject.train.group, 2, seed=SEED)
            works.append(way)
        except DataError as error:
            fails.append(f"{way} not: {str(error).partition('; use')[0]}")
    if not works:
        raise subject.problem("train_data", f"cannot be dealt to two agents: {fails[0]}")
    if fails == ["record not: these data do not say which record an example is of"]:
        fails = ["record not: Examples have no 'group'"]
    return Said("; ".join([", ".join(works), *fails]), {"usable": works})


def _check_signatures(subject: Subject) -> None:
    """Check that each method takes the arguments that flctl's kinds of tasks take."""
    task = type(subject.task)
    kinds = [base for base in reversed(task.__mro__) if base.__module__.startswith("flctl.")]
    known = {name: value for base in kinds for name, value in vars(base).items() if name[0] != "_"}
    for method, wanted in known.items():
        if not inspect.isfunction(wanted):
            continue
        function = getattr(task, method)
        if not callable(function):
            raise subject.problem(method, "is no method")
        own, given = inspect.signature(function), [*inspect.signature(wanted).parameters.values()]
        bound = inspect.getattr_static(task, method)
        first = () if isinstance(bound, staticmethod | classmethod) else (subject.task,)
        places = [None for each in given[1:] if each.kind is not each.KEYWORD_ONLY]
        names = {each.name: True for each in given if each.kind is each.KEYWORD_ONLY}
        try:
            own.bind(*first, *places, **names)
        except TypeError as error:
            told = inspect.signature(wanted)
            raise subject.problem(method, f"takes {own}, not {told}: {error}") from error


def _form(examples: Examples) -> tuple[list[int], str]:
    """Shape and type of an input."""
    x, _ = examples.run(0, 1)
    return list(x.shape[1:]), str(x.dtype).removeprefix("torch.")
