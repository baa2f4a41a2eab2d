"""The checks of a task that need a batch: forward, backward, the same again, what it costs."""

import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flctl.core.metrics import LOSS, in_words, is_defined, metrics_of, why_undefined
from flctl.errors import FlctlError
from flctl.formats import counted
from flctl.learning.checkup import Said, Subject
from flctl.learning.evaluation import evaluate
from flctl.learning.examples import Batch
from flctl.learning.fingerprint import (
    SEED,
    Fingerprint,
    elsewhere,
    few_steps,
    fingerprint,
    local_training,
)
from flctl.learning.groups import set_training
from flctl.learning.guard import forward, length, tensors_in
from flctl.learning.loader import BatchPlan, in_order, load, mapped
from flctl.learning.optimizer import check_optimizer
from flctl.learning.prediction import predict
from flctl.learning.state import is_finite, same_bytes
from flctl.learning.summed import SummedMetrics
from flctl.learning.task import Task, initial_model
from flctl.wire.messages import MOST_CLASSES

EVALUATED = 2000
"""Examples at most."""
TIMED = 12
"""Batches."""
FIRST = 2
"""Batches that are slower than the others, and not counted."""
DRAWN_BY = {
    "model": ("model", "draw from torch's own generator, which is seeded before the call"),
    "data": (
        "train_data", "sort what comes from a set or a folder, and draw with a seed of your own",
    ),
    "step": (
        "inputs or the model's forward",
        "draw from torch's own generator, which is seeded for each agent and round",
    ),
    "classes": ("classes", "write them down in their order: a label means the same everywhere"),
}  # fmt: skip
"""By field of a fingerprint: the method that makes it, and what to do when it differs."""


def check_batch(subject: Subject) -> Said:
    """What the model is given."""
    x, y = _batch(subject)
    given = subject.task.inputs(x, training=True)
    if not all(bool(torch.isfinite(part).all()) for part in tensors_in(given)):
        raise subject.problem("inputs", "returns NaN or infinite numbers; divided by 0?")
    text = f"inputs make {_kind(given)} of stored {_kind(x)}"
    known = f"targets {y.min()} to {y.max()}" if subject.train.labelled else "no targets"
    shapes = [list(part.shape) for part in tensors_in(given)]
    figures = {"inputs": shapes[0] if len(shapes) == 1 else shapes}
    if left := _left_out(subject):
        return Said(f"{text}, {known}; {left}", figures, "note")
    return Said(f"{text}, {known}", figures)


def check_forward(subject: Subject) -> Said:
    """One batch through the model, in training and in evaluation."""
    task, model = subject.task, subject.model
    x, _ = _batch(subject)
    set_training(model)
    output = forward(task, model, task.inputs(x, training=True))
    if not bool(torch.isfinite(output).all()):
        raise subject.problem("the model's forward", "returns NaN or infinite numbers")
    model.eval()
    with torch.no_grad():
        twice = [forward(task, model, task.inputs(x, training=False)) for _ in range(2)]
    if not torch.equal(*twice):
        raise subject.problem(
            "the model's forward",
            "differs from call to call in evaluation: draw nothing there (inputs: only when "
            "training; dropout: as nn.Dropout)",
        )
    text = f"the output has the shape {list(output.shape)}, all numbers finite"
    if reason := _alone(subject, x):
        return Said(
            f"{text}; a batch of one example fails in training ({reason}): set defaults = "
            '{"drop_last": True}',
            verdict="note",
        )
    return Said(text)


def check_step(subject: Subject) -> Said:
    """A batch forward and back, then a few steps of the optimiser."""
    task, model = subject.task, subject.model
    training = local_training(task, subject.ref)
    check_optimizer(training, model)
    result = few_steps(task, subject.train, training)  # a loss that is not finite ends it
    unused = _without_gradient(subject)
    steps = counted(result.batches, "batch")
    how = f"{training.batch_size}, {training.optimizer} with lr {training.lr:g}"
    text = f"loss {result.loss:.4f} over {steps} of {how}"
    figures = {"loss": result.loss, "last_loss": result.last_loss}
    before = initial_model(task, SEED).state_dict()
    buffers = {name for name, _ in model.named_buffers()}
    for name, tensor in result.state.items():
        stays = name in buffers and same_bytes(tensor, before[name])
        if not (stays or is_finite(tensor)):
            raise subject.problem("loss", f"after {steps} '{name}' is not finite")
    if unused:
        named = ", ".join(unused[:3]) + (" …" if len(unused) > 3 else "")
        return Said(f"{text}; no gradient reaches {named}: is it used?", figures, "note")
    return Said(text, figures)


def check_metrics(subject: Subject) -> Said:
    """Probabilities, and the figures of the first model on a part of the test data."""
    task = subject.task
    name, part = next(iter(subject.tests.items()), ("train", subject.train))
    part = part.select(np.arange(min(len(part), EVALUATED), dtype=np.int64))
    sums = evaluate(task, subject.model, part)
    if not np.isfinite(loss := sums.means[LOSS.name].mean):
        raise subject.problem("loss", f"is {loss} on '{name}'")
    found = metrics_of(sums, task.measures, SummedMetrics(task).values)
    with torch.no_grad():
        x, _ = next(in_order(task, part, 100))  # by the task's own collate
        said = task.predicted(forward(task, subject.model, task.inputs(x, training=False)))
    within = max(1e-3, torch.finfo(said.dtype).eps)  # half precision has three digits, or two
    wrong = task.says != "number" and bool((said < 0).any())
    if task.says == "class" and bool(
        ((said.double().sum(dim=1) - 1).abs() > within).any() or wrong
    ):
        raise subject.problem("probabilities", "returns rows that are negative or do not sum to 1")
    if wrong:
        raise subject.problem("predicted", "returns negative numbers")
    if len(task.classes) > MOST_CLASSES:
        return Said(
            f"{len(task.classes)} classes: a run can measure {MOST_CLASSES} at most, train this "
            "task with --evaluate none",
            found.values,
            "note",
        )
    text = f"untrained, on {counted(len(part), 'example')} of '{name}': {in_words(found)}"
    missing = [why_undefined(each) for each, v in found.values.items() if not is_defined(v)]
    if missing:
        return Said(f"{text}; {'; '.join(missing)}", found.values, "note")
    return Said(text, found.values)


def check_cases(subject: Subject) -> Said:
    """What `flctl predict` would read of the data, and that the model can judge it."""
    task = subject.task
    own = type(task).cases is not Task.cases
    try:
        cases = task.cases(subject.path)  # type: ignore[arg-type]  # None: what ships, if it can
    except FlctlError as error:
        wrong = "cases: returns" in str(error) or "cases: Cases " in str(error)
        if subject.path is not None or not own or wrong:
            raise
        return Said(f"not tried: {error}; name a file with --data")
    some = cases.examples.select(np.arange(min(len(cases.examples), EVALUATED), dtype=np.int64))
    said = predict(task, subject.model, some, batch_size=100)
    by = "its own 'cases'" if own else "'held_out', as it has no 'cases'"
    text = f"{counted(len(cases.examples), 'example')} to predict, by {by}"
    text += "" if cases.labelled else ", without targets"
    text += f"; {cases.note}" if cases.note else ""
    return Said(text, {"examples": len(cases.examples), "shape": list(said.shape[1:])})


def check_again(subject: Subject) -> Said:
    """The same seed gives the same first model and the same bytes after a few steps."""
    task, ref = subject.task, subject.ref
    one = fingerprint(task, ref, subject.train)
    other = fingerprint(task, ref, subject.train)
    _same(subject, one, other, "")
    return Said(
        f"first model {one.model[:12]}, after a few batches {one.step[:12]}, twice",
        {"model": one.model, "data": one.data, "step": one.step},
    )


def check_elsewhere(subject: Subject) -> Said:
    """Another process, like another agent, gives the same."""
    own = fingerprint(subject.task, subject.ref, subject.train)
    _same(
        subject,
        own,
        elsewhere(subject.ref, subject.path, subject.task.all_args),
        " in another process",
    )
    return Said("first model, data and steps are the same in another process")


def check_cost(subject: Subject) -> Said:
    """Time of a batch and memory, on this machine with one thread."""
    training = local_training(subject.task, subject.ref)
    ticks: list[float] = []
    few_steps(
        subject.task,
        subject.train,
        training,
        TIMED + FIRST,
        lambda *_: ticks.append(time.perf_counter()),
    )
    steps = [later - tick for tick, later in itertools.pairwise(ticks)]
    seconds = float(np.median(steps[FIRST - 1 :]))
    batches = BatchPlan(len(subject.train), training, seed=SEED, agent="pi-01").per_epoch
    peak = _peak_bytes()
    memory = "" if peak is None else f"; peak memory {peak / 2**20:.0f} MiB with torch"
    return Said(
        f"{1000 * seconds:.2f} ms a batch of {training.batch_size} here, with one thread; "
        f"{batches * seconds:.2g} s once through all data{memory}",
        {"seconds_per_batch": seconds, "batches_per_epoch": batches, "peak_bytes": peak},
    )


def _left_out(subject: Subject) -> str:
    """What of the training data is broken, of up to `EVALUATED` that are spread over them; empty
    for none."""
    rows = np.linspace(0, len(subject.train) - 1, min(len(subject.train), EVALUATED))
    some = subject.train.select(np.unique(rows.astype(np.int64)))
    for _ in in_order(subject.task, some, 100):
        pass
    if not some.broken:
        return ""
    at, why = min(some.broken.items())
    return f"{len(some.broken)} of {len(some)} will be left out; {some.name(at)}: {why}"


def _batch(subject: Subject) -> Batch:
    """The first that an agent with all the data would train on."""
    training = local_training(subject.task, subject.ref)
    plan = BatchPlan(len(subject.train), training, seed=SEED, agent="pi-01")
    return next(iter(load(subject.task, subject.train, [plan.batch(0)])))


def _alone(subject: Subject, x: Any) -> str:
    """Why the model cannot train on one example, though it can on several."""
    training = local_training(subject.task, subject.ref)
    if training.drop_last or (length(x) or 0) < 2:
        return ""
    set_training(subject.model)
    try:
        forward(
            subject.task,
            subject.model,
            subject.task.inputs(mapped(x, lambda t: t[:1]), training=True),
        )
    except FlctlError as error:
        return str(error.__cause__ or error).partition("\n")[0]
    return ""


def _without_gradient(subject: Subject) -> list[str]:
    """Parameters that a batch's loss does not depend on."""
    task, model = subject.task, subject.model
    x, y = _batch(subject)
    set_training(model)
    model.zero_grad()
    output = forward(task, model, task.inputs(x, training=True))
    task.training_loss(subject.train)(output, y).backward()  # type: ignore[no-untyped-call]
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    model_without = [name for name, p in named if p.grad is None]
    model.zero_grad()
    return model_without


def _same(subject: Subject, one: Fingerprint, other: Fingerprint, where: str) -> None:
    """Raises TaskError."""
    for field, (method, advice) in DRAWN_BY.items():
        if getattr(one, field) != getattr(other, field):
            raise subject.problem(method, f"the same seed gives other results{where}; {advice}")


def _peak_bytes() -> int | None:
    """The most memory that this process has had, as the kernel has counted it."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(found[0]) * 1024 if found else None


def _kind(batch: Any) -> str:
    parts = tensors_in(batch)
    return " + ".join(f"{list(p.shape)} {str(p.dtype).removeprefix('torch.')}" for p in parts)
