"""Orders of the coordinator to this agent, and the worker that carries them out.

Train/Evaluate ─► model here? ─► worker runs ─► update held / metrics sent
                    fetch it        └─ died: again, up to TRIES times
"""

import logging
import os
from collections.abc import Callable, Mapping
from typing import Literal

from flctl.agent.config import AgentConfig
from flctl.agent.datasets import Datasets
from flctl.agent.limits import Pace
from flctl.agent.models import ModelDamaged, Models
from flctl.agent.orders import AnyOrder, FailureKind, Order, answers_of, job_of, refusal
from flctl.agent.updates import Updates
from flctl.errors import StateError, WorkerError
from flctl.transport.blobs import Blob, BlobStore
from flctl.transport.channel import Frame
from flctl.wire import messages
from flctl.worker.jobs import (
    TRIES,
    AnyEvent,
    AnyJob,
    Described,
    JobFailed,
    Personal,
    Scored,
    Stepped,
    Trained,
)
from flctl.worker.process import Worker

logger = logging.getLogger(__name__)

PROGRESS_S = 0.5


class Work:
    """`post` gives a message to the coordinator, now or once it is there again; `tell` only
    now. `described` is called when the worker has found out about the data."""

    def __init__(
        self,
        *,
        config: AgentConfig,
        tasks: Mapping[str, messages.Digest],
        worker: Worker,
        store: BlobStore,
        models: Models,
        updates: Updates,
        pace: Pace,
        post: Callable[[messages.Message], None],
        tell: Callable[[messages.Message], bool],
        described: Callable[[], None],
    ) -> None:
        self._config, self._tasks = config, tasks
        self._worker, self._store = worker, store
        self._models, self._updates, self._pace = models, updates, pace
        self._post, self._tell, self._on_described = post, tell, described
        self.data = Datasets(config, tuple(tasks))
        self._orders: list[Order] = []
        self._running: Order | None = None
        self._begun = "", 0  # run and size of the model that was worked on last
        self._answered: list[messages.Evaluated] = []
        self.agent = config.name or ""
        """The name that training is seeded with; the coordinator says it."""
        self.error: str | None = None
        """The last thing that went wrong; None again after the next success."""

    @property
    def doing(self) -> Literal["training", "evaluating"] | None:
        if not self._orders:
            return None
        return "evaluating" if self._orders[0].what == "evaluate" else "training"

    # Orders ---------------------------------------------------------------------------

    def on_order(self, message: AnyOrder, now: float) -> None:
        if isinstance(message, messages.Train) and message.key in self._updates:
            self._updates.offer_again(now, message.key)
            return
        if isinstance(message, messages.Evaluate):
            again = [answer for answer in self._answered if answer.key == message.key]
            for answer in again:
                self._post(answer)
            if again:
                return
        if any(order.is_same_as(message) for order in self._orders):
            return
        for order in [order for order in self._orders if not order.goes_with(message)]:
            logger.info("%s %s superseded", self._labels(order.key), order.what)
            self._forget(order)
        self._orders.append(Order(message))

    def on_next_model(self, message: messages.NextModel) -> None:
        """Only one that is like the last: its owner has let this agent work on that."""
        model = messages.Coded(blob=message.model.blob, size=message.model.size)
        if not self._orders and (message.run, model.size) == self._begun and model == message.model:
            self._models.fetch_ahead(model)

    def on_accepted(self, message: messages.Accepted) -> None:
        if self._updates.forget(message.key):
            logger.info("%s update accepted", self._labels(message.key))

    def on_discarded(self, message: messages.Discarded) -> None:
        if self._updates.forget(message.key):
            logger.warning("%s update discarded: %s", self._labels(message.key), message.reason)

    def on_cancel(self, run: str) -> None:
        for order in [order for order in self._orders if order.key.run == run]:
            logger.info("%s %s cancelled", self._labels(order.key), order.what)
            self._forget(order)
        if not self._orders:
            self._models.give_up()
        self._updates.on_cancel(run)

    def on_chunk(self, chunk: messages.Chunk, payload: Frame, now: float) -> None:
        """Raises MalformedMessage for bytes that were not asked for."""
        order = self._orders[0] if self._orders else None
        try:
            self._models.on_chunk(chunk, payload, now)
        except ModelDamaged as error:
            if order is not None:
                again = not order.fetched_anew
                order.fetched_anew = True
                self._fail(order, "model", str(error), retrying=again)
        except StateError as error:
            self._models.give_up()
            if order is not None:
                self._fail(order, "error", str(error))

    def on_blob_gone(self, blob: messages.Digest) -> None:
        if self._models.fetching != blob:
            return
        self._models.give_up()
        for order in [order for order in self._orders if blob in order.blobs]:
            self._fail(order, "model", f"the coordinator no longer has model {blob[:12]}")

    def _labels(self, key: messages.WorkKey) -> str:
        """How a log line about a round begins."""
        return f"round={key.round} agent={self.agent} run={key.run}"

    # The worker -----------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Begin whatever can begin."""
        if self._worker.busy:
            return
        if self.data.found is None:
            if not self.data.known:
                return  # nor is there work: a coordinator that asks for it has dealt
            self._submit(self.data.look(now), None)
        elif self._orders:
            self._advance(self._orders[0], now)
        elif self.data.changed(now):
            self._submit(self.data.look(now), None)
        else:
            self._rest(now)

    def on_events(self, now: float) -> None:
        for event, fd in self._worker.events():
            order = self._running
            if isinstance(event, Trained) and order is not None and fd is not None:
                self._on_trained(order, event, self._store.adopt(fd, event.blob, event.size), now)
                continue
            if fd is not None:
                os.close(fd)
            self._on_event(event, order, now)

    def close(self) -> None:
        self._worker.stop()
        self._models.close()
        self._updates.close()

    def _on_event(self, event: AnyEvent, order: Order | None, now: float) -> None:
        match event:
            case Described():
                if self.data.on_described(event, now):
                    self._have_looked()
            case Stepped() if order is not None:
                self._on_step(order, event, now)
            case Scored() if order is not None:
                self._running = None
                self._on_scored(order, event)
            case Personal() if order is not None:
                self._running = None
                self._on_personal(order, event)
            case JobFailed():
                self._running = None
                self._on_failed(order, event)
            case _:
                logger.debug("event=%s of the worker: unexpected", type(event).__name__)

    def _rest(self, now: float) -> None:
        """End an idle worker after a while, to free its memory."""
        idle = self._worker.idle_since
        if idle is not None and now - idle >= self._config.worker_idle_s:
            logger.debug("worker=%s idle: stopped", self._worker.pid)
            self._worker.stop()

    def _have_looked(self) -> None:
        if self.data.found is not None:
            self.error = self.data.found.error
            self._on_described()

    def _advance(self, order: Order, now: float) -> None:
        """Fetch the model of an order, or begin it."""
        # A worker that has died begins the same round once more.
        wait_s = self._pace.wait_s(order.pace, now) if order.tries == 0 else 0.0
        refused = refusal(order, self._config, self._tasks, self.data.usable, wait_s)
        if refused is not None:
            self._fail(order, refused.kind, refused.text, again_s=refused.again_s)
            return
        try:
            model = self._models.get(order.message.model)
        except StateError as error:
            self._fail(order, "error", str(error))
            return
        if model is None:
            return
        if order.tries == 0:
            self._pace.begins(order.pace, now)
        order.tries += 1
        self._running = order
        self._begun = order.key.run, order.message.model.shared.size
        digest = getattr(order.message, "settings", None) or "-"
        logger.info("%s %s begins settings=%.12s", self._labels(order.key), order.what, digest)
        code = self._tasks[order.message.task]
        source = self.data.source(order.message.dataset)
        job = job_of(order, source, self._config, self.agent, code, model.frozen)
        self._submit(job, model.shared)

    def _submit(self, job: AnyJob, model: Blob | None) -> None:
        try:
            self._worker.submit(job, None if model is None else model.fd)
        except WorkerError as error:
            order, self._running = self._running, None
            self._on_failed(order, JobFailed(kind="worker died", message=str(error)))

    # Outcomes -------------------------------------------------------------------------

    def _on_step(self, order: Order, event: Stepped, now: float) -> None:
        if now >= order.progress_at or event.step == event.steps:
            order.progress_at = now + PROGRESS_S
            self._tell(
                messages.Progress(
                    key=order.key, step=event.step, steps=event.steps, loss=event.loss
                )
            )

    def _on_trained(self, order: Order, event: Trained, blob: Blob, now: float) -> None:
        self._running, self.error = None, None
        self._orders.remove(order)
        offer = messages.UpdateReady(
            key=order.key, update=order.coded(event.blob, event.size), claim=event.claim
        )
        if self.data.declare(order.message, examples=event.available, data=event.claim.data):
            self._on_described()
        self._updates.hold(offer, blob, now)
        logger.info(
            "%s trained examples=%d batches=%d loss=%.4f bytes=%d took_s=%.1f",
            self._labels(order.key),
            event.claim.examples,
            event.claim.batches,
            event.claim.loss,
            event.size,
            event.claim.seconds,
        )

    def _on_scored(self, order: Order, event: Scored) -> None:
        assert isinstance(order.message, messages.Evaluate)
        if not event.parts:
            if self.data.measured(order.message, {}):
                self._on_described()
            self._fail(order, "data", "this agent has no held-out examples for evaluation")
            return
        self.error = None
        self._orders.remove(order)
        if self.data.measured(order.message, {p: s.examples for p, s in event.parts.items()}):
            self._on_described()
        self._answered = [
            messages.Evaluated(key=order.key, part=part, sums=event.parts.get(part))
            for part in order.message.parts
        ]
        for answer in self._answered:
            self._post(answer)

    def _on_personal(self, order: Order, event: Personal) -> None:
        assert isinstance(order.message, messages.Personalise)
        self.error = None
        self._orders.remove(order)
        if self.data.personalised(order.message, event.shared):
            self._on_described()
        what = f"kept its own model, epochs={event.epochs}" if event.epochs else "keeps the run's"
        logger.info("%s personalised: %s", self._labels(order.key), what)
        for answer in answers_of(order.message, event):
            self._post(answer)

    def _on_failed(self, order: Order | None, event: JobFailed) -> None:
        if order is not None:
            if event.kind == "data" and self.data.lost(order.message, event.message, event.damaged):
                self._on_described()
            kind: FailureKind = "task" if event.kind == "usage" else event.kind
            again = event.is_death and order.tries < TRIES
            self._fail(order, kind, event.message, retrying=again)
        elif self.data.found is None:
            self.data.on_failed(event)
            self._have_looked()

    def _fail(
        self,
        order: Order,
        kind: FailureKind,
        text: str,
        retrying: bool = False,
        again_s: float | None = None,
    ) -> None:
        self.error = f"{kind}: {text}"[:2000]
        logger.error(
            "%s %s failed kind=%s: %s%s",
            self._labels(order.key),
            order.what,
            kind,
            text,
            "; trying again" if retrying else "",
        )
        if not retrying:
            self._forget(order)
        self._post(
            messages.Failed(
                key=order.key,
                what=order.what,
                kind=kind,
                message=text[:2000],
                retrying=retrying,
                again_s=again_s,
            )
        )

    def _forget(self, order: Order) -> None:
        self._orders.remove(order)
        if self._running is order:
            self._running = None
            if self._worker.busy:
                self._worker.cancel()
        fetching = self._models.fetching
        if fetching in order.blobs and not any(fetching in o.blobs for o in self._orders):
            self._models.give_up()
