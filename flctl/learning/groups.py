"""The groups of a model's tensors: shared ones are averaged; frozen ones, which do not train,
travel once and never up; private ones, which the task names, never leave an agent.

Frozen are parameters without gradient, and the buffers of modules all of whose parameters are
frozen. Such modules stay in evaluation mode: batch norm would else count on in them.
"""

import hashlib
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from torch import Tensor, nn

from flctl.errors import CheckpointError, TaskError, UsageError, one_line
from flctl.learning.state import checkpoint_metadata, save_state, specs_of
from flctl.learning.task import Task
from flctl.wire.merging import FROZEN, PRIVATE
from flctl.wire.messages import Digest
from flctl.wire.parameters import TensorSpec

T = TypeVar("T")
Specs = tuple[TensorSpec, ...]


class Groups(NamedTuple):
    shared: Specs
    frozen: Specs
    private: Specs
    buffers: frozenset[str]
    """Names of the buffers, in all groups."""

    @classmethod
    def of(cls, task: Task, model: nn.Module) -> "Groups":
        """Raises TaskError when nothing of the model trains, UsageError when nothing of that is
        shared."""
        state = model.state_dict(keep_vars=True)
        specs, resting = specs_of(state), _resting(model)
        private = _named(task, state)
        frozen = {
            name
            for name, tensor in state.items()
            if name not in private
            and (
                not tensor.requires_grad
                if isinstance(tensor, nn.Parameter)
                else name.rpartition(".")[0] in resting
            )
        }
        if not trained(model):
            raise TaskError(
                f"task '{task.name}', model: has no parameter that can be trained (requires_grad)"
            )
        trains = {name for name, p in model.named_parameters() if p.requires_grad}
        if not trains - private:
            raise UsageError(
                f"task '{task.name}': nothing of its model that trains is shared: it is "
                f"{'frozen or private' if frozen else 'private'}; leave a layer that is neither"
            )
        return cls(
            shared=tuple(spec for spec in specs if spec.name not in frozen | private),
            frozen=tuple(spec for spec in specs if spec.name in frozen),
            private=tuple(spec for spec in specs if spec.name in private),
            buffers=frozenset(name for name, _ in model.named_buffers() if name in state),
        )

    @property
    def digest(self) -> Digest | None:
        """Of names, types and shapes of the private tensors; None without any."""
        text = "\n".join(map(str, self.private))
        return hashlib.sha256(text.encode()).hexdigest() if text else None

    def expect(self, private: Digest | None) -> None:
        """Raises CheckpointError unless a run goes by the same private tensors."""
        if private != self.digest:
            raise CheckpointError(
                "the run keeps other tensors private than this agent's task does: "
                + (one_line(", ".join(map(str, self.private)), 200) or "none")
            )

    def of_shared(self, state: Mapping[str, T]) -> dict[str, T]:
        return {spec.name: state[spec.name] for spec in self.shared}

    def of_private(self, state: Mapping[str, T]) -> dict[str, T]:
        return {spec.name: state[spec.name] for spec in self.private}

    def whole(
        self, shared: Mapping[str, Tensor], frozen: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """One state dict, but for the private tensors. Raises CheckpointError unless each has
        exactly those that it has in the task's own module: a coordinator chooses neither what is
        sent nor what trains."""
        for wanted, found in ((self.shared, shared), (self.frozen, frozen)):
            theirs = specs_of(found)
            if theirs != wanted:
                odd = min(set(wanted) ^ set(theirs))
                raise CheckpointError(f"a checkpoint of another model: they differ in tensor {odd}")
        return {**shared, **frozen}


def _named(task: Task, names: Iterable[str]) -> set[str]:
    """Tensors that the task calls private. Raises TaskError for a pattern that fits none."""
    found: set[str] = set()
    for pattern in task.private:
        fits = {name for name in names if fnmatchcase(name, pattern)}
        if not fits:
            raise TaskError(
                f"task '{task.name}': private: '{pattern}' fits no tensor of its model; there are "
                + one_line(", ".join(names), 200)
            )
        found |= fits
    return found


class FirstSaved(NamedTuple):
    blob: Digest
    size: int
    frozen: Digest | None
    frozen_size: int
    private: Digest | None


def save_first(
    fd: int,
    task: str,
    model: nn.Module,
    groups: Groups,
    read_as: Mapping[str, Any],
    task_args: Mapping[str, Any] = MappingProxyType({}),
) -> FirstSaved:
    """Write the frozen tensors to `fd`, if there are any, and then the shared ones.

    Their metadata name the buffers (statistics, not weights), which both ends of a run use, the
    coordinator without torch, rather than an update's own metadata; the task's arguments; and
    how the run's data are read, where the user said so.
    """
    state, frozen, frozen_size = model.state_dict(), None, 0
    if groups.frozen:
        rest = {spec.name: state[spec.name] for spec in groups.frozen}
        frozen, frozen_size = save_state(fd, rest, _metadata(task, groups, rest))
    names = [spec.name for spec in groups.private]
    more = {
        "read_as": dict(read_as),
        "task_args": dict(task_args),
        FROZEN: frozen,
        PRIVATE: names,
    }
    shared = groups.of_shared(state)
    metadata = _metadata(task, groups, shared) | {k: v for k, v in more.items() if v}
    return FirstSaved(*save_state(fd, shared, metadata), frozen, frozen_size, groups.digest)


def _metadata(task: str, groups: Groups, names: Iterable[str]) -> dict[str, Any]:
    buffers = sorted(groups.buffers.intersection(names))
    return checkpoint_metadata(task) | ({"buffers": buffers} if buffers else {})


def trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def set_training(model: nn.Module) -> None:
    """Training mode, but for what is frozen."""
    model.train()
    for module in _resting(model).values():
        module.train(False)


def _resting(model: nn.Module) -> dict[str, nn.Module]:
    """By name the modules that have parameters, all of them frozen, and those below them."""
    found: dict[str, nn.Module] = {}
    if all(parameter.requires_grad for parameter in model.parameters()):
        return found
    for name, module in model.named_modules(remove_duplicate=False):
        own = list(module.parameters())
        if (own and not any(p.requires_grad for p in own)) or name.rpartition(".")[0] in found:
            found[name] = module
    return found
