"""The options that say how data are divided among agents."""

from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_args

from flctl.cli.options import option
from flctl.errors import UsageError
from flctl.values import share_of

if TYPE_CHECKING:
    from flctl.wire.messages import Deal, Shard

PARTITION, ALPHA, SEED = "iid", 0.5, 1
PARTITIONS = "iid|label|dirichlet|size|record"
PANEL = "Shards"
AUTO = "auto"


class Dealing(NamedTuple):
    partition: Annotated[
        str | None,
        option(
            PARTITIONS,
            f"How the data are divided into shards.  [default: {PARTITION}]",
            env="FLCTL_PARTITION",
            panel=PANEL,
        ),
    ] = None
    alpha: Annotated[
        float | None, option("A", f"For --partition dirichlet.  [default: {ALPHA}]", panel=PANEL)
    ] = None
    shard_seed: Annotated[
        int | None,
        option(
            "N",
            f"Seed of the division; the same for all that share the data.  [default: {SEED}]",
            panel=PANEL,
        ),
    ] = None

    @property
    def is_given(self) -> bool:
        return self != Dealing()

    def into(self, of: int) -> "Deal":
        """Raises UsageError."""
        from flctl.settings import Partition
        from flctl.wire.messages import Deal

        kind: Any = self.partition or PARTITION
        if kind not in get_args(Partition):
            raise UsageError(f"--partition {kind}: one of {', '.join(get_args(Partition))}")
        alpha = ALPHA if self.alpha is None else self.alpha
        if not 0 < alpha < 1e9:
            raise UsageError(f"--alpha {alpha}: a number above 0")
        seed = SEED if self.shard_seed is None else self.shard_seed
        return Deal(of=of, partition=kind, alpha=alpha, seed=seed)


Shards = Annotated[
    int | None,
    option(
        "N",
        "Assign one of N parts of the data to each agent that joins with --shard auto.",
        env="FLCTL_SHARDS",
        panel=PANEL,
        min=1,
        max=10**6,
    ),
]


def deal(of: int | None, dealing: Dealing) -> "Deal | None":
    """What `--shards N` and the options that go with it ask for. Raises UsageError."""
    if of is None:
        if dealing.is_given:
            raise UsageError("--partition, --alpha and --shard-seed require --shards N")
        return None
    return dealing.into(of)


def shard_of(text: str | None, dealing: Dealing) -> "Shard | None":
    """What `--shard K/N` asks for; None without it and for auto. Raises UsageError."""
    if text == AUTO and dealing.is_given:
        raise UsageError(
            "--partition, --alpha and --shard-seed: with --shard auto the coordinator decides how "
            "the data are divided (flctl keys token --shards N)"
        )
    if text in (None, AUTO):
        return None
    from flctl.wire.messages import Shard

    index, of = share_of(text, "--shard")
    return Shard.of_deal(dealing.into(of), index)
