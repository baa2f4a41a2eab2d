"""Which data this agent has, as its worker has found out."""

import logging

from msgspec.structs import replace

from flctl.agent.config import AgentConfig
from flctl.worker.jobs import TRIES, Describe, Described, JobFailed

logger = logging.getLogger(__name__)


class Datasets:
    """Looked at once, at the start of the agent."""

    def __init__(self, config: AgentConfig, tasks: tuple[str, ...]) -> None:
        self._config, self._tasks = config, tasks
        self._looks = 0
        self.found: Described | None = None
        """None until the worker has looked."""

    @property
    def usable(self) -> frozenset[tuple[str, str]]:
        """(name, task) of all that can be trained or evaluated on."""
        infos = self.found.datasets if self.found is not None else ()
        return frozenset((info.name, info.task) for info in infos)

    def look(self) -> Describe:
        """The job that finds out."""
        self._looks += 1
        named = bool(self._config.tasks)  # nobody expects a download for what is merely installed
        return Describe(
            tasks=self._tasks,
            datasets=self._config.datasets,
            download=named,
            device=self._config.device,
        )

    def on_described(self, found: Described) -> None:
        if found.error is None and found.problems and self._config.tasks:
            # The owner has named these tasks: that one cannot be used is no mere chance.
            found = replace(found, error="; ".join(found.problems)[:2000])
        self.found = found
        for info in found.datasets:
            logger.info(
                "dataset=%s task=%s examples=%d held_out=%d",
                info.name,
                info.task,
                info.examples,
                info.held_out,
            )
        if found.error is not None:
            logger.error("%s: %s", "not usable" if found.datasets else "no data", found.error)

    def on_failed(self, failure: JobFailed) -> None:
        """A worker that has died may be luckier the next time."""
        if not failure.is_death or self._looks >= TRIES:
            error = failure.message
            self.on_described(Described(datasets=(), torch="", cuda=False, error=error))
