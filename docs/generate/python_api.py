"""What `import flctl` offers: the names of `flctl.__all__`, documented by their docstrings."""

import inspect

import flctl

GROUPS = {
    "Train and steer": ("train", "connect", "Training", "TrainedRound", "Fleet"),
    "Tasks of your own": (
        "Task", "Classification", "MultiLabel", "Regression", "Anomaly", "Examples", "Cases",
        "read_rows", "Metric",
    ),
    "Errors": ("FlctlError", "DataError"),
}  # fmt: skip


def missing() -> list[str]:
    grouped = {name for names in GROUPS.values() for name in names}
    lack = [f"{name} has no group" for name in set(flctl.__all__) ^ grouped]
    for name in flctl.__all__:
        found = getattr(flctl, name)
        lack += [] if inspect.getdoc(found) else [f"flctl.{name}"]
        if isinstance(found, type) and not issubclass(found, Exception):
            lack += [f"flctl.{name}.{each}" for each in _public(found)]
    return lack


def _public(kind: type) -> list[str]:
    """Methods and properties of its own without a docstring."""
    return [
        name
        for name, value in vars(kind).items()
        if not name.startswith("_")
        and (callable(value) or isinstance(value, property))
        and not inspect.getdoc(getattr(kind, name))
    ]


def page() -> str:
    parts = []
    for title, names in GROUPS.items():
        parts.append(f"## {title}")
        for name in names:
            is_class = isinstance(getattr(flctl, name), type)
            # Nobody but flctl makes these.
            no_arguments = "()" if name in ("Training", "Fleet") else ""
            kind = "class" if is_class else "function"
            lines = [f".. auto{kind}:: flctl.{name}{no_arguments}"]
            if is_class:
                lines += ["   :members:"]
            parts.append("\n".join(["```{eval-rst}", *lines, "```"]))
    return "\n\n".join(parts)
