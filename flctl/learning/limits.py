"""What the owner of a device allows, held against the batches that would really be trained on."""

from collections.abc import Sequence

import numpy as np
from msgspec.structs import replace

from flctl.errors import OwnerRefuses
from flctl.learning.examples import Indices
from flctl.settings import LocalTraining
from flctl.wire.messages import Limits


def within(
    training: LocalTraining, examples: int, limits: Limits | None
) -> tuple[LocalTraining, int]:
    """`training` on this many examples without batches below the owner's floor, and how many
    examples of each epoch are left out for it.

    Two rounds that differ by one short last batch would tell that batch alone.
    """
    whole, rest = divmod(examples, training.batch_size)
    if limits is None or training.drop_last or not whole or not 0 < rest < limits.min_batch_size:
        return training, 0
    return replace(training, drop_last=True), rest


def check_batches(batches: Sequence[Indices], steps: int, limits: Limits) -> None:
    """Raises OwnerRefuses when a round of this many steps, which begins with these batches, trains
    on too little."""
    smallest = min(map(len, batches))
    if smallest < limits.min_batch_size:
        raise OwnerRefuses(
            f"a batch of {smallest} examples is below --min-batch-size {limits.min_batch_size}"
        )
    if steps < limits.min_batches:
        raise OwnerRefuses(
            f"a round of {steps} batches is below --min-batches {limits.min_batches}"
        )
    if (examples := len(np.unique(np.concatenate(batches)))) < limits.min_examples:
        raise OwnerRefuses(
            f"a round on {examples} examples is below --min-examples {limits.min_examples}"
        )


def check_held_out(examples: int, limits: Limits | None) -> None:
    """Raises OwnerRefuses when the metrics would be those of too few examples."""
    if limits is not None and examples < limits.min_examples:
        raise OwnerRefuses(
            f"measures nothing with {examples} examples, as its --min-examples is "
            f"{limits.min_examples}"
        )
