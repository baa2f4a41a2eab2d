"""The settings of a run: what a flag or a TOML key may say, and its default.

A key that is not given comes from the task's own defaults where it has one, else from
here. `run.toml` in a run's folder holds the outcome, complete and frozen.
"""

import difflib
import math
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from flctl.errors import SettingsError
from flctl.explaining import explained_key
from flctl.labels import Where

Count = Annotated[int, Meta(ge=1, le=10**9)]
Threads = Annotated[int, Meta(ge=1, le=1024)]
"""torch aborts if it is asked for more threads than the system can create."""
# \Z, because $ also matches before a newline at the end.
AgentName = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}\Z")]
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Partition = Literal["iid", "label", "dirichlet", "size", "record"]
DeviceName = Literal["auto", "cpu", "cuda"]
StrategyName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,62}\Z")]
"""Which there are is known where rounds are aggregated (flctl.core.strategies)."""
Compression = Literal["none", "fp16", "int8", "topk"]
Lead = Annotated[str, Meta(min_length=1, max_length=100)]
_SUFFIX = Meta(pattern=r"^[A-Za-z0-9_-]{1,20}\Z", description="1 to 20 letters, digits, _ and -")
Annotator = Annotated[str, _SUFFIX]
RAt = Annotated[int, Meta(ge=0, le=186)]
OptimizerArgs = dict[str, float | int | bool | str | list[float]]
_Item = float | int | bool | Annotated[str, Meta(max_length=200)]
TaskArgs = Annotated[
    dict[
        Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,39}\Z")],
        _Item | Annotated[list[_Item], Meta(max_length=3000)],
    ],
    Meta(max_length=64),
]
"""Arguments of a task; the task itself says which there are, and of which type."""

Pattern = Annotated[str, Meta(min_length=1, max_length=200)]
"""Of names of tensors: `*` stands for any characters."""

DEFAULT_QUORUM = 0.8
MOST_ARGS_BYTES = 32_000
"""An order that holds a task's arguments has to fit into a message."""

SCHEMA = 2
"""Schema version of `run.toml` and the journal, raised when an old reader would misread them."""


class LocalTraining(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How an agent trains in one round; the optimiser starts fresh each round."""

    epochs: Count = 1
    """Passes over the agent's own data in a round, at most."""
    federate_after_n_batches: Count | None = None
    """End an agent's part of a round after this many batches, if its epochs last longer."""
    batch_size: Count = 32
    shuffle: bool = True
    drop_last: bool = False
    optimizer: str = "SGD"
    """A class of `torch.optim`, by its name."""
    lr: Annotated[float, Meta(gt=0)] = 0.01
    optimizer_args: OptimizerArgs = {}
    """Other arguments of the optimiser, as `torch.optim` names them."""
    proximal_mu: Annotated[float, Meta(ge=0)] = 0.0
    """μ of FedProx: how strongly local training is held to the model it began with."""
    compression: Compression = "none"
    """How an update travels: its change of the model in fewer bits, or its largest part."""
    topk_share: Annotated[float, Meta(gt=0, le=0.15)] = 0.025
    """Share of the model's numbers that "topk" sends; above 0.15, int8 is smaller."""


class RunSettings(LocalTraining, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that decides how a run goes. Names are those of the flags."""

    task: str
    task_args: TaskArgs = {}
    """Arguments of the task, as docs/reference/tasks.md names them; sent to the agents."""
    rounds: Count = 30
    seed: Seed = 1
    from_: str | None = None
    """What the first model is taken from: a file, or a run of the same folder, its last model."""
    from_partial: bool = False
    """Take those tensors of it that fit; the others begin as the task makes them."""
    strategy: StrategyName = "fedavg"
    """How updates become the next model."""
    strategy_args: dict[str, float | int] = {}
    """Arguments of the strategy, as docs/explanation/strategies.md names them."""
    clip_norm: Annotated[float, Meta(gt=0)] | None = None
    """An update that changes the model by more than this L2 norm is scaled down to it."""
    weighting: Literal["examples", "uniform"] = "examples"
    max_share: Annotated[float, Meta(gt=0, le=1)] | None = None
    """The most that one agent may weigh, as a share of the round's whole weight; None: a half
    where three or more take part, so that no claim of examples outweighs all others together."""
    lr_decay: Annotated[float, Meta(gt=0, le=1)] = 1.0
    """The learning rate is multiplied by this after each round …"""
    lr_floor: Annotated[float, Meta(ge=0, le=1)] = 0.01
    """… down to this share of the first one."""
    on_exhausted: Literal["continue", "stop"] = "continue"
    """When an agent has seen all its data: begin its next epoch, or end the run."""

    local: Count | None = None
    """Number of agents to start as processes on this machine."""
    virtual: Count | None = None
    """Number of clients to simulate."""
    jobs: Annotated[int, Meta(ge=0, le=1024)] | None = None
    """Processes that share the work of virtual clients; 0: one for each core; None: one, or on a
    cluster as many as it has room for. The result is the same."""
    engine: Literal["processes", "ray"] = "processes"
    """Where these processes are: on this machine, or on the nodes of a Ray cluster."""
    ray_address: Annotated[str, Meta(min_length=1, max_length=300)] | None = None
    """HOST:PORT of its head; None: as RAY_ADDRESS says, else the one that this machine is in."""
    agents: tuple[AgentName, ...] = ()
    """Only these agents; empty: all that are ready when a round opens."""
    where: Where = ()
    """Only agents whose labels, when a round draws its agents, fulfil all of these."""
    frozen: tuple[str, ...] = ()
    """Tensors that are sent once and never trained; not available yet, like `private`."""
    private: tuple[str, ...] = ()
    """Tensors that never leave an agent."""
    fraction: Annotated[float, Meta(gt=0, le=1)] = 1.0
    """Share of the agents that a round invites (C of McMahan et al. 2017)."""
    quorum: Annotated[float, Meta(gt=0)] | None = None
    """Updates that a round needs: up to 1 a share of the invited, from 2 on a number; None: all but
    one or 80 %, whichever is fewer, and at least two where there are two."""
    deadline_s: Annotated[float, Meta(gt=0)] = 600.0
    """Seconds that a round waits for updates; counted from zero after a restart."""
    wait_s: Annotated[float, Meta(ge=0)] = 60.0
    """Seconds to wait for enough agents to be ready before a round."""
    attempts: Count = 3
    """Tries of one round before the run pauses."""

    data: str | None = None
    """File or folder that is divided among local or virtual agents; default: the task's own."""
    dataset: str = "default"
    """Which of its named data sets an agent trains on."""
    partition: Partition = "iid"
    alpha: Annotated[float, Meta(gt=0)] = 0.5
    """Concentration of `partition = "dirichlet"`; small is very unequal."""
    test_data: str | None = None
    """File or folder that the coordinator evaluates on; default: the task's own."""
    lead: Lead | None = None
    """Name or number (from 1) of the signal of a record that is read for testing, and by local or
    virtual agents; agents of their own say themselves how theirs are read."""
    annotator: Annotator | None = None
    """Suffix of the file with a record's annotations, for the same."""
    r_at: RAt | None = None
    """Sample of each row of a table, from 0, that the R peak stands at, for the same."""
    evaluate: Literal["auto", "coordinator", "agents", "none"] = "auto"
    evaluate_every: Count = 1
    """Measure the model of every n-th round, and of the last one."""
    test_batch_size: Count = 1000
    device: DeviceName = "auto"
    """For local and virtual agents, and for the coordinator's evaluation."""
    threads: Threads = 1
    """torch threads per local or virtual agent; the result depends on it."""
    keep_rounds: Annotated[int, Meta(ge=0)] = 3
    """Number of recent checkpoints to keep, besides best and last. 0 keeps all."""
    personalise: bool = False
    """After the last round each agent fine-tunes the best model on its own data, for itself."""
    personal_epochs: Count = 10
    """Most epochs of it; that after which the model does best on validation data counts."""
    personal_lr: Annotated[float, Meta(gt=0)] | None = None
    """Learning rate of it; None: that of the first round."""
    personal_tensors: Annotated[tuple[Pattern, ...], Meta(max_length=100)] = ()
    """Tensors that it changes; empty: all."""

    def quorum_of(self, invited: int) -> int:
        """How many updates a round of `invited` agents needs, at least 1."""
        if self.quorum is None:
            most = math.ceil(DEFAULT_QUORUM * invited - 1e-9)
            return max(1, min(2, invited), min(invited - 1, most))
        if self.quorum > 1:
            return int(self.quorum)
        return max(1, math.ceil(self.quorum * invited - 1e-9))

    def invited_of(self, agents: int) -> int:
        """How many of `agents` a round invites, at least 1."""
        return max(1, math.ceil(self.fraction * agents - 1e-9))

    def fleet_for(self, invited: int) -> int:
        """The fewest agents of which a round invites at least `invited`."""
        return math.floor((invited - 1) / self.fraction + 1e-9) + 1

    def lr_at(self, round_id: int) -> float:
        """Learning rate of round `round_id`, counted from 1."""
        return float(self.lr * max(self.lr_decay ** (round_id - 1), self.lr_floor))

    def local_training(self, round_id: int) -> LocalTraining:
        fields = {name: getattr(self, name) for name in LocalTraining.__struct_fields__}
        return LocalTraining(**{**fields, "lr": self.lr_at(round_id)})


KEYS = RunSettings.__struct_fields__
NOT_YET = ("frozen", "private")
"""Keys without a flag: they can only have their default so far."""
HOW = ("jobs", "engine", "ray_address")
"""Where virtual clients are computed, which changes no result."""
CHANGEABLE = ("evaluate", "quorum", "deadline_s", "wait_s", "attempts", "evaluate_every", *HOW)
"""Keys that may change when a run is resumed: none that its models are computed from."""
SHORT = {"deadline": "deadline_s", "wait": "wait_s", "from": "from_"}
"""Flags leave the unit to their help; their names are understood in TOML too."""
_WORDS = {name: word for word, name in SHORT.items()}


def agent_names(count: int) -> tuple[str, ...]:
    """Default names of agents: pi-01, pi-02, …, so that they sort by number."""
    width = max(2, len(str(count)))
    return tuple(f"pi-{number:0{width}d}" for number in range(1, count + 1))


def parse(given: Mapping[str, Any], where: str) -> RunSettings:
    """Check `given` (key → value) and fill the rest with defaults.

    Raises SettingsError that names the key, the nearest known one, and `where`.
    """
    plain = normalised(given, where)
    if "task" not in plain:
        raise SettingsError(f'{where}: no task is named; say --task ecg, or task = "ecg"')
    try:
        settings = msgspec.convert(plain, RunSettings, strict=True)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{where}: {explained_key(error, RunSettings, _WORDS)}") from error
    _check_together(settings, where)
    return settings


def changed(settings: RunSettings, changes: Mapping[str, Any], where: str) -> RunSettings:
    """`settings` of a run that goes on with these changes. Raises SettingsError."""
    if not changes:
        return settings
    plain = normalised(changes, where)
    if fixed := sorted(plain.keys() - set(CHANGEABLE)):
        words = ", ".join(_WORDS.get(name, name) for name in CHANGEABLE)
        raise SettingsError(
            f"{where}: {fixed[0]} stays what it was when the run began; {words} may be changed"
        )
    kept = {key: value for key in KEYS if (value := getattr(settings, key)) is not None}
    if plain.get("engine") == "processes":
        kept.pop("ray_address", None)  # of the cluster that the run leaves
    return parse({**msgspec.to_builtins(kept), **plain}, where)


def normalised(
    given: Mapping[str, Any], where: str, beside: Collection[str] = ()
) -> dict[str, Any]:
    """Keys in snake_case; a short name in full. Raises SettingsError for unknown ones.

    `beside` are keys that may stand next to the settings.
    """
    known = (*KEYS, *beside)
    plain: dict[str, Any] = {}
    for key, value in given.items():
        name = str(key).replace("-", "_")
        name = SHORT.get(name, name)
        if name not in known:
            near = difflib.get_close_matches(name, [*known, *SHORT], n=1, cutoff=0.5)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise SettingsError(f"{where}: unknown key '{key}'{hint}")
        if name in plain:
            raise SettingsError(f"{where}: '{name}' is given twice")
        plain[name] = value
    return plain


def is_utf8(text: str) -> bool:
    """An argument that is not comes with surrogates in place of its bytes."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


def _check_together(settings: RunSettings, where: str) -> None:
    if settings.local is not None and settings.virtual is not None:
        raise SettingsError(f"{where}: local and virtual exclude each other; choose one")
    if asked := [group for group in NOT_YET if getattr(settings, group)]:
        raise SettingsError(f"{where}: {asked[0]}: every tensor of a model is shared; leave it out")
    _check_text_and_numbers(settings, where)
    quorum = settings.quorum or 0
    if quorum > 1 and quorum != int(quorum):
        raise SettingsError(
            f"{where}: quorum = {quorum} is neither a share (up to 1) nor a whole number"
        )
    if settings.from_partial and settings.from_ is None:
        raise SettingsError(f"{where}: from_partial requires from; name a model, or leave it out")
    for key in HOW if settings.virtual is None else ():
        if getattr(settings, key) not in (None, 1, "processes"):
            raise SettingsError(f"{where}: {key} requires virtual; leave it out, or add virtual")
    own = settings.local or settings.virtual
    if own is not None:
        from flctl.own_agents import check_own_agents  # not needed for the help

        check_own_agents(settings, own, where)
    fleet = own or len(settings.agents) or None
    invited = settings.invited_of(fleet) if fleet is not None else None
    if invited is not None and quorum > 1 and quorum > invited:
        drawn = f", of which a round invites {invited}" if invited != fleet else ""
        raise SettingsError(
            f"{where}: a quorum of {int(quorum)} cannot be met by a fleet of {fleet}{drawn}"
        )
    if len(set(settings.agents)) != len(settings.agents):
        raise SettingsError(f"{where}: an agent is named twice")
    if settings.agents and settings.where:
        raise SettingsError(f"{where}: agents and where exclude each other; choose one")


def _check_text_and_numbers(settings: RunSettings, where: str) -> None:
    texts = ("task", "from_", "data", "dataset", "test_data", "lead", "optimizer", "ray_address")
    for name in texts:
        if not is_utf8(getattr(settings, name) or ""):
            raise SettingsError(f"{where}: {name} is not UTF-8 text")
    numbers = ("lr", "quorum", "deadline_s", "wait_s", "alpha", "proximal_mu", "clip_norm")
    for number in (*numbers, "personal_lr"):
        if not math.isfinite(getattr(settings, number) or 0):
            word = _WORDS.get(number, number)
            raise SettingsError(f"{where}: {word} must be a finite number")
    for key in ("optimizer_args", "strategy_args", "task_args"):
        for name, value in getattr(settings, key).items():
            if not all(map(_fits, value if isinstance(value, list) else [value])):
                raise SettingsError(f"{where}: {key}: {name} must be a finite number, or text")
    if len(msgspec.json.encode(settings.task_args)) > MOST_ARGS_BYTES:
        raise SettingsError(f"{where}: task_args: more than {MOST_ARGS_BYTES:,} bytes")


def _fits(value: float | bool | str) -> bool:
    """Whether an argument can travel: no NaN, no integer of more than 64 bits."""
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return is_utf8(value) if isinstance(value, str) else math.isfinite(value)
