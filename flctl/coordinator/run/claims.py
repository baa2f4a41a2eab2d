"""What agents say of their data, beside what they have said before."""

from collections.abc import Mapping

from flctl.core.history import History

JUMP = 2.0
"""Times as many examples as in the round before: worth a word."""


def jumps(examples: Mapping[str, int], history: History) -> dict[str, str]:
    """Agents whose count of examples has jumped since the last round that they were in, and how.

    Nothing proves a count; what one may weigh is bounded all the same (`max_share`).
    """
    last = history.weights
    return {
        agent: f"claims {count} examples, {last[agent]} in its round before"
        for agent, count in sorted(examples.items())
        if agent in last and count > JUMP * last[agent]
    }
