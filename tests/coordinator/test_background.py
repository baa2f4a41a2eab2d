"""Work on another thread, its outcome on this one."""

import threading

import pytest

from flctl.coordinator.background import InlineBackground, ThreadBackground


class Outcomes(list):
    def __call__(self, result, error) -> None:
        self.append((result, error))


@pytest.fixture
def woken():
    return threading.Semaphore(0)


@pytest.fixture
def background(woken):
    background = ThreadBackground("test", woken.release)
    yield background
    background.close()


def test_the_outcome_is_handed_over_on_the_callers_thread(background, woken):
    """The work runs elsewhere; `done` only within `finish`, so state needs no locks."""
    where = []
    background.submit(threading.get_ident, lambda r, e: where.append((r, e)))
    assert woken.acquire(timeout=30)
    assert where == []
    background.finish()
    ((thread, error),) = where
    assert thread != threading.get_ident() and error is None


def test_work_is_done_in_the_order_in_which_it_was_given(background, woken):
    """A commit never overtakes the update before it."""
    outcomes = Outcomes()
    for n in range(50):
        background.submit(lambda n=n: n, outcomes)
    for _ in range(50):
        assert woken.acquire(timeout=30)
    background.finish()
    assert outcomes == [(n, None) for n in range(50)]


@pytest.mark.parametrize("fault", [OSError("disk"), KeyboardInterrupt(), SystemExit(3)])
def test_an_error_is_an_outcome(background, woken, fault):
    """Neither lost in the thread nor raised in the loop; the next work is done all the same."""
    outcomes = Outcomes()

    def fail():
        raise fault

    background.submit(fail, outcomes)
    background.submit(lambda: "fine", outcomes)
    for _ in range(2):
        assert woken.acquire(timeout=30)
    background.finish()
    assert outcomes == [(None, fault), ("fine", None)]


def test_work_that_was_not_begun_is_dropped_at_the_end(woken):
    """What is in progress is finished first: no file is left half written."""
    background = ThreadBackground("test", woken.release)
    began, go_on, outcomes = threading.Event(), threading.Event(), Outcomes()

    def slow() -> str:
        began.set()
        assert go_on.wait(30)
        return "whole"

    background.submit(slow, outcomes)
    background.submit(lambda: "never", outcomes)
    assert began.wait(30)
    closing = threading.Thread(target=background.close)
    closing.start()
    go_on.set()
    closing.join(30)
    background.finish()
    assert ("whole", None) in outcomes
    assert all(error is None for _, error in outcomes)


def test_inline_work_is_done_within_finish():
    """Work that is given by `done` is done in the same call: for tests and simulations."""
    background, outcomes = InlineBackground(), Outcomes()

    def more(result, error) -> None:
        outcomes(result, error)
        background.submit(lambda: 1 / 0, outcomes)

    background.submit(lambda: "first", more)
    assert outcomes == []
    background.finish()
    assert outcomes[0] == ("first", None)
    assert outcomes[1][0] is None and isinstance(outcomes[1][1], ZeroDivisionError)


def test_inline_work_is_dropped_at_the_end():
    """Like a process that was killed."""
    background, outcomes = InlineBackground(), Outcomes()
    background.submit(lambda: "never", outcomes)
    background.close()
    background.finish()
    assert outcomes == []
