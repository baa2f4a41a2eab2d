"""Personalises the model of a finished run whose agents were virtual or local, in this process.

The own model of an agent is the same, byte for byte, as one that a process of its own makes.
"""

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from flctl.coordinator.store.folder import RunFolder
from flctl.coordinator.store.journal import Journal
from flctl.coordinator.store.models import check_tensors, own_models_path
from flctl.core import events
from flctl.core.history import History
from flctl.core.personal import as_ordered, begun, personalised
from flctl.core.randomness import Seeding
from flctl.core.stream import BatchTrained, Published
from flctl.errors import FlctlError, UsageError
from flctl.fleet.clients import Clients
from flctl.fleet.processes import Answer, Order, OrderDone, PersonaliseClient, workers
from flctl.fleet.virtual import Publish
from flctl.learning import device as devices
from flctl.learning.groups import Groups
from flctl.learning.personal import Data
from flctl.learning.reuse import Reused
from flctl.learning.state import load_frozen, load_state
from flctl.learning.task import task_of
from flctl.learning.training import OnStep
from flctl.worker.fine_tuning import own_model
from flctl.worker.jobs import DataSource, Personal, PersonaliseJob


class PersonalHere:
    """By all agents of the run, or those that are named; `publish` gets every event.

    `again`: continue an order that was interrupted. What `between` raises ends it. `run` raises
    FlctlError.
    """

    def __init__(
        self,
        folder: RunFolder,
        publish: Publish = lambda _: None,
        between: Callable[[], None] = lambda: None,
        order: Mapping[str, Any] | None = None,
        again: bool = False,
    ) -> None:
        self._folder, self._publish, self._between = folder, publish, between
        asked = dict(order or {})
        agents, round_id = asked.get("agents", ()), asked.get("round")
        with contextlib.ExitStack() as undo:
            self._lock = folder.lock()
            undo.callback(self._lock.release)
            self.history: History = folder.history(lean=True)
            self._settings = as_ordered(folder.settings(self.history), asked.get("changes", {}))
            self._began = (again and self.history.personalising) or begun(
                self.history, self._settings, _now(), agents, round_id
            )
            model = folder.kept_model(self._began.round, self.history)
            check_tensors(model, self._began.tensors)
            folder.verify_frozen(self.history)
            self._task = task_of(self._settings)
            with model.open("rb") as file:
                self._start = Groups.of(self._task, self._task.model()).whole(
                    load_state(file.fileno(), str(model)), load_frozen(folder.frozen)
                )
            self._clients = clients = Clients(self._task, self._settings)
            if unknown := sorted({*self._began.agents} - {*clients.names}):
                known = f"{clients.names[0]} to {clients.names[-1]}"
                raise UsageError(f"the run has no agent {unknown[0]}: its agents are {known}")
            self._validation, self._tests = clients.own("validation"), clients.own("test")
            self._device = devices.set_up(self._settings.device, self._settings.threads)
            self._reused = Reused(self._task)
            self._journal = Journal(folder.journal_path)
            undo.pop_all()

    def run(self) -> History:
        began, there = self._began, self._clients.training
        with contextlib.ExitStack() as stack:
            stack.callback(self._lock.release)
            stack.callback(self._journal.close)
            pool = workers(self._settings, self._device.type, self._work, self._leave)
            stack.callback(pool.close)
            if self.history.personalising != began:
                self._tell(began)
            personal = self.history.personal.values()
            done = {event.agent for event in personal if event.number == began.number}
            left = sorted({*(began.agents or there)} & {*there} - done)
            without = {a: "has no data for training" for a in began.agents if a not in there}
            orders = [PersonaliseClient(self._job(agent)) for agent in left]
            reason = "stopped"
            try:
                for outcome in pool.do(orders, self._progress, self._between):
                    self._done(left.pop(0), outcome.answer)
            except (KeyboardInterrupt, FlctlError, OSError) as error:
                reason = str(error) or "stopped by the user"
                raise
            finally:
                without |= dict.fromkeys(left, reason)
                with contextlib.suppress(FlctlError):  # a full disk must not hide the reason
                    self._tell(
                        events.PersonalisingEnded(
                            at=_now(), number=began.number, round=began.round, without=without
                        )
                    )
        return self.history

    def _job(self, agent: str) -> PersonaliseJob:
        began, settings = self._began, self._settings
        return PersonaliseJob(
            task=settings.task,
            source=DataSource(),
            run=self._folder.name,
            base=began.model,
            training=began.training,
            tensors=began.tensors,
            seeding=Seeding(settings.seed, agent, began.round, 0, 0),
            batch_size=settings.test_batch_size,
            folder=str(own_models_path(self._folder, agent)),
        )

    def _work(self, order: Order, on_step: OnStep) -> OrderDone:
        """In this process, or in one of those that share the work."""
        assert isinstance(order, PersonaliseClient)
        agent = order.job.seeding.agent
        parts = self._validation.get(agent), self._tests.get(agent)
        data = Data(self._clients.training[agent], *parts)
        start = self._start
        made = own_model(order.job, self._task, data, start, on_step, self._device, self._reused)
        return OrderDone(made)

    def _leave(self) -> None:
        self._lock.release()
        self._journal.close()

    def _progress(self, order: Order, step: int, steps: int, loss: float) -> None:
        assert isinstance(order, PersonaliseClient)
        agent, number = order.job.seeding.agent, self._began.round
        event = BatchTrained(round=number, agent=agent, step=step, steps=steps, loss=loss)
        self._publish(Published(self._folder.name, event))

    def _done(self, agent: str, answer: Answer) -> None:
        assert isinstance(answer, Personal) and self.history.started is not None
        found = {"shared": answer.shared, "own": answer.own}
        measures = self.history.started.measures
        self._tell(personalised(self._began, agent, answer.epochs, found, measures, _now()))

    def _tell(self, event: events.AnyEvent) -> None:
        self._journal.append([event])
        self.history.apply(event)
        for told in self._journal.told(event):
            self._publish(told)


def _now() -> float:
    return round(time.time(), 3)
