"""Questions and orders of an operator: one frozen struct each, in `Ask` as `what` and `args`.

To add one: a class here, under `Question` (every operator's key), `AdminQuestion` (an admin's only)
or `AdminOrder` (an admin's, and it stands in the audit file),
with the word that travels as its tag; the class in `AnyQuestion`; a case in `Control._reply`; a
method of `fleet/console.py`. Bounds stand in the types. A field that a
later version adds has a default, and consoles leave it out when it has it: an older coordinator
refuses a field that it does not know.
"""

from typing import Annotated, Any, Literal, TypeAlias, get_args

import msgspec
from msgspec import Meta, Struct

from flctl import __version__
from flctl.errors import UsageError, one_line
from flctl.explaining import explained_key
from flctl.labels import Changes
from flctl.settings import AgentName
from flctl.wire.messages import (
    LOG_LINES,
    Ask,
    Deal,
    LogCursor,
    Natural,
    Offset,
    Seconds,
    Short,
    Text,
)

Figure = Literal[
    "temperature_c",
    "throttled",
    "memory_used_bytes",
    "disk_free_bytes",
    "rtt_ms",
    "written_bytes",
    "sent_bytes",
    "state",
    "round",
]
RoundNumber = Annotated[int, Meta(ge=0, le=10**9)]


class Question(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A question that changes nothing; a read key may ask it."""


class AdminQuestion(Question, frozen=True):
    """Changes nothing; only an admin key may ask it."""


class AdminOrder(AdminQuestion, frozen=True):
    """Changes something; only an admin key may give it. The audit file has each of them: no
    field of it may be a secret."""


class ShowStatus(Question, frozen=True, tag="status"):
    """Every agent, and the coordinator itself."""


class ListRuns(Question, frozen=True, tag="runs"):
    """All runs, one summary each."""


class AboutRun(Question, frozen=True):
    run: Short
    """The run's name, or a beginning that only one run has."""


class ShowRun(AboutRun, frozen=True, tag="run"):
    """Summary and settings of a run."""


class ReadJournal(AboutRun, frozen=True, tag="journal"):
    """The bytes of a run's journal from an offset on: who asks checks its chain for itself."""

    offset: Offset = 0


class WatchRun(AboutRun, frozen=True, tag="watch"):
    """A run's events, for as long as the connection lasts."""

    after: Annotated[int, Meta(ge=-1, le=2**53)] = -1
    """The number of the last event that the asker has; those after it come first."""


class StillWatching(Question, frozen=True, tag="watching"):
    """Whether this connection still gets the events of its watch: one that read too little for
    too long does not. Asked when it was quiet for a while."""

    question: Natural
    """The id of the watch."""


class FetchCheckpoint(AboutRun, frozen=True, tag="checkpoint"):
    """The model of a round as a blob to fetch."""

    round: RoundNumber | None = None
    """None: the newest."""


class ShowAlerts(Question, frozen=True, tag="alerts"):
    """Alerts that fire, and what is muted."""


class ReadHistory(Question, frozen=True, tag="history"):
    """A figure of an agent over time, as points."""

    agent: Short
    """Empty: the coordinator's own figure, "round"."""
    figure: Figure
    since_s: Annotated[float, Meta(gt=0, le=31 * 86400)] = 86400.0
    """How far back: one-minute points for a day, longer ones for more."""
    points: Annotated[int, Meta(ge=10, le=2000)] = 1440
    """No more than about so many."""


class ListKeys(Question, frozen=True, tag="keys"):
    """List enrolled, revoked and waiting keys."""


class ReadAudit(AdminQuestion, frozen=True, tag="audit"):
    """The bytes of the audit file from an offset on."""

    offset: Offset = 0


class ReadLog(AdminQuestion, frozen=True, tag="logs"):
    """The next lines of an agent's log. It may hold paths and addresses of the device."""

    agent: AgentName
    lines: Annotated[int, Meta(ge=1, le=LOG_LINES)] = 200
    since_s: Seconds | None = None
    after: LogCursor = ""
    """The cursor of the answer before."""


class StartRun(AdminOrder, frozen=True, tag="start"):
    """Begin a run."""

    given: dict[str, Any]
    """Settings as `flctl.settings.parse` takes them, which checks them."""
    where: Text = "the settings"
    """The file or flags that they come from, for messages."""


class RunOrder(AdminOrder, frozen=True):
    run: Short


class StopRun(RunOrder, frozen=True, tag="stop"):
    """End the run in progress."""


class PauseRun(RunOrder, frozen=True, tag="pause"):
    """Draw no round after the one that is open, until the run is resumed."""


class ResumeRun(RunOrder, frozen=True, tag="resume"):
    """Resume a run that has stopped or paused."""

    changes: dict[str, Any] = {}
    """Settings that are others from here on; `flctl.settings.changed` checks them."""


class PersonaliseRun(RunOrder, frozen=True, tag="personalise"):
    """Have agents fine-tune the model of a finished run, each for itself."""

    agents: Annotated[tuple[AgentName, ...], Meta(max_length=10_000)] = ()
    """Empty: all of the run."""
    round: RoundNumber | None = None
    """Whose model; None: the best one's."""
    changes: dict[str, Any] = {}
    """Settings that are others for it; `flctl.core.personal.as_ordered` checks them."""


class AddKey(AdminOrder, frozen=True, tag="key-add"):
    name: Short
    key: Short
    role: Literal["agent", "evaluate", "read", "admin"]


class RevokeKey(AdminOrder, frozen=True, tag="key-revoke"):
    name: Short


class NewToken(AdminOrder, frozen=True, tag="token"):
    ttl_s: float
    uses: Natural
    deal: Deal | None = None
    evaluates: bool = False


class CloseTokens(AdminOrder, frozen=True, tag="token-close"):
    """Close join tokens."""

    ids: Annotated[tuple[Short, ...], Meta(max_length=1000)] | None = None
    """None: all that are open."""


class OpenTokenFolder(AdminOrder, frozen=True, tag="invite"):
    """Put a token into the folder of `coordinator --invite`."""

    ttl_s: float


class RotateServer(AdminOrder, frozen=True, tag="rotate-server"):
    """Replace the server's key by a new one, with a time in which both are good."""

    step: Literal["begin", "finish", "abort"]
    overlap_s: float = 0.0
    """To begin with."""
    anyway: bool = False
    """Finish although some agents do not have the new key."""


class Cordon(AdminOrder, frozen=True, tag="cordon"):
    name: Short


class Uncordon(AdminOrder, frozen=True, tag="uncordon"):
    name: Short


class LabelAgent(AdminOrder, frozen=True, tag="label"):
    name: Short
    labels: Changes = {}
    """None takes a label away."""
    reset: bool = False
    """Forget what operators have changed before: the agent's own labels count."""


class AckAlert(AdminOrder, frozen=True, tag="alert-ack"):
    """Acknowledge a firing alert."""

    id: Natural


class MuteAlerts(AdminOrder, frozen=True, tag="alert-mute"):
    """Tell nothing of an alert or of an agent for some time."""

    name: Short
    """An alert's, as "throttled", or an agent's."""
    for_s: Annotated[float, Meta(ge=0, le=366 * 86400)]
    """0: tell it again."""


class TestAlerts(AdminOrder, frozen=True, tag="alert-test"):
    """Send a notice of no alert to the webhook and the command."""


AnyQuestion: TypeAlias = (
    ShowStatus
    | ListRuns
    | ShowRun
    | ReadJournal
    | WatchRun
    | StillWatching
    | FetchCheckpoint
    | ShowAlerts
    | ReadHistory
    | ListKeys
    | ReadAudit
    | ReadLog
    | StartRun
    | StopRun
    | PauseRun
    | ResumeRun
    | PersonaliseRun
    | AddKey
    | RevokeKey
    | NewToken
    | CloseTokens
    | OpenTokenFolder
    | RotateServer
    | Cordon
    | Uncordon
    | LabelAgent
    | AckAlert
    | MuteAlerts
    | TestAlerts
)
KINDS: dict[str, type[AnyQuestion]] = {
    str(kind.__struct_config__.tag): kind for kind in get_args(AnyQuestion)
}
"""By the word that travels."""


def needs_admin(ask: Ask) -> bool:
    return issubclass(KINDS.get(ask.what, Question), AdminQuestion)


def read_question(ask: Ask) -> AnyQuestion:
    """Raises UsageError, in one line, for an unknown question or arguments that are not its own."""
    kind = KINDS.get(ask.what)
    if kind is None:
        raise UsageError(
            f"the coordinator (flctl {__version__}) does not know the question "
            f"'{one_line(ask.what, 50)}'; it knows {', '.join(KINDS)}"
        )
    try:
        return msgspec.convert(ask.args, kind)
    except msgspec.ValidationError as error:
        raise UsageError(f"'{ask.what}': {explained_key(error, kind, {})}") from error
