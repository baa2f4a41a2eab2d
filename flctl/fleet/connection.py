"""One connection of an operator to a coordinator: questions, their answers, and blobs."""

import itertools
import logging
import shlex
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from flctl import __version__
from flctl.errors import (
    AccessError,
    CoordinatorAway,
    FlctlError,
    MalformedMessage,
    ProtocolMismatch,
    UsageError,
    one_line,
)
from flctl.files import holder_of, is_locked
from flctl.fleet import answers
from flctl.transport.addresses import LOCK, control_address
from flctl.transport.blobs import Download
from flctl.transport.channel import Frame, Link, LinkEvent
from flctl.transport.keypair import shown
from flctl.wire import framing, messages

logger = logging.getLogger(__name__)

ANSWER_S = 20.0
"""How long an answer may take before the coordinator counts as away."""
LOOKING = ("status", "runs", "run", "checkpoint", "keys", "journal", "audit", "logs", "watching")
"""Questions that change nothing: they are asked again when the connection is lost."""


class Connection:
    """Blocking calls, one at a time. Each raises CoordinatorAway when no answer comes, and
    the coordinator's own error when it refuses."""

    def __init__(
        self,
        link: Link,
        where: str,
        key: str = "",
        state: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`key` is the public one that is shown there; `state` the folder of a coordinator here."""
        self._link = link
        self.where, self.clock = where, clock
        self.key, self._state = key, state
        self.patience: Callable[[], AbstractContextManager[object]] = nullcontext
        """Entered while an answer is awaited."""
        self.on_server_keys: Callable[[tuple[str, ...]], None] = lambda _: None
        """The coordinator's keys from now on; it sends them unasked."""
        self.away: Callable[[], str] = lambda: ""
        """Why no answer will come, as far as that is known from elsewhere; empty if it may."""
        self.on_silent: Callable[[str], object] = logger.warning
        """Called once each time that it falls silent while it is waited for for long."""
        self.connections = 0
        """How often it was connected; after the first, the peer has the server key that was
        given."""
        self._ids = itertools.count(1)
        self._decode = framing.to_operator()
        self._aside: deque[tuple[messages.Message, Frame | None]] = deque()
        """What arrived for a watch while another question was open."""

    @property
    def here(self) -> bool:
        """The coordinator is on this machine."""
        return self._state is not None

    def close(self) -> None:
        self._link.close()

    def question(self, what: str, **args: Any) -> messages.Ask:
        """Sent; its answer is among the `messages`."""
        return self._send(messages.Ask(id=next(self._ids), what=what, args=args))

    def ask(self, what: Any, within_s: float = ANSWER_S, **args: Any) -> Any:
        with self.patience():
            if within_s > ANSWER_S:  # what takes long is asked of one that answers
                self._answer_to("watching", ANSWER_S, {"question": 0})
            return self._answer_to(what, within_s, args)

    def _answer_to(self, what: Any, within_s: float, args: dict[str, Any]) -> Any:
        question = self._send(messages.Ask(id=next(self._ids), what=what, args=args), within_s)
        heard, asked = self.clock(), 0
        until = heard + within_s
        parts = bytearray()
        aside, self._aside = self._aside, deque()
        while (left := until - self.clock()) > 0:
            for message, payload in self.messages(min(left, 0.5)):
                heard, asked = self.clock(), 0
                match message:
                    case messages.Answer(id=question.id, body=body):
                        self._aside = aside
                        return body
                    case messages.AnswerPart(id=question.id, last=last) if payload is not None:
                        parts += payload
                        until = max(until, self.clock() + ANSWER_S)
                        if last:
                            self._aside = aside
                            return answers.whole(parts, self.where)
                    case messages.Trouble(id=question.id):
                        self._aside = aside
                        raise answers.as_error(message)
                    case (
                        messages.RunEvent()
                        | messages.AnswerPart()
                        | messages.Answer()
                        | messages.Trouble()
                    ):  # of a watch
                        aside.append((message, payload))
            if self._was_cut():
                if what not in LOOKING:
                    raise CoordinatorAway(
                        f"the coordinator at {self.where} closed the connection before it "
                        "answered; flctl status and flctl runs list show"
                    )
                parts.clear()
                self._send(question, within_s)
            quiet_s = self.clock() - heard
            if within_s > ANSWER_S and asked < 2 and quiet_s > (asked + 1) * ANSWER_S / 2:
                asked += 1
                if asked == 2:
                    self.on_silent(str(self.silence(ANSWER_S)))
                else:  # this is answered at once, unless it is suspended
                    self.question("watching", question=0)
        raise self.silence(within_s)

    def _send(self, message: messages.Ask, within_s: float = ANSWER_S) -> messages.Ask:
        until = self.clock() + within_s
        frames = _encoded(message)
        while not self._link.send(frames):
            if self.clock() > until:
                raise self.silence(within_s)
            self._was_cut()
            self._link.wait(0.2)
        self._was_cut()
        return message

    def messages(self, timeout_s: float) -> Iterator[tuple[messages.Message, Frame | None]]:
        while self._aside:
            yield self._aside.popleft()
        self._link.wait(timeout_s)
        for frames in self._link.receive():
            try:
                _, message, payload = self._decode(frames)
            except ProtocolMismatch as error:
                raise _other_protocol(frames, error) from error
            except MalformedMessage:
                if refusal := _refusal(frames):
                    # What an agent may do about it is no advice for an operator.
                    raise self._refused(refusal.message.partition(":")[0]) from None
                continue
            if isinstance(message, messages.ServerKeys):
                self.on_server_keys(message.keys)
                continue
            yield message, payload

    def _was_cut(self) -> bool:
        """Whether the connection has ended since the last call. Raises as `heed`."""
        return LinkEvent.DISCONNECTED in self.heed()

    def heed(self) -> set[LinkEvent]:
        """Events of the connection since the last call. Raises AccessError, CoordinatorAway."""
        events = list(self._link.events())
        for event in events:
            match event:
                case LinkEvent.CONNECTED:
                    self.connections += 1
                case LinkEvent.KEY_REFUSED:
                    raise self._refused("it is not enrolled there, or was revoked")
                case LinkEvent.SERVER_KEY_WRONG if not self.connections:  # else it only restarts
                    raise AccessError(
                        f"{self.where} closed the connection during the handshake: it is not a "
                        "flctl coordinator, or --server-key of flctl connect is not (or no longer) "
                        "its key"
                    )
        if away := self.away():
            raise CoordinatorAway(away)
        return set(events)

    def silence(self, waited_s: float) -> CoordinatorAway:
        text = f"no answer from the coordinator at {self.where} in {waited_s:.0f} s"
        if self._state is None:
            return CoordinatorAway(f"{text}: check that it runs there, and the address")
        lock, start = self._state / LOCK, start_command(self._state)
        if not is_locked(lock):
            return CoordinatorAway(f"{text}: it has ended; start it again with: {start}")
        holder = holder_of(lock)
        if not Path(control := control_address(self._state).removeprefix("ipc://")).exists():
            return CoordinatorAway(
                f"process {holder} holds {self.where}, but its socket {control} is missing: it is "
                f"starting, or the socket was deleted; then end it (kill {holder}) and start it "
                f"again ({start})"
            )
        return CoordinatorAway(
            f"process {holder} holds {self.where} but has not answered for {waited_s:.0f} s: "
            f"wake it (kill -CONT {holder}), or end it (kill -KILL {holder}) and start another "
            f"({start})"
        )

    def _refused(self, why: str) -> AccessError:
        key = shown(self.key)
        return AccessError(
            f"the coordinator at {self.where} rejects this key ({key}): {why}; "
            f"on the coordinator run: flctl keys add NAME {key} --role admin"
        )

    def download(self, download: Download, run: str, round_id: int) -> None:
        """Raises CoordinatorAway when no answer comes, or the coordinator is gone."""
        moved = time.monotonic()
        while not download.done:
            requests = download.requests()
            while requests and self._link.send(framing.encode(requests[0])):
                requests.pop(0)
            for fetch in requests:
                download.unsent(fetch)
            for message, payload in self.messages(0.5):
                match message:
                    case messages.Chunk(blob=download.blob, offset=offset) if payload is not None:
                        download.on_chunk(offset, payload)
                        moved = time.monotonic()
                    case messages.BlobGone(blob=download.blob):
                        raise CoordinatorAway(f"{self.where} no longer has the checkpoint")
            if self._was_cut():
                # What was under way is lost, and a coordinator that was restarted serves only
                # what it is asked for.
                self.ask("checkpoint", run=run, round=round_id)
                download.restart()
                moved = time.monotonic()
            if time.monotonic() - moved > ANSWER_S:
                raise CoordinatorAway(f"{self.where} stopped sending the checkpoint")
        for fetch in download.requests():
            self._link.send(framing.encode(fetch))
        download.finish()


def _encoded(question: messages.Ask) -> list[Frame]:
    """Raises UsageError for what no message holds."""
    try:
        frames = framing.encode(question)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise UsageError(f"'{question.what}': {one_line(error)}") from error
    if (size := len(frames[1])) > framing.HEADER_BYTES:
        most = framing.HEADER_BYTES
        raise UsageError(f"'{question.what}': too long to send: {size:,} bytes, at most {most:,}")
    return frames


def start_command(state: Path) -> str:
    return f"flctl coordinator --state {shlex.quote(str(state))}"


def _other_protocol(frames: list[Frame], error: ProtocolMismatch) -> FlctlError:
    if error.theirs != framing.NOTICE:
        return FlctlError(f"the coordinator speaks another protocol: {error}")
    notice = framing.read_notice(frames)
    older = notice.oldest > framing.PROTOCOL
    return FlctlError(
        f"this flctl ({__version__}) speaks protocol {framing.PROTOCOL}, the coordinator "
        f"({notice.version}) {framing.spoken(notice.oldest, notice.newest)}: upgrade "
        + ("this flctl" if older else "the coordinator")
    )


def _refusal(frames: list[Frame]) -> messages.Refused | None:
    try:
        _, message, _ = framing.to_agent()(frames)
    except (MalformedMessage, ProtocolMismatch):
        return None
    return message if isinstance(message, messages.Refused) else None
