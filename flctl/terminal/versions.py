"""What `flctl version` says: this flctl, and what decides whether it works with another one."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from flctl.settings import SCHEMA
from flctl.version import version_of
from flctl.wire.framing import PROTOCOL


def about() -> dict[str, Any]:
    return {
        **version_of()._asdict(),
        "protocol": PROTOCOL,
        "schema": SCHEMA,
        "python": platform.python_version(),
        "torch": _installed("torch"),
        "pyzmq": _installed("pyzmq"),
    }


def in_words(found: dict[str, Any]) -> str:
    unknown = {"commit": "unknown"}
    return "\n".join(
        f"{key:9} {unknown.get(key, 'not installed') if value is None else value}"
        for key, value in found.items()
    )


def _installed(package: str) -> str | None:
    """Without loading it: torch takes seconds."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
