"""The options that say how data are dealt to agents."""

from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from flctl.cli.values import share_of
from flctl.errors import UsageError

if TYPE_CHECKING:
    from flctl.wire.messages import Deal, Shard

PARTITION, ALPHA, SEED = "iid", 0.5, 1
PANEL = "Shards"
AUTO = "auto"

Partition = Annotated[
    str | None,
    typer.Option(
        metavar="iid|label|dirichlet|size|record",
        envvar="FLCTL_PARTITION",
        help=f"How shards divide the data.  [default: {PARTITION}]",
        rich_help_panel=PANEL,
    ),
]
Alpha = Annotated[
    float | None,
    typer.Option(
        metavar="A",
        help=f"For --partition dirichlet.  [default: {ALPHA}]",
        rich_help_panel=PANEL,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help=f"The same for all who share the data.  [default: {SEED}]",
        rich_help_panel=PANEL,
    ),
]
Shards = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        envvar="FLCTL_SHARDS",
        min=1,
        max=10**6,
        help="Deal each agent that joins with --shard auto a part of its own, of N.",
        rich_help_panel=PANEL,
    ),
]


def deal(of: int | None, kind: str | None, alpha: float | None, seed: int | None) -> "Deal | None":
    """What `--shards` and its like ask for; None without it. Raises UsageError."""
    if of is None:
        if (kind, alpha, seed) != (None, None, None):
            raise UsageError("--partition, --alpha and --shard-seed go with --shards N")
        return None
    return _deal(of, kind, alpha, seed)


def shard(
    text: str | None, kind: str | None, alpha: float | None, seed: int | None
) -> "Shard | None":
    """What `--shard K/N` and its like ask for; None without it, and for auto.

    Raises UsageError.
    """
    if text == AUTO and (kind, alpha, seed) != (None, None, None):
        raise UsageError(
            "--partition, --alpha and --shard-seed: with --shard auto the coordinator says how "
            "the data are dealt (flctl keys token --shards N)"
        )
    if text in (None, AUTO):
        return None
    from flctl.wire.messages import Shard

    index, of = share_of(text, "--shard")
    return Shard.of_deal(_deal(of, kind, alpha, seed), index)


def _deal(of: int, kind: str | None, alpha: float | None, seed: int | None) -> "Deal":
    from flctl.wire.messages import Deal

    return Deal(
        of=of,
        partition=_kind(kind),
        alpha=_alpha(alpha),
        seed=SEED if seed is None else seed,
    )


def _kind(text: str | None) -> Any:
    from flctl.settings import Partition as Kind

    if text is not None and text not in get_args(Kind):
        raise UsageError(f"--partition {text}: one of {', '.join(get_args(Kind))}")
    return text or PARTITION


def _alpha(alpha: float | None) -> float:
    value = ALPHA if alpha is None else alpha
    if not 0 < value < 1e9:
        raise UsageError(f"--alpha {value}: a number above 0")
    return value
