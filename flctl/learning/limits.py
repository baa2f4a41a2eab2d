"""What the owner of a device allows, held against the batches that would really be trained on."""

from collections.abc import Sequence

import numpy as np
from msgspec.structs import replace

from flctl.errors import OwnerRefuses
from flctl.formats import counted
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
    for what, have, noun, name in (
        ("a batch of", min(map(len, batches)), "example", "batch_size"),
        ("a round of", steps, "batch", "batches"),
        ("a round on", len(np.unique(np.concatenate(batches))), "example", "examples"),
    ):
        if have < (least := getattr(limits, f"min_{name}")):
            option = f"--min-{name.replace('_', '-')} {least}"
            raise OwnerRefuses(f"{what} {counted(have, noun)} is below {option}")


def check_held_out(examples: int, limits: Limits | None) -> None:
    """Raises OwnerRefuses when the metrics would be those of too few examples."""
    if limits is not None and examples < limits.min_examples:
        raise OwnerRefuses(
            f"measures nothing with {counted(examples, 'example')}, as its --min-examples is "
            f"{limits.min_examples}"
        )
