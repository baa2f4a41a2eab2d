"""Random numbers as pure functions of names and numbers: same words, same numbers."""

import hashlib

from msgspec import Struct


def derive(seed: int, *words: int | str) -> int:
    """A seed in [0, 2^63) from `seed` and `words`, the same on every machine."""
    text = "\x1f".join(str(word) for word in (seed, *words))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


class Seeding(Struct, frozen=True):
    """What the random numbers of an update follow from, and where in its data it begins."""

    seed: int
    """Of the run."""
    agent: str
    version: int
    """Of the model that it starts from."""
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
    ranked = sorted(names, key=lambda name: (derive(seed, "sample", round_id, name), name))
    return sorted(ranked[:count])
