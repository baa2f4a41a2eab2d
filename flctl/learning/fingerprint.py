"""Digests of a task's model, data and training: equal ones mean that every agent computes the same.

`python -m flctl.learning.fingerprint REF ARGS [PATH]` prints those of a process of its own, which
has another order of sets and has counted nothing yet.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np
from torch import Tensor

from flctl.core.randomness import Seeding
from flctl.errors import NOT_DECODED, TaskError, one_line
from flctl.learning import device as devices
from flctl.learning.examples import Examples
from flctl.learning.groups import Groups
from flctl.learning.state import save_state
from flctl.learning.task import Task, initial_model, load_task
from flctl.learning.training import LocalResult, OnStep, train_locally
from flctl.settings import LocalTraining, normalised, parse

SEED = 1
STEPS = 3
"""Batches in the training that is compared."""
PROCESS_S = 600.0
"""How long the other process may take."""


class Fingerprint(msgspec.Struct, frozen=True):
    model: str
    """sha256 of the first model."""
    data: str
    """sha256 of inputs, labels and groups of the training data."""
    step: str
    """sha256 of the model after a few batches."""
    classes: tuple[str, ...]
    """What the labels mean."""


def fingerprint(task: Task, ref: str, examples: Examples) -> Fingerprint:
    """Raises TaskError."""
    devices.set_up("cpu", threads=1)
    model, training = initial_model(task, SEED), local_training(task, ref)
    groups = Groups.of(task, model)
    return Fingerprint(
        model=digest_of_state(model.state_dict()),
        data=digest_of_data(examples),
        step=digest_of_state(groups.of_shared(few_steps(task, examples, training).state)),
        classes=tuple(map(str, task.classes)),
    )


def elsewhere(
    ref: str, path: Path | None, args: Mapping[str, Any] = MappingProxyType({})
) -> Fingerprint:
    """Fingerprint that another process computes. Raises TaskError."""
    given = [ref, msgspec.json.encode(dict(args)).decode(), *([] if path is None else [str(path)])]
    hash_seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    done = subprocess.run(
        [sys.executable, "-P", "-m", "flctl.learning.fingerprint", *given],
        env={
            **os.environ,
            "PYTHONHASHSEED": hash_seed,
            # Where this process finds the task; the current folder comes last, there as here.
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p not in ("", str(Path.cwd()))),
        },
        capture_output=True,
        text=True,
        timeout=PROCESS_S,
        check=False,
    )
    try:
        return msgspec.json.decode(done.stdout.strip().rpartition("\n")[2], type=Fingerprint)
    except NOT_DECODED as error:
        last = done.stderr.strip().rpartition("\n")[2] or f"it ended with {done.returncode}"
        raise TaskError(f"task '{ref}' fails in a process of its own: {one_line(last)}") from error


def local_training(task: Task, ref: str) -> LocalTraining:
    """Local training of a run with the task's defaults. Raises SettingsError."""
    where = f"the defaults of task '{ref}'"
    return parse({**normalised(task.defaults, where), "task": ref}, where).local_training(1)


def few_steps(
    task: Task,
    examples: Examples,
    training: LocalTraining,
    steps: int = STEPS,
    on_step: OnStep | None = None,
) -> LocalResult:
    """What an agent does in a round, but only for a few batches. Raises TaskError."""
    return train_locally(
        task,
        initial_model(task, SEED).state_dict(),
        examples,
        msgspec.structs.replace(training, epochs=steps, federate_after_n_batches=steps),
        Seeding(SEED, "pi-01", version=0, sequence=1, position=0),
        on_step=on_step,
    )


def digest_of_state(state: Mapping[str, Tensor]) -> str:
    with tempfile.TemporaryFile() as file:
        return save_state(file.fileno(), state)[0]


def digest_of_data(examples: Examples) -> str:
    """Digest of every number, its type, and the groups."""
    group = examples.group if examples.group is not None else np.empty(0, dtype=np.str_)
    names = np.ascontiguousarray(np.strings.encode(group, "utf-8"))
    found = hashlib.sha256(f"{examples.digest}{names.dtype}{names.shape}".encode())
    found.update(names.data.cast("B") if names.size else b"")
    return found.hexdigest()


def main(arguments: Iterable[str]) -> None:
    """Print the fingerprint as JSON, in the last line."""
    ref, args, *rest = arguments
    task = load_task(ref, msgspec.json.decode(args))
    made = fingerprint(task, ref, task.train_data(Path(rest[0]) if rest else None))
    print(f"\n{msgspec.json.encode(made).decode()}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {error}")
    sys.stdout.flush()
    os._exit(0)  # whatever threads the task has left behind
