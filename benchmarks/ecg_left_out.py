"""How a model does on patients that it has not learnt from, in whole records: by this the defaults
of task `ecg` are chosen.

    .venv/bin/python benchmarks/ecg_left_out.py
    .venv/bin/python benchmarks/ecg_left_out.py --seed 2 --set lr=0.02 lr_decay=1

The patients of the set that ships are left out in three groups of six, in six of three or each
alone: the more groups, the more patients the others are. Of each group the others
learn federated, one an agent (`--virtual`); 116 and 205 are in the set for testing alone. The best
round's model judges the group, as it is and corrected by the validation part of those that learnt.

The set has at most 250 beats of a class of a patient. So each class of a patient weighs as many
beats as the full record has of it. Printed is the accuracy on each patient, the mean, that without
the two records of paced patients, and accuracy and macro-F1 on all weighted beats together.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from flctl.coordinator.store.folder import RunFolder
from flctl.core.metrics import confusion_of
from flctl.fleet.driving import drive_virtual
from flctl.learning import device
from flctl.learning.correction import corrected, fitted
from flctl.learning.ecg import Ecg
from flctl.learning.evaluation import measured
from flctl.learning.examples import Examples, concatenate
from flctl.learning.state import load_into

GROUPS = (
    (106, 107, 118, 119, 203, 223),
    (109, 124, 208, 215, 217, 220),
    (114, 116, 201, 205, 207, 209),
)
"""Those with bundle branch block or a pacemaker are spread over the groups."""
PACED = (107, 217)
BEATS = {
    106: (1507, 0, 520, 0, 0), 107: (0, 0, 59, 0, 2078), 109: (2492, 0, 38, 2, 0),
    114: (1820, 12, 43, 4, 0), 116: (2302, 1, 109, 0, 0), 118: (2166, 96, 16, 0, 0),
    119: (1543, 0, 444, 0, 0), 124: (1536, 31, 47, 5, 0), 201: (1635, 128, 198, 2, 0),
    203: (2529, 2, 444, 1, 4), 205: (2571, 3, 71, 11, 0), 207: (1543, 107, 210, 0, 0),
    208: (1586, 2, 992, 373, 2), 209: (2621, 383, 1, 0, 0), 215: (3195, 3, 164, 1, 0),
    217: (244, 0, 162, 0, 1802), 220: (1954, 94, 0, 0, 0), 223: (2045, 73, 473, 14, 0),
}  # fmt: skip
"""N, S, V, F and Q of the full records, by the table of beat types in the directory of the MIT-BIH
Arrhythmia Database (https://physionet.org/content/mitdb/1.0.0/)."""
Confusion = NDArray[np.float64]


def groups(number: int) -> Sequence[Sequence[int]]:
    """With more than three, one patient of each of GROUPS after another."""
    if number == len(GROUPS):
        return GROUPS
    patients = [patient for each in zip(*GROUPS, strict=True) for patient in each]
    size = len(patients) // number
    return [patients[first : first + size] for first in range(0, len(patients), size)]


def of_patients(examples: Examples, patients: Sequence[int]) -> Examples:
    assert examples.group is not None
    return examples.select(np.flatnonzero(np.isin(examples.group, [str(p) for p in patients])))


def weighted(confusion: Confusion, beats: Sequence[int]) -> Confusion:
    """Of [target][prediction], so that each row adds up to the class's `beats`."""
    rows = confusion.sum(axis=1)
    factor = np.divide(beats, rows, out=np.zeros(len(rows)), where=rows > 0)
    found: Confusion = confusion * factor[:, None]
    return found


def judge(
    group: Sequence[int], given: dict[str, Any], shown: Callable[[object], None]
) -> dict[str, dict[int, Confusion]]:
    """Weighted confusion of each patient of `group`, by kind of model."""
    task = Ecg()
    train = task.train_data(None)
    whole = concatenate([train, *task.test_parts(None).values()], "the set that ships")
    rest = [patient for patient in BEATS if patient not in group]
    own = of_patients(train, rest)
    assert own.group is not None
    with tempfile.TemporaryDirectory(prefix="flctl-left-out-") as temporary:
        data, state = Path(temporary) / "data", Path(temporary) / "state"
        data.mkdir()
        task.write(data, own, {})
        agents = len(set(own.group.tolist()))
        wanted = {"task": "ecg", "virtual": agents, "data": str(data), "evaluate": "agents"}
        done = drive_virtual(state, {**wanted, **given}, "the benchmark", shown)
        assert done.best is not None, done.reason
        number, checkpoint = done.best
        model = task.model()
        with checkpoint.open("rb") as file:
            load_into(model, file.fileno(), str(checkpoint))
        score = RunFolder.find(state, done.run).history().rounds[number - 1].metrics
    assert score is not None and score.validation is not None
    better = corrected(task, model, fitted(score.validation.counts))
    models: dict[str, nn.Module] = {"as it is": model, "corrected": better or model}
    parts = {patient: of_patients(whole, [patient]) for patient in group}
    return {
        name: {
            patient: weighted(np.array(confusion_of(measured(task, each, part).counts), float),
                              BEATS[patient])
            for patient, part in parts.items()
        }
        for name, each in models.items()
    }  # fmt: skip


def figures(patients: dict[int, Confusion]) -> dict[str, Any]:
    each = {patient: float(np.trace(c) / c.sum()) for patient, c in sorted(patients.items())}
    together = np.sum(list(patients.values()), axis=0)
    hits, both = together.diagonal(), together.sum(axis=0) + together.sum(axis=1)
    return {
        "patients": each,
        "mean": float(np.mean(list(each.values()))),
        "not paced": float(np.mean([a for patient, a in each.items() if patient not in PACED])),
        "accuracy": float(hits.sum() / together.sum()),
        "macro_f1": float(np.mean(2 * hits[both > 0] / both[both > 0])),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--groups", type=int, choices=(3, 6, 18), default=3)
    parser.add_argument("--set", nargs="*", default=(), metavar="KEY=VALUE", help="of the run")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    device.set_up("cpu", threads=1)
    more = {key: json.loads(value) for key, value in (pair.split("=") for pair in options.set)}
    found: dict[str, dict[int, Confusion]] = {}
    for group in groups(options.groups):
        for name, patients in judge(group, {"seed": options.seed, **more}, _shown).items():
            found.setdefault(name, {}).update(patients)
    print(file=sys.stderr)
    result = {name: figures(patients) for name, patients in found.items()}
    if options.json:
        print(json.dumps(result, indent=2))
        return 0
    for name, row in result.items():
        print(f"{name:10}", *(f"{p}:{a:.3f}" for p, a in row["patients"].items()))
    print(f"{'':10}  mean  not paced  accuracy  macro-F1")
    for name, row in result.items():
        print(f"{name:10} {row['mean']:.3f}      {row['not paced']:.3f}     {row['accuracy']:.3f}"
              f"     {row['macro_f1']:.3f}")  # fmt: skip
    return 0


def _shown(_: object) -> None:
    print(".", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
