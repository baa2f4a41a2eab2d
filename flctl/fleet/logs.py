"""The log of an agent from afar: read once, or followed over restarts of the agent."""

import time
from collections.abc import Callable, Iterator

from flctl.errors import CoordinatorAway, FlctlError
from flctl.fleet.answers import LogPage
from flctl.fleet.console import RemoteRuns
from flctl.wire.messages import LOG_LINES

LOOK_S = 2.0
"""Between two looks: an agent's supervisor is woken for each."""
MORE_S = 1.0
"""Where an agent sends no more for now, because it has sent much."""


def read(runs: RemoteRuns, agent: str, lines: int, since_s: float | None) -> Iterator[LogPage]:
    """The newest lines, oldest first, in pages. Raises FlctlError."""
    page, left = runs.log(agent, lines, since_s), lines
    while True:
        yield page
        left -= len(page.lines)
        if not page.more or left <= 0:
            return
        if not page.lines:
            time.sleep(MORE_S)
        page = runs.log(agent, left, None, page.cursor)


def follow(
    runs: RemoteRuns,
    agent: str,
    lines: int,
    since_s: float | None,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[LogPage | str]:
    """For ever: pages, and a sentence when the agent is away, or back. Raises FlctlError where
    waiting does not help."""
    page, away = LogPage(agent=agent, lines=(), cursor=""), False
    for page in read(runs, agent, lines, since_s):
        yield page
    while True:
        sleep(MORE_S if page.more else LOOK_S)
        try:
            page = runs.log(agent, LOG_LINES, None, page.cursor)
        except FlctlError as error:
            # The agent or the coordinator is away; all other kinds stay.
            if type(error) not in (FlctlError, CoordinatorAway):
                raise
            if not away:
                yield f"{error}; waiting for it"
            away = True
            continue
        if away:
            away = False
            yield f"{agent} is back"
        yield page
