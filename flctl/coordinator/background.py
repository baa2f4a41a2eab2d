"""Work that must not hold up the sockets: disk, aggregation, evaluation."""

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
OnDone = Callable[[Any, BaseException | None], None]
logger = logging.getLogger(__name__)


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
