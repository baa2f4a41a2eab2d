"""One watch of a run over a connection to its coordinator: what was missed is asked for."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from flctl.core.events import RunStarted
from flctl.core.stream import Followed, Published, RunBegun
from flctl.fleet import answers
from flctl.transport.channel import Frame
from flctl.values import names_run
from flctl.wire.messages import Answer, AnswerPart, Ask, Message, RunEvent, Trouble

if TYPE_CHECKING:
    from flctl.fleet.connection import Connection

QUIET_S = 10.0
"""Silence after which it checks the coordinator, and again before it repeats the question."""


class Following:
    def __init__(self, connection: "Connection", run: str, after: int) -> None:
        self._connection, self._run = connection, run
        self._followed = Followed(after)
        self._parts = bytearray()
        self._again: int | None = None
        """Ask for what comes after this event."""
        self._asked: Ask | None = None
        """Whether it still sends; not answered yet."""
        self._question = self._watch(after)

    def __iter__(self) -> Iterator[Published | None]:
        """Raises AccessError when the key is revoked meanwhile."""
        connection, followed = self._connection, self._followed
        heard, silent = connection.clock(), False
        while True:
            for message, payload in connection.messages(0.5):
                heard, silent = connection.clock(), False
                told = self._told(self._take(message, payload))
                if told is None or self._again is not None:
                    continue
                if told.seq is not None and told.seq > followed.last + 1:
                    self._again = followed.after  # some were lost on the way
                elif followed.is_new(told):
                    yield told
            quiet = connection.clock() - heard > QUIET_S
            connection.heed()
            cut = connection.connections != self._connections
            unanswered = quiet and self._asked is not None
            if unanswered and not silent:
                silent = True
                connection.on_silent(str(connection.silence(2 * QUIET_S)))
            if cut or unanswered:
                self._again = followed.after  # the coordinator was restarted, or does not answer
            if self._again is not None:
                self._question = self._watch(self._again)
            elif quiet:
                self._asked = connection.question("watching", question=self._question.id)
            if quiet or self._again is not None:
                heard, self._again = connection.clock(), None
            yield None

    def _take(self, message: Message, payload: Frame | None) -> object:
        """The event in it, if there is one that is whole now."""
        asked = self._asked.id if self._asked is not None else None
        match message:
            case RunEvent(id=self._question.id, event=event):
                return event
            case AnswerPart(id=self._question.id, last=last) if payload is not None:
                self._parts += payload
                if last:
                    whole = answers.whole(self._parts, self._connection.where)
                    self._parts.clear()
                    return whole
            case Answer(id=self._question.id, body={"more": True}):
                self._again = self._followed.last
            case Answer(id=id_, body=body) if id_ == asked:
                self._asked = None
                if body != {"watching": True}:
                    self._again = self._followed.after
            case Trouble(id=id_) if id_ == asked:
                self._asked, self._again = None, self._followed.after
            case Trouble(id=self._question.id):
                raise answers.as_error(message)
        return None

    def _told(self, body: object) -> Published | None:
        """An event of the run; None for what is not about it."""
        if body is None or (found := answers.read_told(body, self._connection.where)) is None:
            return None
        names = {found.run}
        if isinstance(found.event, RunBegun | RunStarted):
            names.add(found.event.run)
        return found if all(names_run(self._run, name) for name in names - {""}) else None

    def _watch(self, after: int) -> Ask:
        self._parts.clear()
        self._asked = None
        question = self._connection.question("watch", run=self._run, after=after)
        self._connections = self._connection.connections
        return question
