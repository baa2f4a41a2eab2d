"""Imports torchvision, also where its compiled operators do not load.

Its wheel from the registry is linked against CUDA. With a CPU-only torch its
operators are therefore missing, and `import torchvision` fails with "operator
torchvision::nms does not exist" (pytorch/vision#8375 and others). Data sets, transforms
and models use none of them: it is enough to declare them.
"""

import importlib
import sys
from types import ModuleType
from typing import Any

from flctl.errors import TaskError

_declared: list[Any] = []
"""Keeps the declarations alive: a torch Library takes them back when it is collected."""


def import_torchvision() -> ModuleType:
    """torchvision with `torchvision.datasets`. Raises TaskError when it is not installed."""
    try:
        return _import()
    except ModuleNotFoundError as error:
        raise TaskError(f"this task needs {error.name}: pip install 'flctl[vision]'") from error
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise TaskError(f"torchvision does not fit this torch: {error}") from error
    _declare_operators()
    return _import()


def _import() -> ModuleType:
    importlib.import_module("torchvision.datasets")
    return importlib.import_module("torchvision")


def _declare_operators() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # what the failed import left half done
    import torch

    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        schema = f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        library.define(schema)  # type: ignore[no-untyped-call]
    _declared.append(library)
