"""Every setting of a run as a flag of `flctl train`, from one table.

The names, types and defaults are those of `flctl.settings.RunSettings`; this table adds
what a person needs to know to choose.
"""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Optional, TypeVar

from msgspec import structs

from flctl.cli import completion
from flctl.cli.options import OWN_DATA, option
from flctl.labels import requirements
from flctl.settings import RunSettings
from flctl.values import absolute, arguments, model_or_run, names, seconds

Command = TypeVar("Command", bound=Callable[..., None])

WHAT, ROUNDS, FLEET = "What is learnt", "Rounds", "Fleet"
TRAINING, DATA, EVALUATION, OUTPUT = "Local training", "Data", "Evaluation", "Output"
PERSONAL = "A model for each agent"


class Flag(NamedTuple):
    key: str
    """Field of RunSettings."""
    kind: type
    panel: str
    help: str
    metavar: str | None = None
    default: str | None = None
    """In words, where the number alone does not say it."""
    read: Callable[[str, str], Any] | None = None
    """Converts what was typed, and where, to what the settings take."""

    @property
    def word(self) -> str:
        return self.key.removesuffix("_s").rstrip("_").replace("_", "-")

    @property
    def option(self) -> str:
        return f"--{self.word}"

    def value(self, given: Any, where: str) -> Any:
        if self.kind == list[str] and given and all(isinstance(each, str) for each in given):
            given = ",".join(given) if isinstance(given, list) else given
        return self.read(given, where) if self.read and isinstance(given, str) else given


TASKS_OWN = "the task's own, else"

FLAGS = (
    Flag("task", str, WHAT, "What to learn: 'ecg', 'mnist', an installed task, or "
         "module:Class for --local and --virtual.", "NAME"),
    Flag("task_args", str, WHAT,
         "Its arguments: classes=['cat','dog'], window=64 (documentation: Built-in tasks).",
         "NAME=VALUE,…", "the task's own", arguments),
    Flag("rounds", int, WHAT, "Number of training rounds.", "N",
         f"{TASKS_OWN} 30"),
    Flag("seed", int, WHAT, "Seed of all random choices: the same seed, data and "
         "participants give the same bytes.", "N"),
    Flag("from_", str, WHAT, "Begin with the model in this file (a checkpoint, safetensors, or a "
         "state dict of torch), or with the last model of a run. Agents of a fleet need "
         "--accept-weights.", "FILE|RUN", "the task's own", model_or_run),
    Flag("from_partial", bool, WHAT, "Of --from take what fits by name, shape and type; the rest "
         "begins as the task makes it."),
    Flag("strategy", str, WHAT, "How updates become the next model: {strategies}.", "NAME"),
    Flag("strategy_args", str, WHAT, "Its arguments: trim=0.2, byzantine=1 or server_lr=0.01.",
         "NAME=VALUE,…", "none", arguments),
    Flag("clip_norm", float, WHAT, "Scale down any update that changes the model by more than "
         "this L2 norm.", "NORM", "none"),
    Flag("weighting", str, WHAT, "Weigh agents by their number of examples, or equally.",
         "examples|uniform"),
    Flag("max_share", float, WHAT, "Largest weight of one agent, as a share of all, "
         "in (0, 1]; 1 turns the limit off.", "SHARE", "a half, from three agents on"),
    Flag("local", int, FLEET, "Start N agents as processes on this machine, with real sockets "
         "and encryption.", "N", "none"),
    Flag("virtual", int, FLEET, "Simulate N agents in this process: no sockets, same result.",
         "N", "none"),
    Flag("jobs", int, FLEET, "Processes that share the work of --virtual; 0: one for each core. "
         "The result is the same.", "N", "1; with --engine ray, as many as the cluster has CPUs"),
    Flag("engine", str, FLEET, "Where these processes run: on this machine, or on the nodes of "
         "an existing Ray cluster.", "processes|ray"),
    Flag("ray_address", str, FLEET, "HOST:PORT of that cluster.", "ADDRESS",
         "RAY_ADDRESS, else the one that this machine is a node of"),
    Flag("agents", str, FLEET, "Only these agents, separated by commas.",
         "NAME,…", "all that are ready", names),
    Flag("where", list[str], FLEET, "Only agents with this label when a round draws its agents: "
         "site=ward-3, site!=ward-3, or site for any; can be repeated, and all must hold.",
         "KEY=VALUE", "all", requirements),
    Flag("fraction", float, FLEET, "Share of the agents that each round invites, in (0, 1].",
         "SHARE"),
    Flag("quorum", float, ROUNDS, "Updates that a round needs: a share of the invited "
         "agents, up to 1, or a number from 2 on. All enrolled (or named) agents count, except "
         "cordoned ones.",
         "SHARE|N", "all but one or 0.8, whichever is fewer, at least two"),
    Flag("deadline_s", str, ROUNDS, "How long a round waits for updates: 90, 90s, 10m, 2h.",
         "TIME", "600s", seconds),
    Flag("wait_s", str, ROUNDS, "How long to wait for enough agents before a round.",
         "TIME", "60s", seconds),
    Flag("attempts", int, ROUNDS, "Tries of one round before the run pauses.", "N"),
    Flag("epochs", int, TRAINING, "Epochs that an agent trains in a round.", "N",
         f"{TASKS_OWN} 1"),
    Flag("federate_after_n_batches", int, TRAINING, "End an agent's training in a round after N "
         "batches; the next round continues from there.", "N", "none"),
    Flag("batch_size", int, TRAINING, "Examples in a batch.", "N", f"{TASKS_OWN} 32"),
    Flag("lr", float, TRAINING, "Learning rate of the first round, > 0.", "RATE",
         f"{TASKS_OWN} 0.01"),
    Flag("lr_decay", float, TRAINING, "Multiplies the learning rate after each round, "
         "in (0, 1].", "FACTOR"),
    Flag("lr_floor", float, TRAINING, "The decay ends at this share of --lr.", "SHARE"),
    Flag("optimizer", str, TRAINING, "Class of torch.optim; its state is reset each round.",
         "NAME"),
    Flag("optimizer_args", str, TRAINING, "Its other arguments: momentum=0.9,nesterov=true.",
         "NAME=VALUE,…", "none", arguments),
    Flag("proximal_mu", float, TRAINING, "μ of FedProx: keeps local training close to the "
         "round's model.", "MU", "0.01 for fedprox, else 0"),
    Flag("compression", str, TRAINING, "How updates are sent: unchanged (none), with half (fp16) "
         "or a quarter (int8) of the bytes, or only the largest changes (topk).",
         "none|fp16|int8|topk"),
    Flag("topk_share", float, TRAINING, "For --compression topk: share of the parameters in an "
         "update, up to 0.15.", "SHARE"),
    Flag("shuffle", bool, TRAINING, "Shuffle the data of an agent in each epoch."),
    Flag("drop_last", bool, TRAINING, "Leave an incomplete last batch out."),
    Flag("on_exhausted", str, TRAINING, "When an agent has used all its data: start its next "
         "epoch, or end the run.", "continue|stop"),
    Flag("device", str, TRAINING, "For local and virtual agents and the evaluation.",
         "auto|cpu|cuda"),
    Flag("threads", int, TRAINING, "torch threads of each local or virtual agent; the last bits "
         "of the result depend on it.", "N"),
    Flag("data", str, DATA, "File or folder that is dealt to --local or --virtual agents; the "
         "agents of a fleet use their own data.", "PATH", OWN_DATA, absolute),
    Flag("partition", str, DATA, "How it is dealt: at random, two classes each, unequal mixes "
         "(--alpha), unequal sizes, or whole records.", "iid|label|dirichlet|size|record",
         "record for ecg and sensors, else iid"),
    Flag("alpha", float, DATA, "For --partition dirichlet: small is very unequal.", "A"),
    Flag("dataset", str, DATA, "Name of the data set that each agent trains on.", "NAME"),
    Flag("lead", str, DATA, "Signal of WFDB records for --local, --virtual and --test-data, by "
         "name or number; the agents of a fleet have their own --lead.", "NAME|N",
         "MLII, else II, else the most similar one"),
    Flag("annotator", str, DATA, "Suffix of the annotation files of WFDB records, for the same.",
         "NAME", "atr, else ecg, ari, qrsc, qrs"),
    Flag("r_at", int, DATA, "Position of the R peak in each row of a CSV or .npz file, counted "
         "from 0, for the same.", "N", "detected"),
    Flag("test_data", str, EVALUATION, "File or folder that the coordinator evaluates on.",
         "PATH", "see --evaluate", absolute),
    Flag("evaluate", str, EVALUATION, "Who measures each round's model. auto: the coordinator on "
         "--test-data, else on the task's own test data, else agents enrolled to evaluate, else "
         "all agents on their held-out data.",
         "auto|coordinator|agents|none"),
    Flag("evaluate_every", int, EVALUATION, "Measure the model of every Nth round, and that of "
         "the last; the best one is chosen among these.", "N"),
    Flag("test_batch_size", int, EVALUATION, "Examples in a batch of the evaluation.", "N"),
    Flag("personalise", bool, PERSONAL, "After the run, each agent fine-tunes the best model on "
         "its own data, for itself."),
    Flag("personal_epochs", int, PERSONAL, "Most epochs of it; validation data choose how many.",
         "N"),
    Flag("personal_lr", float, PERSONAL, "Learning rate of it.", "RATE", "--lr"),
    Flag("personal_tensors", str, PERSONAL, "Parameters that it changes, for instance head.*.",
         "PATTERN,…", "all", names),
    Flag("keep_rounds", int, OUTPUT, "Number of rounds whose checkpoints are kept, besides the "
         "best; 0: all.", "N"),
)  # fmt: skip

COMPLETE = {
    "task": completion.tasks,
    "from_": completion.runs,
    "strategy": completion.strategies,
    "agents": completion.agents,
    "where": completion.labels,
}
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
    """The values of `with_settings` that were typed, in the form that the settings take.

    Raises UsageError.
    """
    return {
        flag.key: flag.value(settings[flag.key], flag.option)
        for flag in FLAGS
        if settings[flag.key] not in (None, [])
    }


def written(settings: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """The values in `file`; a string there means what it would mean as a flag.

    Raises UsageError.
    """
    flags = {flag.key: flag for flag in FLAGS}
    return {
        key: flags[key].value(value, f"{file}: {flags[key].word}") if key in flags else value
        for key, value in settings.items()
    }


def _parameter(flag: Flag) -> inspect.Parameter:
    spelling = f"{flag.option}/--no-{flag.option[2:]}" if flag.kind is bool else flag.option
    declared = option(
        flag.metavar,
        f"{flag.help}{_default_of(flag)}",
        spelling,
        panel=flag.panel,
        complete=COMPLETE.get(flag.key) or completion.choices(flag.metavar),
        show_default=False,
    )
    return inspect.Parameter(
        flag.key,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[Optional[flag.kind], declared],  # noqa: UP045
    )


def _default_of(flag: Flag) -> str:
    if flag.key == "task":
        return ""
    value = _DEFAULTS[flag.key] if flag.default is None else flag.default
    if isinstance(value, bool):
        value = "yes" if value else "no"
    return f"  [default: {value}]"
