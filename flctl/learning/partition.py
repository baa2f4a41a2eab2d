"""Deals one data set to n agents, for local and virtual fleets and for `data split`.

Every example goes to exactly one agent, no agent gets nothing, and the outcome depends
on the arguments alone.
"""

import itertools

import numpy as np
from numpy.typing import NDArray

from flctl.core.randomness import derive
from flctl.errors import DataError
from flctl.formats import counted
from flctl.learning.examples import Indices
from flctl.settings import Partition

Groups = NDArray[np.str_]


def partition(
    kind: Partition,
    labels: NDArray[np.int64],
    groups: Groups | None,
    n: int,
    *,
    alpha: float = 0.5,
    seed: int = 1,
    changing: bool = False,
) -> list[Indices]:
    """Sorted indices into `labels` for each of `n` agents.

    iid        equal parts at random
    label      sorted by label and cut into 2n chunks, two for each agent
               (the pathological split of McMahan et al. 2017)
    dirichlet  equal parts; each agent's mix of classes is drawn from a Dirichlet
               distribution around that of all data, alpha small for very unequal mixes
               (Hsu et al. 2019, https://arxiv.org/abs/1909.06335)
    size       at random, in sizes 1 : 2 : … : n
    record     whole groups, so that the agents' parts are about equally large

    Raises DataError when an agent would get nothing; of `changing` data, which may become too
    few while they are used, it gets nothing then.
    """
    if len(labels) < n and not changing:
        raise DataError(f"{counted(n, 'agent')}, but only {counted(len(labels), 'example')}")
    rng = np.random.default_rng(derive(seed, "partition", kind, n))
    match kind:
        case "iid":
            parts = np.array_split(rng.permutation(len(labels)), n)
        case "label":
            parts = _by_label(labels, n, rng)
        case "dirichlet":
            parts = _dirichlet(labels, n, alpha, rng)
        case "size":
            parts = _by_size(len(labels), n, rng)
        case "record":
            parts = _by_record(groups, n, changing)
    if min(map(len, parts)) == 0 and not changing:
        raise DataError(
            f"{counted(n, 'agent')}, but only {counted(len(labels), 'example')}: partition "
            f"'{kind}' leaves one without data"
        )
    return [np.sort(part).astype(np.int64) for part in parts]


def partition_held_out(
    kind: Partition,
    held_out: Groups | None,
    training: Groups | None,
    examples: int,
    n: int,
    *,
    seed: int = 1,
) -> list[Indices]:
    """Sorted indices into `examples` held-out examples for each of `n` agents; none for some.

    Each example belongs to one agent, so that the agents' figures, weighted by examples, are
    those of the whole: by record it follows the training data, whose groups are `training`, in
    all other partitions it is dealt at random. Raises DataError as `partition` does.
    """
    if kind == "record":
        hands = deal_groups(training, n, changing=True)
        return _rows_of(hands, np.empty(0, dtype=np.str_) if held_out is None else held_out)
    rng = np.random.default_rng(derive(seed, "held out", n))
    return [np.sort(part).astype(np.int64) for part in np.array_split(rng.permutation(examples), n)]


def deal_groups(groups: Groups | None, n: int, changing: bool = False) -> list[list[str]]:
    """The names of the groups that each of `n` agents gets: the largest first, each to the
    agent that has the fewest examples so far. Raises DataError when there are too few, unless
    they are `changing`.
    """
    if groups is None:
        raise DataError("these data do not say which record an example is of; use --partition iid")
    names, counts = np.unique(groups, return_counts=True)
    if len(names) < n and not changing:
        there = counted(len(names), "record")
        if len(names) == 1:
            there += (" (a file that names no records or devices counts as one; for 'sensors', "
                      "--task-args device=COLUMN names the column of the devices)")  # fmt: skip
        raise DataError(f"{counted(n, 'agent')}, but only {there}; use --partition iid")
    hands: list[list[str]] = [[] for _ in range(n)]
    sizes = [0] * n
    for at in np.lexsort((names, -counts)):
        agent = sizes.index(min(sizes))
        hands[agent].append(str(names[at]))
        sizes[agent] += int(counts[at])
    return hands


def _by_label(labels: NDArray[np.int64], n: int, rng: np.random.Generator) -> list[Indices]:
    shuffled = rng.permutation(len(labels))
    ordered = shuffled[np.argsort(labels[shuffled], kind="stable")]
    chunks = np.array_split(ordered, 2 * n)
    hands = rng.permutation(2 * n).reshape(n, 2)
    return [np.concatenate([chunks[a], chunks[b]]) for a, b in hands]


def _dirichlet(
    labels: NDArray[np.int64], n: int, alpha: float, rng: np.random.Generator
) -> list[Indices]:
    classes, counts = np.unique(labels, return_counts=True)
    pools = [rng.permutation(np.flatnonzero(labels == value)) for value in classes]
    left = counts.copy()
    parts = []
    for size in [len(part) for part in np.array_split(labels, n)]:
        wish = rng.dirichlet(np.maximum(alpha * counts / len(labels), 1e-6))
        taken = _take(size, wish, left, rng)
        rows = [pool[m - k : m] for pool, m, k in zip(pools, left, taken, strict=True)]
        parts.append(np.concatenate(rows))
        left = left - taken
    return parts


def _take(
    size: int, wish: NDArray[np.float64], left: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """How many of each class make `size` examples, close to the mix `wish`; what is used up
    is made good from the other classes in the proportions of `wish`, and at last of `left`.
    """
    taken = np.zeros_like(left)
    while (missing := size - int(taken.sum())) > 0:
        there = left - taken
        mix = np.where(there > 0, wish, 0.0)
        if mix.sum() < 1e-9:
            mix = there.astype(np.float64)
        taken += np.minimum(rng.multinomial(missing, mix / mix.sum()), there)
    return taken


def _by_size(examples: int, n: int, rng: np.random.Generator) -> list[Indices]:
    """Agent i of n, from 1, gets about i / (1 + 2 + … + n) of all, and at least one."""
    ends = np.cumsum(np.arange(1, n + 1)) / (n * (n + 1) / 2)
    least = np.minimum(np.arange(1, n + 1), examples)
    extra = np.round(ends * max(0, examples - n)).astype(np.int64)
    return np.split(rng.permutation(examples), (extra + least)[:-1])


def _by_record(groups: Groups | None, n: int, changing: bool) -> list[Indices]:
    hands = deal_groups(groups, n, changing)
    assert groups is not None
    return _rows_of(hands, groups)


def _rows_of(hands: list[list[str]], groups: Groups) -> list[Indices]:
    """Sorted rows of the groups in each hand, in one pass however many hands there are."""
    owner = {name: agent for agent, hand in enumerate(hands) for name in hand}
    names, inverse = np.unique(groups, return_inverse=True)
    whose = np.array([owner.get(str(name), -1) for name in names], dtype=np.int64)[inverse]
    order = np.argsort(whose, kind="stable")
    ends = np.searchsorted(whose[order], np.arange(len(hands) + 1))
    return [order[a:b] for a, b in itertools.pairwise(ends)]
