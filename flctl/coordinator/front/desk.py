"""Takes questions, has each answered in its turn, and sees that each gets an answer, or why not."""

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from flctl.coordinator.background import Background
from flctl.coordinator.front.auditing import Auditing
from flctl.coordinator.front.outbox import Recipient
from flctl.coordinator.front.service import Coordinator
from flctl.coordinator.front.turns import QUESTIONS, Asked, Turns
from flctl.errors import AccessError, ErrorKind, FlctlError
from flctl.files import failure
from flctl.transport.channel import LOCAL, Incoming
from flctl.wire import questions as q
from flctl.wire.messages import Ask, Trouble

logger = logging.getLogger(__name__)

T = TypeVar("T")
OF_THE_DISK = frozenset({"runs", "run", "watch", "checkpoint", "journal", "history"})
"""Questions that `looking` answers, one after another."""


class Desk:
    def __init__(
        self,
        coordinator: Coordinator,
        reply: Callable[[Asked, q.AnyQuestion], Any],
        looking: Background,
    ) -> None:
        """`reply` returns the body of an answer, or None when `answer`, `trouble` or `look` are
        called later; it may raise FlctlError, OSError. `looking` is for the disk."""
        self._coordinator, self._reply, self._looking = coordinator, reply, looking
        self._operators = coordinator.operators
        self.auditing = Auditing(coordinator.audit, coordinator.keyring)
        self._looks = 0
        """Questions that `looking` is at."""
        self._turns = Turns(self._may_begin)
        self.on_trouble: Callable[[Asked], None] = lambda _: None

    def take(self, incoming: Incoming, ask: Ask) -> None:
        peer, key = incoming.peer, incoming.key
        # On this machine each connection is a command of its own.
        address = Recipient(peer, key if key != LOCAL else f"{LOCAL} {peer.hex()}")
        source = self._coordinator.source_of(incoming)
        if not self._turns.take(Asked(address, key, source, ask, incoming.origin)):
            text = f"{QUESTIONS} questions of this key are open; wait for their answers"
            # Not kept for one that does not read.
            self._coordinator.peers.send(peer, Trouble(id=ask.id, message=text))

    def step(self) -> None:
        """One question, so that many do not hold up the fleet; the next one in the next step."""
        asked = self._turns.next()
        if asked is not None:
            self._begin(asked)
        self._looking.finish()
        if self._turns.has_next:
            self._coordinator.wake()

    def close(self) -> None:
        self._looking.close()

    def answer(self, asked: Asked, body: Any) -> None:
        """Raises RunError when it is too large."""
        self.auditing.done(asked, body)
        self._operators.answer(asked.to, asked.ask.id, body)
        self._turns.done(asked)

    def end(self, asked: Asked, body: Any, error: FlctlError | None) -> None:
        self.answer(asked, body) if error is None else self.trouble(asked, error)

    def look(
        self, asked: Asked, work: Callable[[], T], then: Callable[[T], Any] = lambda found: found
    ) -> None:
        """Have `work` done off the loop; `then` makes the body of the answer of what it returns,
        or None if it has given the answer itself."""
        self._looks += 1

        def ended(found: T | None, error: BaseException | None) -> None:
            self._looks -= 1
            try:
                if error is not None:
                    raise error  # noqa: TRY301
                body = then(found)  # type: ignore[arg-type]
                if body is None:
                    self._turns.done(asked)
                else:
                    self.answer(asked, body)
            except (FlctlError, OSError) as known:
                self.trouble(asked, known)
            except Exception as bug:
                self._on_bug(asked, bug)

        self._looking.submit(work, ended)

    def trouble(self, asked: Asked, error: BaseException) -> None:
        if isinstance(error, OSError):
            error = failure(error, self._coordinator.state, asked.ask.what)
        text = str(error) if isinstance(error, FlctlError) else f"unexpected: {error!r}"
        self.auditing.failed(asked, error)
        self.on_trouble(asked)
        trouble = Trouble(id=asked.ask.id, message=text[:2000], kind=ErrorKind.of(error))
        self._operators.put(asked.to, trouble)
        self._turns.done(asked)

    def _may_begin(self, asked: Asked) -> bool:
        if self._operators.has_backlog(asked.to.peer):
            return False  # it is to read the answers that it has
        return not (self._looks and asked.ask.what in OF_THE_DISK)

    def _begin(self, asked: Asked) -> None:
        try:
            self._expect_right(asked)
            question = q.read_question(asked.ask)
            asked = self.auditing.begin(asked, question)
            body = self._reply(asked, question)
            if body is not None:
                self.answer(asked, body)
        except (FlctlError, OSError) as error:
            self.trouble(asked, error)
        except Exception as error:  # a question must not end it for the others
            self._on_bug(asked, error)

    def _expect_right(self, asked: Asked) -> None:
        """It may have been revoked since it asked. Raises AccessError."""
        role = "admin" if asked.key == LOCAL else self._coordinator.keyring.role_of(asked.key)
        if role not in ("read", "admin"):
            raise AccessError("this key was revoked")
        if q.needs_admin(asked.ask) and role != "admin":
            raise AccessError(f"'{asked.ask.what}' needs an admin key; this key may only read")

    def _on_bug(self, asked: Asked, error: Exception) -> None:
        what = f"a question of {asked.source} could not be answered"
        self._coordinator.gate.bug(logger, asked.source, error, what)
        self.trouble(asked, error)
