"""A run in a notebook: the live view of a terminal, as a picture below the cell."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from flctl.core.story import Story

PICTURE_S = 0.25
"""Between two pictures."""


@contextlib.contextmanager
def pictured(story: Story) -> Iterator[Callable[[], None]]:
    """Yields a function that draws the run's current state; outside a notebook it does nothing."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if not hasattr(shell, "kernel"):
        yield lambda: None
        return
    from IPython.display import HTML, display

    from flctl.terminal.live import as_html

    shown = display(HTML(""), display_id=True)
    last = 0.0

    def show() -> None:
        nonlocal last
        if time.monotonic() - last >= PICTURE_S:
            shown.update(HTML(as_html(story)))
            last = time.monotonic()

    try:
        yield show
    finally:
        shown.update(HTML(as_html(story)))
