"""Tasks whose models say how unusual an example is."""

from typing import TYPE_CHECKING, ClassVar

from flctl.core.metrics import LOSS
from flctl.errors import TaskError
from flctl.learning.examples import Examples
from flctl.learning.task import Task
from flctl.wire.messages import Metric, Says

if TYPE_CHECKING:
    from torch import Tensor, nn


class Anomaly(Task):
    """Finds examples that its model reconstructs badly; the model's output has the shape of its
    input.

    It trains on what is normal, without labels. Where `y` of `Examples` is known (1: an anomaly),
    AUROC says how well scores tell the two apart. The threshold is what 99 of 100 examples of the
    validation part are below.
    """

    says: ClassVar[Says] = "score"
    classes = ("normal", "anomaly")
    metrics: ClassVar[tuple[Metric, ...]] = (
        LOSS, Metric("auroc"), Metric("threshold", lower=True),
    )  # fmt: skip

    def apply(self, model: "nn.Module", x: "Tensor") -> "Tensor":
        """The score of each example, shape (n,)."""
        return self.score(model(x), x)

    def score(self, output: "Tensor", x: "Tensor") -> "Tensor":
        """How unusual each example is, from 0 on, shape (n,): the mean squared error of its
        reconstruction."""
        if output.shape != x.shape:
            raise TaskError(f"the output has the shape {list(output.shape)}, not {list(x.shape)}")
        return (output - x).square().flatten(1).mean(dim=1)

    def loss(self, output: "Tensor", target: "Tensor") -> "Tensor":  # noqa: ARG002
        """The mean score."""
        return output.double().mean()

    def wrong_output(self, output: "Tensor", n: int) -> str:
        return "" if output.shape == (n,) else f"scores of shape {list(output.shape)}, not [{n}]"

    def wrong_examples(self, examples: Examples) -> str:
        y = examples.targets
        if y.ndim == 1 and ((y == 0) | (y == 1)).all():
            return ""
        return (
            f"targets of shape {list(y.shape)} that are not 0 (normal) or 1 (an anomaly) for each"
        )
