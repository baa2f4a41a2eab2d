"""The inter-patient protocol of de Chazal et al. 2004 on the MIT-BIH records: 22 records to learn
from (DS1), 22 others to be judged (DS2). The four records of paced patients are in neither.

    .venv/bin/python benchmarks/ecg_ds1_ds2.py MITDB
    .venv/bin/python benchmarks/ecg_ds1_ds2.py MITDB --seed 2 --json

MITDB is a folder with the .hea, .dat and .atr files of https://physionet.org/content/mitdb/1.0.0/
(`pip install 'flctl[wfdb]'`). Task `ecg` with its defaults learns once federated, one record an
agent (`--virtual`), and once with all of DS1 in one place; the last round counts. DS2 is judged by
each model as it is, and corrected by what its validation part, of DS1, says
(docs/explanation/ecg.md).

Printed are sensitivity and positive predictivity of N, S (SVEB), V (VEB) and F, the accuracy, and
jκ = κ/2 + (the sum of both figures of S and V)/8 (Mar et al. 2011). De Chazal et al. reach 0.862
and 0.612, with two leads. Beats of class Q (15 of the whole protocol) count in accuracy and κ.

Records that are missing are named: without all 44 the figures compare with nothing.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from flctl.coordinator.store.folder import RunFolder
from flctl.core.metrics import confusion_of
from flctl.errors import FlctlError
from flctl.fleet.driving import drive_virtual
from flctl.learning import device
from flctl.learning.baseline import central
from flctl.learning.correction import corrected, fitted
from flctl.learning.ecg import Ecg
from flctl.learning.evaluation import measured
from flctl.learning.examples import Examples, concatenate
from flctl.learning.state import load_into
from flctl.learning.validation import parted
from flctl.wire.messages import Metrics

DS1 = (101, 106, 108, 109, 112, 114, 115, 116, 118, 119, 122, 124, 201, 203, 205, 207, 208, 209,
       215, 220, 223, 230)  # fmt: skip
DS2 = (100, 103, 105, 111, 113, 117, 121, 123, 200, 202, 210, 212, 213, 214, 219, 221, 222, 228,
       231, 232, 233, 234)  # fmt: skip
S, V = 1, 2
DE_CHAZAL = {"accuracy": 0.862, "j_kappa": 0.612}


def beats_of(mitdb: Path, records: Sequence[int]) -> tuple[Examples | None, list[int]]:
    """All beats of the records that are there, and those that are missing."""
    there = [record for record in records if (mitdb / f"{record}.hea").is_file()]
    parts = [Ecg().cases(mitdb / f"{record}.hea").examples for record in there]
    missing = [record for record in records if record not in there]
    return concatenate(parts, str(mitdb)) if parts else None, missing


def figures(confusion: NDArray[np.int64]) -> dict[str, Any]:
    """Of [target][prediction]; None for a class without such beats."""
    hits, true, said = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    n = confusion.sum()
    accuracy, chance = hits.sum() / n, float(true @ said) / n**2
    with np.errstate(invalid="ignore"):
        sensitivity, predictivity = hits / true, hits / said
    j = float(np.nansum([each[c] for each in (sensitivity, predictivity) for c in (S, V)]))
    kappa = (accuracy - chance) / (1 - chance) if chance < 1 else 0.0
    return {
        "beats": int(n),
        "accuracy": float(accuracy),
        "j_kappa": float(kappa / 2 + j / 8),
        "sensitivity": _by_class(sensitivity),
        "predictivity": _by_class(predictivity),
    }


def _by_class(values: NDArray[np.float64]) -> dict[str, float | None]:
    each = zip(Ecg.classes[:4], values.tolist(), strict=False)
    return {name: None if np.isnan(value) else value for name, value in each}


def judged(name: str, model: nn.Module, validation: Metrics, test: Examples) -> dict[str, Any]:
    task = Ecg()
    better = corrected(task, model, fitted(validation.counts))
    models = {name: model, f"{name}, corrected": better or model}
    confusions = {n: confusion_of(measured(task, m, test).counts) for n, m in models.items()}
    return {n: figures(np.array(confusion)) for n, confusion in confusions.items()}


def compare(train: Examples, test: Examples, rounds: int, seed: int) -> dict[str, Any]:
    assert train.group is not None
    task, agents = Ecg(), len(set(train.group.tolist()))
    validation = parted(train, task.validation_share)[1]
    assert validation is not None
    with tempfile.TemporaryDirectory(prefix="flctl-ecg-") as temporary:
        data, state = Path(temporary) / "ds1", Path(temporary) / "state"
        data.mkdir()
        task.write(data, train, {})
        given = {"task": "ecg", "virtual": agents, "rounds": rounds, "seed": seed,
                 "data": str(data), "evaluate": "agents"}  # fmt: skip
        done = drive_virtual(state, given, "the benchmark", _shown)
        assert done.checkpoint is not None
        model = task.model()
        with done.checkpoint.open("rb") as file:
            load_into(model, file.fileno(), str(done.checkpoint))
        settings = RunFolder.find(state, done.run).settings()
    found = judged("federated", model, measured(task, model, validation), test)
    kept: list[nn.Module] = []
    rest = parted(train, task.validation_share)[0]
    central(task, [rest], settings, validation, every=rounds, on_model=lambda *m: kept.append(m[2]))
    return found | judged("one place", kept[-1], measured(task, kept[-1], validation), test)


def _shown(_: object) -> None:
    print(".", end="", file=sys.stderr, flush=True)


def _printed(found: dict[str, Any]) -> None:
    head = "".join(f"  {name} Se   {name} +P " for name in Ecg.classes[:4])
    print(f"{'':22s}  beats  accuracy    jκ {head}")
    for name, each in found.items():
        measures = (each["sensitivity"], each["predictivity"])
        pairs = [of[c] for c in Ecg.classes[:4] for of in measures]
        cells = "  ".join("    -" if value is None else f"{value:.3f}" for value in pairs)
        line = f"{name:22s} {each['beats']:6d}     {each['accuracy']:.3f} {each['j_kappa']:.3f}"
        print(f"{line}  {cells}")
    print(
        f"{'de Chazal et al. 2004':22s}            {DE_CHAZAL['accuracy']} {DE_CHAZAL['j_kappa']}"
    )


def run(mitdb: Path, rounds: int, seed: int) -> dict[str, Any]:
    """Raises FlctlError."""
    train, of_1 = beats_of(mitdb, DS1)
    test, of_2 = beats_of(mitdb, DS2)
    for name, records in (("DS1", of_1), ("DS2", of_2)):
        if records:
            print(f"missing of {name}: {', '.join(map(str, records))}", file=sys.stderr)
    if train is None or test is None:
        name = "DS1" if train is None else "DS2"
        raise FlctlError(f"{mitdb}: no record of {name} is there, so nothing can be compared")
    if of_1 or of_2:
        print("These are figures of a part: compare them with nothing.", file=sys.stderr)
    return {"missing": [*of_1, *of_2], "figures": compare(train, test, rounds, seed)}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="MITDB")
    parser.add_argument("--rounds", type=int, default=Ecg.defaults["rounds"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    device.set_up("cpu", threads=1)
    try:
        found = run(given.folder, given.rounds, given.seed)
    except (FlctlError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    if given.json:
        print(json.dumps(found, indent=2))
    else:
        _printed(found["figures"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
