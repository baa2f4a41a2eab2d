"""`flctl tasks check`: everything that a task must do, before it meets a fleet."""

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from flctl.core.history import why_no_best
from flctl.core.metrics import in_words, is_defined
from flctl.errors import FlctlError, TaskError, UsageError
from flctl.fleet.virtual import VirtualRun
from flctl.learning import checkup, checkup_steps
from flctl.learning import device as devices
from flctl.learning.checkup import Finding, Said, Subject
from flctl.learning.guard import reason
from flctl.learning.registry import locate, source_file, task_digest
from flctl.learning.task import load_task
from flctl.wire.messages import MOST_CLASSES

logger = logging.getLogger(__name__)

Check = Callable[[Subject], Said]
CLIENTS = 2


def check_task(
    ref: str, path: Path | None, args: Mapping[str, Any] = MappingProxyType({})
) -> Iterator[Finding]:
    """One finding after the other; what depends on a problem is skipped.

    `path` None: the data that ship with the task; `args` are the task's. Raises UnknownTask,
    SettingsError.
    """
    devices.set_up("cpu", threads=1)
    try:
        subject = Subject(ref, path, load_task(ref, args))
        yield Finding("import", "ok", *_origin(ref))
        subject.task.settle(path)
    except UsageError:
        raise
    except FlctlError as error:
        yield _problem(ref, "import", error)
        return
    failed: dict[str, str] = {}
    for name, needs, check in CHECKS:
        blocked = next((need for need in needs if need in failed), None)
        if blocked is not None:
            failed[name] = failed[blocked]
            yield Finding(name, "skipped", f"until '{failed[blocked]}' passes")
            continue
        try:
            said = check(subject)
            yield Finding(name, said.verdict, said.text, said.figures)
        except Exception as error:  # whatever a stranger's code has made of it
            failed[name] = name
            yield _problem(ref, name, error)


def check_round(subject: Subject) -> Said:
    """Two virtual clients for one round of a few batches, evaluation included."""
    given = {
        "task": subject.ref,
        "task_args": subject.task.all_args,
        "virtual": CLIENTS,
        "rounds": 1,
        "epochs": 1,
        "federate_after_n_batches": 2,
        "device": "cpu",
        "evaluate": "none" if len(subject.task.classes) > MOST_CLASSES else "auto",
        **({} if subject.path is None else {"data": str(subject.path)}),
    }
    with tempfile.TemporaryDirectory(prefix="flctl-check-") as state:
        run = VirtualRun.start(Path(state), given, f"a trial run of '{subject.ref}'")
        history = run.run()
    if history.state != "finished" or not history.rounds:
        raise TaskError(history.reason)
    score = history.rounds[-1].metrics
    text = f"{CLIENTS} virtual clients trained and were averaged"
    if score is None:
        return Said(text)
    text, figures = f"{text}: {in_words(score)}", dict[str, Any](score.values)
    if score.chosen is None or is_defined(score.chosen):
        return Said(text, figures)
    why = f"no round would be the best: {why_no_best([score])}"
    if subject.path is None:
        raise subject.problem(
            "primary", f"{why}; choose another, or give it a 'validation' that has them"
        )
    # One device's data: those of others may have what is missing.
    return Said(f"{text}; with these data alone {why}", {**figures, "no_best": why}, "note")


CHECKS: tuple[tuple[str, tuple[str, ...], Check], ...] = (
    ("class", (), checkup.check_class),
    ("model", ("class",), checkup.check_model),
    ("state", ("model",), checkup.check_state),
    ("data", ("class",), checkup.check_data),
    ("test data", ("data",), checkup.check_tests),
    ("partition", ("data",), checkup.check_partition),
    ("batch", ("data",), checkup_steps.check_batch),
    ("forward", ("state", "batch"), checkup_steps.check_forward),
    ("step", ("forward",), checkup_steps.check_step),
    ("metrics", ("test data", "step"), checkup_steps.check_metrics),
    ("predict", ("test data", "step"), checkup_steps.check_cases),
    ("same again", ("step",), checkup_steps.check_again),
    ("elsewhere", ("same again",), checkup_steps.check_elsewhere),
    ("cost", ("step",), checkup_steps.check_cost),
    ("round", ("metrics", "partition"), check_round),
)
"""In order: a check, those that must have gone well before, and what does it."""


def _origin(ref: str) -> tuple[str, dict[str, str]]:
    file, digest = source_file(ref), task_digest(ref)
    module, name = locate(ref)
    return (
        f"{module}:{name} in {file}, digest {digest[:12]}",
        {"module": module, "class": name, "file": str(file), "digest": digest},
    )


def _problem(ref: str, name: str, error: Exception) -> Finding:
    logger.debug("check=%s failed", name, exc_info=error)
    text = " ".join(str(error).split()) if isinstance(error, FlctlError) else reason(error)
    return Finding(name, "problem", text if text.startswith("task '") else f"task '{ref}': {text}")
