"""Federated learning on a fleet of Raspberry Pis.

The names in `__all__` are the public face; docs/how-to/python.md names what else is. They are
loaded when they are used: `import flctl` needs neither torch nor a socket. Their types stand in
__init__.pyi, so that nothing here imports upwards.
"""

from importlib import import_module
from typing import Any

__all__ = [
    "Anomaly",
    "Cases",
    "Classification",
    "DataError",
    "Examples",
    "FlctlError",
    "Fleet",
    "Metric",
    "MultiLabel",
    "Regression",
    "Task",
    "TrainedRound",
    "Training",
    "connect",
    "read_rows",
    "train",
]
_AT = {
    "Anomaly": "flctl.learning.anomaly",
    "Classification": "flctl.learning.classification",
    "Cases": "flctl.learning.cases",
    "Examples": "flctl.learning.examples",
    "DataError": "flctl.errors",
    "FlctlError": "flctl.errors",
    "Metric": "flctl.wire.messages",
    "MultiLabel": "flctl.learning.classification",
    "Regression": "flctl.learning.regression",
    "Task": "flctl.learning.task",
    "read_rows": "flctl.learning.bad_rows",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("flctl.version").version_of().version
    if name not in __all__:
        raise AttributeError(f"module 'flctl' has no attribute '{name}'")
    return getattr(import_module(_AT.get(name, "flctl.api")), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
