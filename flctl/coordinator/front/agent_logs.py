"""Logs of agents for operators: each question is passed on to the agent, and its answer back.

An operator who follows a log asks again and again: one who has gone away, or reads slowly, costs
nothing any more, here and at the agent.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from flctl.coordinator.front.turns import Asked
from flctl.core.roster import Roster
from flctl.errors import AccessError, FlctlError, UsageError
from flctl.formats import span
from flctl.wire.messages import LogLines, Message, SendLog
from flctl.wire.questions import ReadLog

ANSWER_S = 10.0
OPEN = 8
"""Most questions that an agent has open at a time."""


class _Open(NamedTuple):
    asked: Asked
    agent: str
    until: float


class AgentLogs:
    """`tell` sends to an agent, if it is connected; `answer` and `trouble` end a question."""

    def __init__(
        self,
        roster: Roster,
        tell: Callable[[str, Message], bool],
        answer: Callable[[Asked, Any], None],
        trouble: Callable[[Asked, BaseException], None],
    ) -> None:
        self._roster, self._tell = roster, tell
        self._answer, self._trouble = answer, trouble
        self._last = 0
        """The id of the newest question."""
        self._open: dict[int, _Open] = {}

    def ask(self, asked: Asked, question: ReadLog, now: float) -> None:
        """Answered later. Raises UsageError, AccessError, FlctlError."""
        name = question.agent
        self._expect_here(name, now)
        if sum(each.agent == name for each in self._open.values()) >= OPEN:
            raise FlctlError(f"{OPEN} questions to {name} are open already; try again")
        self._last = id_ = self._last + 1
        sent = SendLog(id=id_, lines=question.lines, since_s=question.since_s, after=question.after)
        if not self._tell(name, sent):
            raise FlctlError(f"{name} reads too slowly; try again")
        self._open[id_] = _Open(asked, name, now + ANSWER_S)

    def _expect_here(self, name: str, now: float) -> None:
        member = self._roster.members.get(name)
        if member is None or member.hello is None or not member.connected:
            state = "not seen since the coordinator's start" if member is None else member.state
            heard = member.heard_at if member is not None else 0.0
            ago = f", last seen {span(now - heard)} ago" if heard > 0 else ""
            raise FlctlError(f"{name} is not connected ({state}{ago}): its log cannot be read now")
        if member.hello.log is None:
            raise UsageError(
                f"{name} runs flctl {member.hello.version}, which cannot send its log: upgrade it"
            )
        if not member.hello.log:
            raise AccessError(f"the owner of {name} does not share its log (--no-share-log)")

    def on_lines(self, agent: str, found: LogLines) -> bool:
        """Whether it can have been asked for: it may come too late."""
        waiting = self._open.get(found.id)
        if waiting is None or waiting.agent != agent:
            return found.id <= self._last
        del self._open[found.id]
        if found.refused:
            self._trouble(waiting.asked, AccessError(f"{agent} does not share its log"))
            return True
        body = {
            "agent": agent,
            "lines": found.lines,
            "cursor": found.cursor,
            "more": found.more,
            "missed": found.missed,
        }
        self._answer(waiting.asked, body)
        return True

    def on_time(self, now: float) -> None:
        for id_, waiting in list(self._open.items()):
            member = self._roster.members.get(waiting.agent)
            if member is None or not member.connected:
                why = f"{waiting.agent} disconnected before it answered"
            elif now >= waiting.until:
                why = f"no answer from {waiting.agent} in {ANSWER_S:.0f} s"
            else:
                continue
            del self._open[id_]
            self._trouble(waiting.asked, FlctlError(why))
