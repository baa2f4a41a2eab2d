"""Work that must not hold up the sockets: disk, aggregation, evaluation."""

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
OnDone = Callable[[Any, BaseException | None], None]
logger = logging.getLogger(__name__)

CLOSE_S = 2.0


class Background(Protocol):
    """Runs work elsewhere, one piece after another, and hands the outcome back here."""

    def submit(
        self, work: Callable[[], T], done: Callable[[T | None, BaseException | None], None]
    ) -> None:
        """`done(result, None)` or `done(None, error)` is called from `finish`, later."""

    def finish(self) -> None:
        """Call `done` of everything that has ended since the last call."""

    def close(self) -> None: ...


class ThreadBackground:
    """One thread; `wake` is called from it whenever something has ended."""

    def __init__(self, name: str, wake: Callable[[], None]) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._ended: deque[tuple[Future[Any], OnDone]] = deque()
        self._wake = wake

    def submit(self, work: Callable[[], T], done: OnDone) -> None:
        future = self._pool.submit(work)

        def ended(future: Future[T]) -> None:
            self._ended.append((future, done))
            self._wake()

        future.add_done_callback(ended)

    def finish(self) -> None:
        while self._ended:
            future, done = self._ended.popleft()
            error = future.exception() if not future.cancelled() else None
            if not future.cancelled():
                done(None if error else future.result(), error)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


class InlineBackground:
    """Does the work at once, in order, within `finish`: for tests and simulations."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Callable[[], Any], OnDone]] = deque()

    def submit(self, work: Callable[[], T], done: OnDone) -> None:
        self._waiting.append((work, done))

    def finish(self) -> None:
        while self._waiting:
            work, done = self._waiting.popleft()
            try:
                result, error = work(), None
            except Exception as caught:
                result, error = None, caught
            done(result, error)

    def close(self) -> None:
        self._waiting.clear()


class DaemonBackground:
    """One thread that the end of the process does not wait for: its work may hang for good, as on a
    disk that no longer answers. It is started with the first piece of work."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._todo: SimpleQueue[tuple[Callable[[], Any], OnDone] | None] = SimpleQueue()
        self._ended: deque[tuple[Any, BaseException | None, OnDone]] = deque()
        self._thread: threading.Thread | None = None

    def submit(self, work: Callable[[], T], done: OnDone) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        self._todo.put((work, done))

    def finish(self) -> None:
        while self._ended:
            result, error, done = self._ended.popleft()
            done(result, error)

    def close(self) -> None:
        """What is in progress has a moment to end."""
        if self._thread is not None:
            self._todo.put(None)
            self._thread.join(CLOSE_S)

    def _work(self) -> None:
        while (piece := self._todo.get()) is not None:
            work, done = piece
            try:
                self._ended.append((work(), None, done))
            except Exception as error:
                self._ended.append((None, error, done))
