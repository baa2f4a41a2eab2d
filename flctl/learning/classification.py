"""Tasks whose models say which class an example is of, or which labels fit it."""

from typing import TYPE_CHECKING, Any, ClassVar

from flctl.core.metrics import FITS, LOSS
from flctl.learning.examples import Examples
from flctl.learning.task import Task
from flctl.wire.messages import Metric, Says

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


class Classification(Task):
    """Each example is of one of `classes`; the model's output has the shape (n, classes)."""

    says: ClassVar[Says] = "class"
    metrics: ClassVar[tuple[Metric, ...]] = (
        LOSS, Metric("accuracy"), Metric("macro_f1"), Metric("ece", lower=True),
    )  # fmt: skip
    frequencies: ClassVar[tuple[float, ...]] = ()
    """How frequent each class is where the models are used, if the data that they learn from have
    another mix; `evaluate` and `predict` then correct for it (`flctl.learning.correction`)."""

    def loss(self, output: "Tensor", target: "Tensor") -> "Tensor":
        """Cross-entropy; `target` int64, shape (n,)."""
        from torch.nn import functional

        return functional.cross_entropy(output, target)

    def probabilities(self, output: "Tensor") -> "Tensor":
        """Probability of each class, shape (n, classes), from logits or their log-softmax."""
        return output.softmax(dim=1)

    def predicted(self, output: "Tensor") -> "Tensor":
        return self.probabilities(output)

    def wrong_output(self, output: "Tensor", n: int) -> str:
        classes = len(self.classes)
        if output.shape == (n, classes):
            return ""
        return (
            f"a tensor of shape {list(output.shape)}, not [{n}, {classes}]: a row for each "
            f"example of the batch, with a number for each of the {classes} classes"
        )

    def wrong_examples(self, examples: Examples) -> str:
        if examples.classes == len(self.classes):
            return ""
        return f"Examples of {examples.classes} classes, but the task has {len(self.classes)}"


class MultiLabel(Classification):
    """Any number of `classes` fit an example; `y` of `Examples` is 0 or 1, shape (n, classes)."""

    threshold: float | tuple[float, ...] = FITS
    """The probability from which on a label fits, or that of each."""

    says: ClassVar[Says] = "labels"
    metrics: ClassVar[tuple[Metric, ...]] = (LOSS, Metric("macro_f1"))

    def loss(self, output: "Tensor", target: "Tensor") -> "Tensor":
        """Binary cross-entropy of each label, mean over all."""
        from torch.nn import functional

        return functional.binary_cross_entropy_with_logits(output, target.to(output.dtype))

    def probabilities(self, output: "Tensor") -> "Tensor":
        """Probability of each label, shape (n, classes)."""
        return output.sigmoid()

    def fits(self, probabilities: "NDArray[Any]") -> "NDArray[np.bool_]":
        """Which labels fit, shape (n, classes)."""
        import numpy as np

        return probabilities >= np.asarray(self.threshold)

    def wrong_examples(self, examples: Examples) -> str:
        y, labels = examples.y, len(self.classes)
        if y.shape[1:] == (labels,) and bool(((y == 0) | (y == 1)).all()):
            return ""
        return f"targets of shape {list(y.shape)}, not 0 or 1 for each of the {labels} labels"
