"""How often each peer may do what costs something: a line in the log, a write to the disk."""

from collections.abc import Callable

from msgspec import Struct

WITHIN_S = 60.0
NAMES = 1_000
"""Maximum number of names remembered; each has made a connection with a key."""


class _Spent(Struct):
    since: float
    times: int = 0
    over: int = 0
    """How often it wanted more."""


class Allowance:
    """Each name may do it `most` times within WITHIN_S seconds of `clock`."""

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        self._most, self._clock = most, clock
        self._spent: dict[str, _Spent] = {}

    def spend(self, name: str) -> int | None:
        """How often it was refused since it was granted last; None: it is refused now."""
        now = self._clock()
        spent = self._spent.get(name)
        if spent is None or now - spent.since >= WITHIN_S:
            while len(self._spent) >= NAMES and name not in self._spent:
                del self._spent[next(iter(self._spent))]
            over = spent.over if spent is not None else 0
            self._spent[name] = _Spent(since=now, times=1)
            return over
        if spent.times >= self._most:
            spent.over += 1
            return None
        spent.times += 1
        return 0
