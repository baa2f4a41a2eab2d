"""Build flctl/learning/data/ecg_demo.npz from the records of the MIT-BIH Arrhythmia Database.

    python scripts/build_ecg_demo.py MITDB OUT.npz            # all 18 records
    python scripts/build_ecg_demo.py MITDB --compare OLD.npz  # those that are there

MITDB is a folder with the .hea, .dat and .atr files of https://physionet.org/content/mitdb/1.0.0/
(`pip install 'flctl[wfdb]'`). The beats are cut by the reader that `--data` uses. Of each class of
a record so many are taken, evenly over the half hour; the first 70 % of its time are for training,
what comes later and two whole patients are not. `--compare` says how far that agrees with a file
that exists, record by record, and ends with 1 when it does not.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flctl.errors import FlctlError
from flctl.files import new_file
from flctl.learning.beats import LATER, R_AT, RATE_HZ, TRAIN, UNSEEN, WINDOW
from flctl.learning.beats_wfdb import annotated
from flctl.learning.ecg import Ecg
from flctl.learning.wfdb_annotations import AAMI

RECORDS = (
    106, 109, 114, 118, 119, 124, 201, 203, 207, 208, 209, 215, 220, 223, 107, 217, 116, 205
)  # fmt: skip
"""In their order in the file; 107 and 217 are paced."""
NEVER_TRAINED_ON = (116, 205)
MOST = {"N": 250, "S": 120, "V": 220, "F": 120, "Q": 220}
"""Beats of a class that are taken of one record."""
TRAIN_SHARE = 0.7
"""Of a record's time."""
SOURCE = "MIT-BIH Arrhythmia Database 1.0.0, PhysioNet, doi:10.13026/C2F305"
CITATION = (
    "Moody GB, Mark RG. The impact of the MIT-BIH Arrhythmia Database. IEEE Eng Med Biol "
    "20(3):45-50 (2001); Goldberger AL et al. PhysioBank, PhysioToolkit, and PhysioNet. "
    "Circulation 101(23):e215-e220 (2000)"
)

Arrays = dict[str, NDArray[Any]]


def beats_of(folder: Path, record: int) -> tuple[Arrays, str]:
    """The beats that are taken of one record, in the order of time, and their lead."""
    found = annotated(folder / f"{record}.hea")
    rr_ms = np.round(np.diff(found.sample) / found.record.rate_hz * 1000)
    sample, symbol = found.sample[found.whole], found.symbol[found.whole]
    y = np.array([AAMI[s] for s in symbol])
    taken = np.sort(
        np.concatenate(
            [evenly(np.flatnonzero(y == c), MOST[name]) for c, name in enumerate(Ecg.classes)]
        )
    )
    if record in NEVER_TRAINED_ON:
        split = np.full(len(taken), UNSEEN)
    else:
        length = found.record.length
        split = np.where(sample[taken] < TRAIN_SHARE * length, TRAIN, LATER)
    return {
        "X": found.x[taken],
        "y": y[taken].astype(np.uint8),
        "record": np.full(len(taken), record, dtype=np.int16),
        "sample": sample[taken].astype(np.int32),
        "symbol": symbol[taken].astype("S1"),
        "rr_prev_ms": np.append(0, rr_ms)[found.whole][taken].astype(np.uint16),
        "rr_next_ms": np.append(rr_ms, 0)[found.whole][taken].astype(np.uint16),
        "split": split.astype(np.uint8),
    }, found.record.lead


def evenly(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """At most so many of `rows`, from the first to the last."""
    return rows[np.round(np.linspace(0, len(rows) - 1, min(most, len(rows)))).astype(np.int64)]


def build(folder: Path, out: Path) -> None:
    parts, leads = [], {}
    for record in RECORDS:
        arrays, lead = beats_of(folder, record)
        parts.append(arrays)
        leads[str(record)] = lead
        print(f"record {record}: {len(arrays['y'])} beats of lead {lead}")
    whole: dict[str, Any] = {
        name: np.concatenate([part[name] for part in parts]) for name in parts[0]
    }
    meta = {
        "classes": Ecg.classes,
        "fs": RATE_HZ,
        "window": WINDOW,
        "r_index": R_AT,
        "units": "ADC, 200 per mV, baseline removed",
        "source": SOURCE,
        "licence": "ODC-BY-1.0",
        "citation": CITATION,
        "leads": leads,
    }
    with new_file(out) as file:
        np.savez_compressed(file, **whole, meta=np.array(json.dumps(meta)))
    print(f"{out}: {len(whole['y'])} beats of {len(RECORDS)} records")


def compare(folder: Path, old: Path) -> bool:
    """Print, for each record that is in `folder`, how its beats agree; whether all do."""
    with np.load(old) as file:
        theirs = {name: file[name] for name in file.files}
    same = True
    there = [record for record in RECORDS if (folder / f"{record}.hea").exists()]
    if not there:
        raise FlctlError(f"{folder}: none of the records {', '.join(map(str, RECORDS))} is there")
    for record in there:
        ours, _ = beats_of(folder, record)
        rows = theirs["record"] == record
        differ = [
            name for name, array in ours.items() if not np.array_equal(array, theirs[name][rows])
        ]
        same = same and not differ
        said = f"different: {', '.join(differ)}" if differ else f"the same: {', '.join(ours)}"
        print(f"record {record}: {len(ours['y'])} beats, there {rows.sum()}; {said}")
    return same


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="MITDB")
    parser.add_argument("out", type=Path, nargs="?", metavar="OUT.npz")
    parser.add_argument("--compare", type=Path, metavar="OLD.npz")
    given = parser.parse_args()
    if (given.out is None) == (given.compare is None):
        parser.error("name either the file to write or, with --compare, one that exists")
    try:
        if given.compare is not None:
            return 0 if compare(given.folder, given.compare) else 1
        build(given.folder, given.out)
    except (FlctlError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
