"""What a user writes to teach a fleet something new: a `Task`.

A whole one is about forty lines: the model, and where an agent's data come from. Most derive from
one of the ready-made kinds, `Classification`, `Regression`, `Anomaly` or `MultiLabel`; see
`examples/` and `docs/how-to/own-tasks.md`.
"""

import contextlib
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias
from weakref import WeakKeyDictionary

from msgspec import Struct
from msgspec.structs import replace

from flctl.core.metrics import LOSS
from flctl.core.randomness import derive
from flctl.errors import FlctlError, TaskError, UnknownTask
from flctl.learning.arguments import converted, plain
from flctl.learning.cases import Cases
from flctl.learning.declared import check_attributes, measures_of
from flctl.learning.examples import Batch, Examples, concatenate
from flctl.learning.guard import blame, guarded, reason
from flctl.learning.origin import Origin, ReadAs, check_known, of_settings
from flctl.learning.registry import locate, task_digest
from flctl.settings import RunSettings
from flctl.wire.messages import Digest, Measures, Metric, Says

if TYPE_CHECKING:
    import torchmetrics
    from torch import Tensor, nn

Loss: TypeAlias = "Callable[[Tensor, Tensor], Tensor]"
"""Model's output and targets to the mean loss of the batch, a scalar."""


class Task:
    """Something that a fleet can learn. Subclass it, or one of the kinds, and name it."""

    name: ClassVar[str]
    says: ClassVar[Says] = "number"
    """What its models say of an example."""
    classes: tuple[str, ...] = ()
    class_names: ClassVar[tuple[str, ...]] = ()
    """The classes in full, where `classes` are abbreviations."""
    axes: ClassVar[tuple[str, str]] = ("", "")
    """What the two numbers of `points` are, with units."""
    defaults: ClassVar[Mapping[str, Any]] = {}
    """Default settings of a run of this task, by key; flags and files override them."""
    unit: str = ""
    """Unit of the models' output, where that is a number."""
    metrics: ClassVar[tuple[Metric, ...]] = (LOSS,)
    """What its models are measured by: "loss", those of its kind, and names that `figures`
    gives."""
    primary: ClassVar[str] = LOSS.name
    """The one of them that the best round is chosen by."""
    validation_share: ClassVar[float] = 0.15
    """The last of each group of the training data; 0: nothing is taken."""
    options: ClassVar[tuple[str, ...]] = ()
    """Fields of `ReadAs` that this task makes use of."""
    private: ClassVar[tuple[str, ...]] = ()
    """Patterns of the names of tensors that never leave an agent, such as "head.*"; each agent
    trains its own."""
    workers: ClassVar[int] = 0
    """Processes that load and collate batches; 0: the worker itself."""

    _measures: Measures | None = None
    read_as: ReadAs | None = None
    """How the owner of the data wants them to be read; None: as the environment says."""
    args: Struct | None = None
    """The task's own arguments, which a run sets: a frozen msgspec Struct with a default for each;
    None: it has none."""

    @property
    def measures(self) -> Measures:
        """The metrics of this task, and how their sums are laid out."""
        if type(self).torchmetrics is Task.torchmetrics:
            return measures_of(self)
        from flctl.learning.summed import SummedMetrics

        if self._measures is None:
            sizes = SummedMetrics(self).sizes
            self._measures = replace(measures_of(self), states=sizes)
        return self._measures

    def will_read(self, read_as: ReadAs) -> None:
        """From now on it reads data so. Raises UsageError for what it has no option for."""
        check_known(read_as, self.options, self.name)
        self.read_as = read_as

    def take(self, given: Mapping[str, Any]) -> "Task":
        """This task with these arguments. Raises SettingsError for what it does not have."""
        self.args = converted(self.args, given, self.name)
        return self

    def settle(self, path: Path | None) -> None:
        """Take from the data at `path`, which may be a whole fleet's, the arguments that were not
        given, once and for all of a run's agents: the names of the classes, for instance.

        Raises DataError.
        """

    def expect_target(self, path: Path) -> None:
        """Raises UsageError when the data lack the column that the argument `target` names."""

    @property
    def all_args(self) -> dict[str, Any]:
        """Its arguments, as `take` takes them."""
        return plain(self.args)

    def origins(self, path: Path | None) -> Sequence[Origin]:  # noqa: ARG002
        """What was read of each file at `path`, for people. Raises DataError."""
        return ()

    def model(self) -> "nn.Module":
        """A new model; what its output must be depends on the kind of task."""
        raise TaskError(f"task '{self.name}' has no method 'model'; every task needs one")

    def is_here(self) -> bool:
        """Whether the data that ship with the task can be read without a network."""
        return True

    def train_data(self, path: Path | None) -> Examples:  # noqa: ARG002
        """What an agent trains on: its file or folder, None for what ships with the task.

        Raises DataError.
        """
        raise TaskError(f"task '{self.name}' has no method 'train_data'; every task needs one")

    def validation(self, path: Path | None) -> Examples | None:  # noqa: ARG002
        """What the best round is chosen by, never trained on: not in `train_data` either. None:
        flctl takes `validation_share` of each group of an agent's `train_data` for it.
        """
        return None

    def held_out(self, path: Path | None) -> Examples | None:  # noqa: ARG002
        """What an agent evaluates on, never trained on; None when it has nothing of the kind."""
        return None

    def test_parts(self, path: Path | None) -> dict[str, Examples]:
        """What the coordinator evaluates on, by name; the first part is the one that counts."""
        held_out = self.held_out(path)
        return {} if held_out is None else {"test": held_out}

    def cases(self, path: Path) -> Cases:
        """What `flctl predict` judges: all examples of a file or folder, in their order; their
        targets need not be known. Unless this is overridden, those that are for testing, which is
        noted where the file has others too.

        Raises DataError.
        """
        parts = self.test_parts(path)
        if not parts:
            return Cases(self.train_data(path))
        examples, note = concatenate(list(parts.values()), str(path)), ""
        with contextlib.suppress(FlctlError):  # a file may be for testing alone
            train = self.train_data(path)
            known = train.items is None or train.names is not None
            if known and not train.rows() <= examples.rows():
                note = f"only what is for testing; {len(train):,} for training are left out"
        return Cases(examples, note=note)

    def shape(self) -> tuple[int, ...]:
        """Of a stored input, if the arguments say it; `runs export` then needs no data."""
        return ()

    def points(self, x: "Tensor") -> "tuple[Tensor, Tensor]":
        """What `flctl predict --plot` draws of `x`: across, and up a curve, or one in each column.
        That of a one-dimensional `x` as long as this is not overridden."""
        import torch

        return torch.arange(len(x)), x

    def write(
        self,
        folder: Path,  # noqa: ARG002
        train: Examples | None,  # noqa: ARG002
        tests: Mapping[str, Examples],  # noqa: ARG002
    ) -> None:
        """Write examples into the empty `folder`, for `flctl data split`.

        An agent's folder has `train` and at most one of `tests`: `train_data` and `held_out`
        read them back. Of a task with a `validation` of its own, that part is among them, by the
        name "validation". That for testing has no `train`: `test_parts` reads all `tests` back.
        The same examples make the same bytes. Raises TaskError when the task does not say how.
        """
        raise TaskError(f"task '{self.name}' cannot write data: its class has no method 'write'")

    def sample(self) -> Mapping[str, bytes]:
        """Small files to try the task with, by their path within a folder. Raises TaskError when it
        has none."""
        raise TaskError(f"task '{self.name}' brings no files to try it with")

    def inputs(self, x: "Tensor", *, training: bool) -> "Tensor":  # noqa: ARG002
        """The model's input from a batch of stored examples, on the device that holds `x`, which
        is what `collate` makes: a tensor, or a dict or tuple of some.

        Here is the place to scale, and when `training` to augment: with torch's own
        generator, which is seeded for each agent and round.
        """
        return x.float() if hasattr(x, "float") else x

    def apply(self, model: "nn.Module", x: "Tensor") -> "Tensor":
        """The model's output of what `inputs` has made, for one that takes it in another way."""
        output: Tensor = model(x)
        return output

    def collate(self, examples: Sequence[Batch]) -> Batch:
        """One batch of a list of examples: inputs as a tensor, or a dict or tuple of some, and
        targets. Here sequences of unequal length are padded. Unless this is overridden, a batch
        of what is in memory is taken at once.
        """
        import torch
        from torch.utils.data import default_collate

        x = default_collate([x for x, _ in examples])
        return x, torch.stack([y for _, y in examples])

    def loss(self, output: "Tensor", target: "Tensor") -> "Tensor":  # noqa: ARG002
        """Mean over the batch, a scalar."""
        raise TaskError(
            f"task '{self.name}' has no method 'loss'; write it, or derive its class from "
            "flctl.Classification, Regression, Anomaly or MultiLabel"
        )

    def figures(self, output: "Tensor", target: "Tensor") -> "Mapping[str, Tensor]":  # noqa: ARG002
        """The task's own metrics by name, a number for each example of the batch, shape (n,).
        Each one's mean over the examples is the metric; `metrics` may name NAME_sd, its standard
        deviation, too.
        """
        return {}

    def torchmetrics(self) -> "Mapping[str, torchmetrics.Metric]":
        """Metrics of torchmetrics by the names that `metrics` has, whose states add up; each gets
        what `predicted` says of a batch, and its targets. Import torchmetrics in here.
        """
        return {}

    def training_loss(self, examples: Examples) -> Loss:  # noqa: ARG002
        """The loss to train with; it may depend on what this agent owns."""
        return self.loss

    def predicted(self, output: "Tensor") -> "Tensor":
        """What `flctl predict` says of each example: a number for each, or several in a row."""
        return output

    def wrong_output(self, output: "Tensor", n: int) -> str:  # noqa: ARG002
        """Problem with the model's output for `n` examples; an empty string if there is none."""
        return ""

    def wrong_examples(self, examples: Examples) -> str:  # noqa: ARG002
        """Problem with the targets of labelled examples; an empty string if there is none."""
        return ""


def load_task(ref: str, args: Mapping[str, Any] = MappingProxyType({})) -> Task:
    """The task of that name, or of the form module:Class, with these arguments; its methods are
    watched.

    Raises UnknownTask, TaskError when its module cannot be imported or its class is not whole, or
    SettingsError for arguments that it does not have.
    """
    module_name, class_name = locate(ref)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise UnknownTask(f"task '{ref}': there is no module '{module_name}'") from error
        raise TaskError(f"task '{ref}' needs the package '{error.name}'") from error
    except (Exception, SystemExit) as error:
        raise TaskError(f"task '{ref}' cannot be imported: {reason(error)}") from error
    with contextlib.suppress(TaskError):  # not every module has a source file
        _digests.setdefault(module, task_digest(ref))
    found = getattr(module, class_name, None)
    if found is None:
        raise UnknownTask(f"task '{ref}': {module_name} has no class '{class_name}'")
    if not isinstance(found, type) or not issubclass(found, Task):
        raise UnknownTask(f"task '{ref}': {class_name} is not a subclass of flctl's Task")
    check_attributes(ref, found)
    try:
        return guarded(found().take(args))
    except FlctlError:
        raise
    except (Exception, SystemExit) as error:
        raise TaskError(f"task '{ref}': {class_name}() fails: {reason(error)}") from error


def task_of(settings: RunSettings) -> Task:
    """Task of a run, which reads data as the run does. Raises TaskError, UsageError."""
    task = load_task(settings.task, settings.task_args)
    task.will_read(of_settings(settings))
    return task


_digests: WeakKeyDictionary[ModuleType, Digest] = WeakKeyDictionary()


def loaded_digest(ref: str) -> Digest:
    """Digest of the task's code as this process imported it; its file may have changed since.

    Raises UnknownTask, TaskError.
    """
    module = sys.modules.get(locate(ref)[0])
    return (_digests.get(module) if module is not None else None) or task_digest(ref)


def initial_model(task: Task, seed: int) -> "nn.Module":
    """The model that a run of this seed begins with. Raises TaskError."""
    import torch

    from flctl.learning.device import seed_generators
    from flctl.learning.state import specs_of

    seed_generators(derive(seed, "model"), torch.device("cpu"))
    try:
        model = task.model()
        specs_of(model.state_dict())  # raises for what cannot be stored
    except (Exception, SystemExit) as error:
        blame(task, "model", error)
    return model
