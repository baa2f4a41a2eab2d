"""Random numbers as pure functions of names and numbers: same words, same numbers."""

import hashlib


def derive(seed: int, *words: int | str) -> int:
    """A seed in [0, 2^63) from `seed` and `words`, the same on every machine."""
    text = "\x1f".join(str(word) for word in (seed, *words))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def sample(seed: int, round_id: int, names: list[str], count: int) -> list[str]:
    """`count` of `names` for a round, sorted: those with the smallest hash.

    Whether one name is drawn depends little on who else is there, so that a fleet
    from which one agent is missing still draws mostly the same agents.
    """
    ranked = sorted(names, key=lambda name: (derive(seed, "sample", round_id, name), name))
    return sorted(ranked[:count])
