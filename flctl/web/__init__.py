"""The web page and /metrics: an operator's view of a coordinator, in a process of its own."""

import importlib.util
from pathlib import Path
from typing import Any

from flctl.errors import NeedsExtra

NEEDED = ("starlette", "uvicorn", "jinja2", "prometheus_client")


def run(state: Path, context: str | None, verbose: bool, *options: Any) -> None:
    """Serve until it is interrupted; `options` as `WebOptions`. Raises FlctlError."""
    if not all(importlib.util.find_spec(name) for name in NEEDED):
        raise NeedsExtra("flctl web needs some packages more: pip install 'flctl[web]'")
    from flctl.web.serving import WebOptions, run_web

    run_web(state, context, WebOptions(*options), verbose)
