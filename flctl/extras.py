"""Features that need an extra of the package: training, with torch.

The commands that steer a fleet, the coordinator and the agent's supervisor do without it.
"""

import importlib.util

from flctl.errors import NeedsExtra

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
HOW = f"pip install 'flctl[train]' (CPU build: add --extra-index-url {CPU_INDEX})"


def has_torch() -> bool:
    """Found, not loaded."""
    return importlib.util.find_spec("torch") is not None


def needs_torch(what: str) -> None:
    """Raises NeedsExtra when torch is not installed here; `what` is what needs it."""
    if not has_torch():
        raise NeedsExtra(f"{what} needs torch: {HOW}")


def as_missing_torch(error: BaseException, what: str) -> BaseException:
    """NeedsExtra in place of an import that failed because torch is not installed."""
    if isinstance(error, ModuleNotFoundError) and error.name == "torch":
        return NeedsExtra(f"{what} needs torch: {HOW}")
    return error
