"""Tasks whose models say a number."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from flctl.core.metrics import CONSTANTS, LOSS, SQUARED, TARGET, averaged
from flctl.learning.examples import Examples
from flctl.learning.task import Task
from flctl.wire.messages import Metric

if TYPE_CHECKING:
    from torch import Tensor


class Regression(Task):
    """A number of each example; the model's output has the shape (n,) or (n, 1).

    The model works in units of its own, in which the targets are around 0 and about 1 apart:
    `unit` = `center` + `scale` x its output. Errors are computed in double precision.
    """

    metrics: ClassVar[tuple[Metric, ...]] = (
        LOSS, Metric("mae", lower=True), Metric("rmse", lower=True), Metric("r2"),
    )  # fmt: skip
    primary: ClassVar[str] = "rmse"
    center: float = 0.0
    """A usual target; a constant, the same for all agents."""
    scale: float = 1.0
    """How far targets usually are from it. MAE is compared with the MAE of the best of 17 constant
    answers, up to two scales from the center."""
    huber: ClassVar[float | None] = None
    """Errors beyond it, in the model's units, count linearly (Huber 1964); None: all squared."""

    def loss(self, output: "Tensor", target: "Tensor") -> "Tensor":
        """Mean squared error, or Huber's, in the model's units."""
        from torch.nn import functional

        wanted = (target.double() - self.center) / self.scale
        given = output.double().reshape(wanted.shape)
        if self.huber is None:
            return functional.mse_loss(given, wanted)
        return functional.huber_loss(given, wanted, delta=self.huber)

    def figures(self, output: "Tensor", target: "Tensor") -> "Mapping[str, Tensor]":
        wanted = target.double()
        error = (self.predicted(output) - wanted).abs()
        found = {"mae": error, SQUARED: error**2, TARGET: wanted}
        needed = averaged(self.measures)
        found = {name: each for name, each in found.items() if name in needed}
        if "mae" in needed:
            for name, away in CONSTANTS.items():
                found[name] = (wanted - (self.center + away * self.scale)).abs()
        return found

    def predicted(self, output: "Tensor") -> "Tensor":
        """In `unit`, float64, shape (n,)."""
        return self.center + self.scale * output.double().reshape(len(output))

    def wrong_output(self, output: "Tensor", n: int) -> str:
        if output.shape in ((n,), (n, 1)):
            return ""
        return (
            f"a tensor of shape {list(output.shape)}, not [{n}] or [{n}, 1]: a number for each "
            "example of the batch"
        )

    def wrong_examples(self, examples: Examples) -> str:
        shape = examples.y.shape
        return "" if len(shape) == 1 else f"targets of shape {list(shape)}, not a number for each"
