"""What one poisoned agent of five does to each strategy: ECG, accuracy on later beats.

    .venv/bin/python benchmarks/poison.py --rounds 30 --partition iid

The last agent sends poison in every round: its change reversed and ten times as large
(`reversed`), or noise (`noise`). Prints JSON lines {"strategy", "poison", "accuracy",
"macro_f1"}.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from flctl.core import events
from flctl.fleet.processes import Blob
from flctl.fleet.virtual import VirtualRun
from flctl.learning.state import checkpoint_metadata, load_state, save_state
from flctl.settings import agent_names

AGENTS = 5
STRATEGIES: dict[str, dict[str, Any]] = {
    "fedavg": {},
    "median": {},
    "trimmed-mean": {"strategy_args": {"trim": 0.2}},
    "krum": {},
    "multi-krum": {},
    "fedavg, clipped": {"clip_norm": 1.0},
}


class PoisonedRun(VirtualRun):
    """Its last agent sends poison."""

    def delivered(self, update: events.UpdateStored, blob: Blob) -> Blob:
        if update.agent != agent_names(AGENTS)[-1]:
            return blob
        with self.folder.model_path(update.round - 1).open("rb") as file:
            base = load_state(file.fileno(), "the model")
        trained = load_state(blob, "the update")
        poison = {
            name: self.spoilt(base[name], tensor) if tensor.is_floating_point() else tensor
            for name, tensor in trained.items()
        }
        spoilt = bytearray()
        save_state(spoilt, poison, checkpoint_metadata(self.settings.task))
        return spoilt

    @staticmethod
    def spoilt(base: torch.Tensor, trained: torch.Tensor) -> torch.Tensor:
        return base - 10 * (trained - base)


class NoisyRun(PoisonedRun):
    @staticmethod
    def spoilt(base: torch.Tensor, trained: torch.Tensor) -> torch.Tensor:  # noqa: ARG004
        return base + 10 * torch.randn_like(base)


KINDS = {"none": VirtualRun, "reversed": PoisonedRun, "noise": NoisyRun}


def accuracy(kind: type[VirtualRun], rounds: int, seed: int, **given: Any) -> tuple[float, float]:
    """Accuracy and macro-F1 after so many rounds; `given` are settings of the run."""
    with tempfile.TemporaryDirectory(prefix="flctl-poison-") as state:
        settings = {"task": "ecg", "virtual": AGENTS, "rounds": rounds, "seed": seed, **given}
        history = kind.start(Path(state), settings, "benchmark").run()
        score = history.rounds[-1].metrics
        assert score is not None, history.state
        return score.values["accuracy"], score.values["macro_f1"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--partition", choices=["record", "iid"], default="record")
    parser.add_argument("--only", choices=STRATEGIES)
    options = parser.parse_args()
    for name, given in STRATEGIES.items():
        if options.only not in (None, name):
            continue
        for poison, kind in KINDS.items():
            found = accuracy(
                kind,
                options.rounds,
                options.seed,
                partition=options.partition,
                strategy=name.split(",")[0],
                **given,
            )
            figures = {"accuracy": round(found[0], 4), "macro_f1": round(found[1], 4)}
            print(json.dumps({"strategy": name, "poison": poison, **figures}), flush=True)


if __name__ == "__main__":
    main()
