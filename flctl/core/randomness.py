"""Random numbers as pure functions of names and numbers: same words, same numbers."""

import hashlib
import heapq

from msgspec import Struct


def derive(seed: int, *words: int | str) -> int:
    """A seed in [0, 2^63) from `seed` and `words`, the same on every machine."""
    return _number(hashlib.sha256(_text(seed, *words)).digest())


def _text(*words: int | str) -> bytes:
    return "\x1f".join(map(str, words)).encode()


def _number(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "little") >> 1


class Seeding(Struct, frozen=True):
    """What an update's random numbers are derived from, and where in its data it begins."""

    seed: int
    """Seed of the run."""
    agent: str
    version: int
    """Version of the model that the update starts from."""
    sequence: int
    """The agent's own number of the update, from 1."""
    position: int
    """Batches that the agent has consumed in committed rounds."""

    @property
    def round(self) -> int:
        return self.version + 1

    def derive(self, what: str) -> int:
        return derive(self.seed, what, self.agent, self.version, self.sequence)


def sample(seed: int, round_id: int, names: list[str], count: int) -> list[str]:
    """`count` of `names` for a round, sorted: those with the smallest hash.

    Whether one name is drawn depends little on who else is there, so that a fleet
    from which one agent is missing still draws mostly the same agents.
    """
    if count >= len(names):
        return sorted(names)
    common = hashlib.sha256(_text(seed, "sample", round_id, ""))

    def rank(name: str) -> tuple[int, str]:
        """`derive` of the same words: most of the text is hashed once for all names."""
        found = common.copy()
        found.update(name.encode())
        return _number(found.digest()), name

    return sorted(heapq.nsmallest(count, names, key=rank))
