"""Every setting of a run as a flag of `flctl train`, from one table.

The names, types and defaults are those of `flctl.settings.RunSettings`; here stands what
a person needs to know to choose.
"""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Optional, TypeVar

import typer
from msgspec import structs

from flctl.cli.values import absolute, arguments, names, seconds
from flctl.settings import RunSettings

Command = TypeVar("Command", bound=Callable[..., None])

WHAT, ROUNDS, FLEET = "What is learnt", "Rounds", "Fleet"
TRAINING, DATA, EVALUATION, OUTPUT = "Local training", "Data", "Evaluation", "Output"


class Flag(NamedTuple):
    key: str
    """Of RunSettings."""
    kind: type
    panel: str
    help: str
    metavar: str | None = None
    default: str | None = None
    """In words, where the number alone does not say it."""
    read: Callable[[str, str], Any] | None = None
    """From what was typed, and where, to what the settings take."""

    @property
    def word(self) -> str:
        return self.key.removesuffix("_s").replace("_", "-")

    @property
    def option(self) -> str:
        return f"--{self.word}"

    def value(self, given: Any, where: str) -> Any:
        return self.read(given, where) if self.read and isinstance(given, str) else given


TASKS_OWN = "the task's own, else"
OWN_DATA = "the task's own: ecg brings them along, mnist downloads them"

FLAGS = (
    Flag("task", str, WHAT, "What to learn: 'ecg', 'mnist', an installed task, or "
         "module:Class for --local and --virtual.", "NAME"),
    Flag("rounds", int, WHAT, "How often the agents train and their models are averaged.", "N",
         f"{TASKS_OWN} 30"),
    Flag("seed", int, WHAT, "Fixes everything that is drawn at random: same seed, data and "
         "participants, same bytes.", "N"),
    Flag("strategy", str, WHAT, "How updates become the next model: fedavg, fedprox, fedavgm, "
         "fedadagrad, fedadam, fedyogi, median, trimmed-mean, krum, multi-krum.", "NAME"),
    Flag("strategy_args", str, WHAT, "Its arguments: trim=0.2, byzantine=1 or server_lr=0.01.",
         "NAME=VALUE,…", "none", arguments),
    Flag("clip_norm", float, WHAT, "Scale down any update that changes the model by more than "
         "this L2 norm.", "NORM", "none"),
    Flag("weighting", str, WHAT, "Weigh agents by their examples, or all alike.",
         "examples|uniform"),
    Flag("max_share", float, WHAT, "The most that one agent may weigh, as a share of all, "
         "in (0, 1]; 1 turns the bound off.", "SHARE", "a half, from three agents on"),
    Flag("local", int, FLEET, "Start N agents as processes on this machine, with real sockets "
         "and encryption.", "N", "none"),
    Flag("virtual", int, FLEET, "Simulate N agents in this process: no sockets, same result.",
         "N", "none"),
    Flag("agents", str, FLEET, "Only these agents, with commas between their names.",
         "NAME,…", "all that are ready", names),
    Flag("fraction", float, FLEET, "Share of the agents that each round invites, in (0, 1].",
         "SHARE"),
    Flag("quorum", float, ROUNDS, "Updates a round needs: a share of the invited up to 1, "
         "or a number from 2 on. It counts all agents that are enrolled, or named, and not "
         "cordoned.",
         "SHARE|N", "all but one or 0.8, whichever is fewer, at least two"),
    Flag("deadline_s", str, ROUNDS, "How long a round waits for updates: 90, 90s, 10m, 2h.",
         "TIME", "600s", seconds),
    Flag("wait_s", str, ROUNDS, "How long to wait for enough agents before a round.",
         "TIME", "60s", seconds),
    Flag("attempts", int, ROUNDS, "Tries of one round before the run pauses.", "N"),
    Flag("epochs", int, TRAINING, "Passes of an agent over its own data in a round.", "N",
         f"{TASKS_OWN} 1"),
    Flag("federate_after_n_batches", int, TRAINING, "End an agent's part of a round after N "
         "batches, if its epochs last longer; the next round goes on from there.", "N", "none"),
    Flag("batch_size", int, TRAINING, "Examples in a batch.", "N", f"{TASKS_OWN} 32"),
    Flag("lr", float, TRAINING, "Learning rate of the first round, > 0.", "RATE",
         f"{TASKS_OWN} 0.01"),
    Flag("lr_decay", float, TRAINING, "Multiplies the learning rate after each round, "
         "in (0, 1].", "FACTOR"),
    Flag("lr_floor", float, TRAINING, "The decay ends at this share of --lr.", "SHARE"),
    Flag("optimizer", str, TRAINING, "A class of torch.optim; it starts fresh each round.",
         "NAME"),
    Flag("optimizer_args", str, TRAINING, "Its other arguments: momentum=0.9,nesterov=true.",
         "NAME=VALUE,…", "none", arguments),
    Flag("proximal_mu", float, TRAINING, "μ of FedProx: holds local training to the round's "
         "model.", "MU", "0.01 for fedprox, else 0"),
    Flag("compression", str, TRAINING, "How updates travel: whole (none), in half (fp16) or a "
         "quarter (int8) of the bytes, or only their largest part (topk).",
         "none|fp16|int8|topk"),
    Flag("topk_share", float, TRAINING, "For --compression topk: share of a model's numbers that "
         "an update holds, up to 0.15.", "SHARE"),
    Flag("shuffle", bool, TRAINING, "Whether an agent's data are shuffled in each epoch."),
    Flag("drop_last", bool, TRAINING, "Whether an incomplete last batch is left out."),
    Flag("on_exhausted", str, TRAINING, "When an agent has seen all its data: begin its next "
         "epoch, or end the run.", "continue|stop"),
    Flag("device", str, TRAINING, "For local and virtual agents and the evaluation.",
         "auto|cpu|cuda"),
    Flag("threads", int, TRAINING, "torch threads of each local or virtual agent; the last bits "
         "of the result depend on it.", "N"),
    Flag("data", str, DATA, "File or folder that is dealt to --local or --virtual agents; agents "
         "of their own use what they have.", "PATH", OWN_DATA, absolute),
    Flag("lead", str, DATA, "Signal of WFDB records for --local, --virtual and --test-data, by its "
         "name or number; agents of their own have their own --lead.", "NAME|N",
         "MLII, else what is most like it"),
    Flag("annotator", str, DATA, "Suffix of the annotations of WFDB records, for the same.", "NAME",
         "atr, else ecg, ari, qrsc, qrs"),
    Flag("r_at", int, DATA, "Sample of each row of a CSV or .npz file, from 0, that the R peak "
         "stands at, for the same.", "N", "found from the beats"),
    Flag("partition", str, DATA, "How it is dealt: at random, two classes each, unequal mixes "
         "(--alpha), unequal sizes, or whole records.", "iid|label|dirichlet|size|record",
         "record for ecg, else iid"),
    Flag("alpha", float, DATA, "For --partition dirichlet: small is very unequal.", "A"),
    Flag("dataset", str, DATA, "Which of its named data sets each agent trains on.", "NAME"),
    Flag("test_data", str, EVALUATION, "File or folder that the coordinator evaluates on.",
         "PATH", "see --evaluate", absolute),
    Flag("evaluate", str, EVALUATION, "Who measures each round's model. auto: the coordinator on "
         "--test-data, else on the task's own test data, else agents that are enrolled to "
         "evaluate, else all agents on what they hold out.",
         "auto|coordinator|agents|none"),
    Flag("test_batch_size", int, EVALUATION, "Examples in a batch of the evaluation.", "N"),
    Flag("keep_rounds", int, OUTPUT, "Checkpoints of the last rounds that stay; best and last "
         "always do; 0 keeps all.", "N"),
)  # fmt: skip

_DEFAULTS = {field.name: field.default for field in structs.fields(RunSettings)}


def with_settings(command: Command) -> Command:
    """Give `command(…, **settings)` a flag for every setting; one not typed arrives as None."""
    own = inspect.signature(command, eval_str=True)
    fixed = [
        p.replace(kind=p.KEYWORD_ONLY)
        for p in own.parameters.values()
        if p.kind is not p.VAR_KEYWORD
    ]
    parameters = [*(_parameter(flag) for flag in FLAGS), *fixed]
    command.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def typed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of the values of `with_settings` those that were typed, as the settings take them.

    Raises UsageError.
    """
    return {
        flag.key: flag.value(settings[flag.key], flag.option)
        for flag in FLAGS
        if settings[flag.key] is not None
    }


def written(settings: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """The same of what `file` says: a text stands there for what it would be as a flag.

    Raises UsageError.
    """
    flags = {flag.key: flag for flag in FLAGS}
    return {
        key: flags[key].value(value, f"{file}: {flags[key].word}")
        for key, value in settings.items()
    }


def _parameter(flag: Flag) -> inspect.Parameter:
    spelling = f"{flag.option}/--no-{flag.option[2:]}" if flag.kind is bool else flag.option
    option = typer.Option(
        spelling,
        help=f"{flag.help}{_default_of(flag)}",
        metavar=flag.metavar,
        rich_help_panel=flag.panel,
        show_default=False,
    )
    return inspect.Parameter(
        flag.key,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[Optional[flag.kind], option],  # noqa: UP045
    )


def _default_of(flag: Flag) -> str:
    if flag.key == "task":
        return ""
    value = _DEFAULTS[flag.key] if flag.default is None else flag.default
    if isinstance(value, bool):
        value = "yes" if value else "no"
    return f"  [default: {value}]"
