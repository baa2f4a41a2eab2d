"""An operator's connection to a coordinator, here or far away: questions and orders."""

import enum
import itertools
import os
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

import msgspec

from flctl import __version__
from flctl.coordinator.store.folder import all_runs
from flctl.coordinator.store.journal import shown_chain
from flctl.core.chain import Chain
from flctl.errors import (
    NOT_DECODED,
    AccessError,
    CoordinatorAway,
    FlctlError,
    MalformedMessage,
    ProtocolMismatch,
    UsageError,
    one_line,
)
from flctl.files import explained, holder_of, is_locked, new_file
from flctl.fleet import answers, pages
from flctl.fleet.context import LOCAL, Context, current_context, load_context, save_context
from flctl.transport.addresses import LOCK
from flctl.transport.blobs import Download
from flctl.transport.channel import Frame, Link, LinkEvent
from flctl.transport.keypair import public_key
from flctl.transport.zeromq import ControlLink, ZeroMqLink, control_address, control_is_there
from flctl.wire import framing
from flctl.wire.messages import (
    Answer,
    AnswerPart,
    Ask,
    BlobGone,
    Chunk,
    Deal,
    Digest,
    Message,
    Refused,
    RunEvent,
    ServerKeys,
    Trouble,
)

ANSWER_S = 20.0
LOOKING = ("status", "runs", "run", "checkpoint", "keys", "journal", "audit")
"""Questions that change nothing: they are asked again when the connection is lost."""
"""How long an answer may take before the coordinator counts as away."""
START_S = 180.0
"""The same for what imports torch and reads data first."""


class Console:
    """Blocking calls, one at a time. Each raises CoordinatorAway when nobody answers, and
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
        self.where = where
        self._key, self._state, self._clock = key, state, clock
        self.patience: Callable[[], AbstractContextManager[object]] = nullcontext
        """Entered while an answer is awaited."""
        self.on_server_keys: Callable[[tuple[str, ...]], None] = lambda _: None
        """By which keys the coordinator is known from now on; it tells that of its own accord."""
        self._is_right = False
        """It has been connected: whoever is there has the server key that was given."""
        self._ids = itertools.count(1)
        self._decode = framing.to_operator()

    # The documents that `--json` prints come back as they are, once they have been checked.

    def status(self) -> dict[str, Any]:
        """As `answers.Status`."""
        return dict(self._document(answers.Status, self._ask("status")))

    def runs(self) -> list[dict[str, Any]]:
        """Each as `answers.Run`."""
        return list(self._document(list[answers.Run], self._ask("runs")))

    def about(self, run: str) -> dict[str, Any]:
        """Summary and settings of a run. A coordinator of an older version adds its events."""
        body = self._ask("run", run=run, events=False)
        found = answers.read(answers.RunDetails, body, self.where)
        self._expect_run(found.run, run)
        if found.events is None:
            return dict(body)
        return {**body, "events": [*self._known(found.events)]}

    def run(self, run: str) -> dict[str, Any]:
        """The same with all of its events; the whole of a long run takes memory here."""
        about = self.about(run)
        if "events" in about:
            return about
        chain = Chain()
        events = list(self.events(about["run"], chain))
        return {**about, "chain": shown_chain(chain.verdict()), "events": events}

    def events(self, run: str, chain: Chain | None = None) -> Iterator[dict[str, Any]]:
        """What the journal of a run holds, which comes in pages; `chain` follows its lines."""
        for line in pages.lines(partial(self.journal, run), f"the journal of run {run}"):
            if chain is not None:
                chain.follow(line)
            try:
                event = msgspec.json.decode(line, type=dict[str, Any])
            except NOT_DECODED as error:
                raise MalformedMessage(
                    f"the journal of run {run} from {self.where}: {one_line(error)}"
                ) from error
            event.pop("chain", None)
            yield from self._known([event])

    def _known(self, events: Iterable[object]) -> Iterator[dict[str, Any]]:
        """Those of a kind that this version knows, checked."""
        for event in events:
            if (found := answers.read_event(event, self.where)) is not None:
                yield found

    def journal(self, run: str, offset: int) -> bytes:
        """The next bytes of a run's journal as it stands on the disk; none at its end."""
        body = self._ask("journal", run=run, offset=offset)
        return answers.read(answers.JournalPage, body, self.where).data

    def audit(self, offset: int) -> bytes:
        """The next bytes of the coordinator's audit file; none at its end."""
        return bytes(self._ask("audit", offset=offset)["data"])

    def start(self, given: dict[str, Any], where: str) -> str:
        body = self._ask("start", START_S, given=given, where=where)
        return answers.read(answers.OfRun, body, self.where).run

    def resume(self, run: str, changes: Mapping[str, Any] | None = None) -> str:
        more = {"changes": dict(changes)} if changes else {}
        return self._order_to_run("resume", run, **more)

    def stop(self, run: str) -> str:
        return self._order_to_run("stop", run)

    def keys(self) -> dict[str, Any]:
        """As `answers.Keys`."""
        return dict(self._document(answers.Keys, self._ask("keys")))

    def add_key(self, name: str, key: str, role: str) -> None:
        self._ask("key-add", name=name, key=key, role=role)

    def revoke(self, name: str) -> list[str]:
        """The ids of the tokens that were closed with it."""
        body = self._ask("key-revoke", name=name)
        return list(answers.read(answers.Closed, body, self.where).closed)

    def cordon(self, agent: str) -> None:
        self._ask("cordon", name=agent)

    def uncordon(self, agent: str) -> None:
        self._ask("uncordon", name=agent)

    def token(
        self, ttl_s: float, uses: int, deal: Deal | None = None, evaluates: bool = False
    ) -> str:
        more: dict[str, Any] = {} if deal is None else {"deal": msgspec.to_builtins(deal)}
        if evaluates:
            more["evaluates"] = True
        body = self._ask("token", ttl_s=ttl_s, uses=uses, **more)
        return answers.read(answers.Token, body, self.where).token

    def close_tokens(self, ids: Sequence[str] | None) -> list[str]:
        """Those of them that were open; all for None."""
        which: dict[str, Any] = {} if ids is None else {"ids": list(ids)}
        body = self._ask("token-close", **which)
        return list(answers.read(answers.Closed, body, self.where).closed)

    def invite(self, ttl_s: float) -> dict[str, Any]:
        """Open the door of `coordinator --invite`."""
        return dict(self._document(answers.Invited, self._ask("invite", ttl_s=ttl_s)))

    def rotate_server(self, step: str, overlap_s: float, anyway: bool) -> dict[str, Any]:
        body = self._ask("rotate-server", step=step, overlap_s=overlap_s, anyway=anyway)
        return dict(self._document(answers.Rotated, body))

    def watch(self, run: str, past: bool = True) -> Iterator[dict[str, Any] | None]:
        """The run's events from its beginning on, for ever; None now and then when it is quiet.

        When the coordinator is away for a while, the events that were missed come again
        from the beginning: whoever reads them must bear with repetition. While all is quiet it
        is only asked whether it still sends them.

        Raises AccessError when the key is revoked meanwhile.
        """
        question = self._send_watch(run, past)
        asked: Ask | None = None
        """Whether it still sends them; not answered yet."""
        heard = self._clock()
        parts = bytearray()
        while True:
            lost = False
            for message, payload in self._messages(0.5):
                heard = self._clock()
                match message:
                    case RunEvent(id=question.id, event=event):
                        yield self._event_of(run, event)
                    case Answer(id=id_) | Trouble(id=id_) if asked is not None and id_ == asked.id:
                        lost = message != Answer(id=id_, body={"watching": True})
                        asked = None
                    case AnswerPart(id=question.id, last=last) if payload is not None:
                        parts += payload
                        if last:
                            whole = _whole(parts, self.where)
                            parts.clear()
                            if isinstance(whole, dict) and "event" in whole:
                                yield self._event_of(run, whole)
                    case Trouble(id=question.id):
                        raise _as_error(message)
            lost = LinkEvent.CONNECTED in self._heed() or lost
            quiet = self._clock() - heard > ANSWER_S
            if lost or (quiet and asked is not None):
                # The coordinator was restarted, or is older than this question.
                parts.clear()
                question, asked = self._send_watch(run), None
            elif quiet:
                args = {"question": question.id}
                asked = self._send(Ask(id=next(self._ids), what="watching", args=args))
            if lost or quiet:
                heard = self._clock()
            yield None

    def _send_watch(self, run: str, past: bool = True) -> Ask:
        args = {"run": run, "past": past}
        return self._send(Ask(id=next(self._ids), what="watch", args=args))

    def save_checkpoint(
        self, run: str, path: Path, round_id: int | None = None, model: Digest | None = None
    ) -> Path:
        """Fetch the newest model of a run, or that of a round, into `path`.

        `model` is its digest where that is known from the run's events. Raises FlctlError.
        """
        body = self._ask("checkpoint", run=run, **({} if round_id is None else {"round": round_id}))
        blob = answers.read(answers.Checkpoint, body, self.where)
        if round_id not in (None, blob.round):
            raise FlctlError(f"the coordinator at {self.where} is older: it has --which last only")
        if model not in (None, blob.blob):
            raise MalformedMessage(
                f"the coordinator at {self.where} offers another model of round {blob.round} than "
                f"the one in its record of run {run}"
            )
        with explained(path, "save the checkpoint", "--save-model"):
            path.parent.mkdir(parents=True, exist_ok=True)
            with new_file(path) as file:
                fd = os.dup(file.fileno())
                try:
                    self._download(Download(blob.blob, blob.size, fd), run, blob.round)
                finally:
                    os.close(fd)
        return path

    def close(self) -> None:
        self._link.close()

    def __enter__(self) -> "Console":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _document(self, kind: Any, body: Any) -> Any:
        answers.read(kind, body, self.where)
        return body

    def _order_to_run(self, what: str, run: str, **more: Any) -> str:
        found = answers.read(answers.OfRun, self._ask(what, run=run, **more), self.where).run
        self._expect_run(found, run)
        return found

    def _expect_run(self, found: str, asked: str) -> None:
        if not found.startswith(asked):
            raise MalformedMessage(
                f"the coordinator at {self.where} was asked about run {asked} and answers about "
                f"{found}"
            )

    def _event_of(self, run: str, event: object) -> dict[str, Any] | None:
        """One event of a run that is watched; None for what tells nothing about it."""
        found = answers.read_event(event, self.where)
        other = found is not None and not str(found.get("run", run)).startswith(run)
        return None if other else found

    def _ask(self, what: Any, within_s: float = ANSWER_S, **args: Any) -> Any:
        with self.patience():
            return self._answer_to(what, within_s, args)

    def _answer_to(self, what: Any, within_s: float, args: dict[str, Any]) -> Any:
        question = self._send(Ask(id=next(self._ids), what=what, args=args))
        until = time.monotonic() + within_s
        parts = bytearray()
        while (left := until - time.monotonic()) > 0:
            for message, payload in self._messages(min(left, 0.5)):
                match message:
                    case Answer(id=question.id, body=body):
                        return body
                    case AnswerPart(id=question.id, last=last) if payload is not None:
                        parts += payload
                        until = max(until, time.monotonic() + ANSWER_S)
                        if last:
                            return _whole(parts, self.where)
                    case Trouble(id=question.id):
                        raise _as_error(message)
            if self._was_cut():
                if what not in LOOKING:
                    raise CoordinatorAway(
                        f"the coordinator at {self.where} went away before it answered; whether "
                        "it has done it, flctl status and flctl runs list show"
                    )
                parts.clear()
                self._send(question)
        raise self._silent(within_s)

    def _send(self, message: Ask) -> Ask:
        until = time.monotonic() + ANSWER_S
        frames = framing.encode(message)
        while not self._link.send(frames):
            if time.monotonic() > until:
                raise self._silent(ANSWER_S)
            self._was_cut()
            self._link.wait(0.2)
        self._was_cut()
        return message

    def _messages(self, timeout_s: float) -> Iterator[tuple[Message, Frame | None]]:
        self._link.wait(timeout_s)
        for frames in self._link.receive():
            try:
                _, message, payload = self._decode(frames)
            except ProtocolMismatch as error:
                raise _other_protocol(frames, error) from error
            except MalformedMessage:
                if refusal := _refusal(frames):
                    raise self._refused(refusal.message) from None
                continue
            if isinstance(message, ServerKeys):
                self.on_server_keys(message.keys)
                continue
            yield message, payload

    def _was_cut(self) -> bool:
        """Whether the connection has ended since this was asked last. Raises AccessError."""
        return LinkEvent.DISCONNECTED in self._heed()

    def _heed(self) -> set[LinkEvent]:
        """What has become of the connection since this was asked last. Raises AccessError."""
        events = list(self._link.events())
        for event in events:
            match event:
                case LinkEvent.CONNECTED:
                    self._is_right = True
                case LinkEvent.KEY_REFUSED:
                    raise self._refused("it was never enrolled there, or was revoked")
                case LinkEvent.SERVER_KEY_WRONG if not self._is_right:  # else it only starts anew
                    raise AccessError(
                        f"whoever answers at {self.where} hangs up: it does not have the server "
                        "key that was given, or is no coordinator"
                    )
        return set(events)

    def _silent(self, waited_s: float) -> CoordinatorAway:
        text = f"no answer from the coordinator at {self.where} in {waited_s:.0f} s"
        if self._state is None:
            return CoordinatorAway(f"{text}: does it run there, and is that its address?")
        lock, start = self._state / LOCK, _start(self._state)
        if not is_locked(lock):
            return CoordinatorAway(f"{text}: it has ended; start it again with: {start}")
        holder = holder_of(lock)
        return CoordinatorAway(
            f"process {holder} holds {self.where} but has not answered for {waited_s:.0f} s: "
            f"wake it (kill -CONT {holder}), or end it (kill -KILL {holder}) and start another "
            f"({start})"
        )

    def _refused(self, why: str) -> AccessError:
        return AccessError(
            f"the coordinator at {self.where} does not let in this key ('{self._key}'): {why}; "
            f"whoever may steer it can, with: flctl keys add NAME '{self._key}' --role admin"
        )

    def _download(self, download: Download, run: str, round_id: int) -> None:
        """Raises CoordinatorAway when it does not come, or is not there any more."""
        moved = time.monotonic()
        while not download.done:
            requests = download.requests()
            while requests and self._link.send(framing.encode(requests[0])):
                requests.pop(0)
            for fetch in requests:
                download.unsent(fetch)
            for message, payload in self._messages(0.5):
                match message:
                    case Chunk(blob=download.blob, offset=offset) if payload is not None:
                        download.on_chunk(offset, payload)
                        moved = time.monotonic()
                    case BlobGone(blob=download.blob):
                        raise CoordinatorAway(f"{self.where} does not have the checkpoint any more")
            if self._was_cut():
                # What was under way is lost, and a coordinator that was restarted serves only
                # what it is asked for.
                self._ask("checkpoint", run=run, round=round_id)
                download.restart()
                moved = time.monotonic()
            if time.monotonic() - moved > ANSWER_S:
                raise CoordinatorAway(f"{self.where} stopped sending the checkpoint")
        for fetch in download.requests():
            self._link.send(framing.encode(fetch))
        download.finish()


class Place(enum.Enum):
    COORDINATOR = "the coordinator that runs on the state folder"
    FOLDER = "the state folder itself"


def where_to_look(state: Path, context: str | None = None, run: str = "") -> Context | Place:
    """Where a command finds runs, keys and agents: the one rule of all commands.

    1. The far coordinator that --context names; `local` names none, and leaves out step 4.
    2. The coordinator that runs on `state`.
    3. `state` itself, when `run` is the name of a run, or its beginning, that it has.
    4. The far coordinator that `flctl connect` saved there.
    5. `state` itself.

    Raises UsageError when there is no such context, StateError when it is damaged.
    """
    if context not in (None, LOCAL):
        return cast(Context, load_context(state, context))
    if is_locked(state / LOCK) or control_is_there(state):
        return Place.COORDINATOR
    here = bool(run) and any(folder.name.startswith(run) for folder in all_runs(state))
    if context == LOCAL or here:
        return Place.FOLDER
    return load_context(state) or Place.FOLDER


def open_console(state: Path, context: str | None = None, run: str = "") -> Console:
    """The coordinator that `where_to_look` finds. Raises CoordinatorAway when there is none."""
    match where_to_look(state, context, run):
        case Place.COORDINATOR:
            return Console(ControlLink(control_address(state)), str(state), state=state)
        case Context() as saved:
            name = context or current_context(state)
            return remote_console(saved, lambda found: save_context(state, found, name))
    raise CoordinatorAway(
        f"no coordinator runs on {state}; start one ({_start(state)}), "
        "or name a far one (flctl connect HOST:PORT)"
    )


def remote_console(context: Context, keep: Callable[[Context], object] = lambda _: None) -> Console:
    """`keep` saves the context when the coordinator is known by another key from now on."""
    link = ZeroMqLink(context.coordinator, context.keys(), context.server_keys())

    def on_server_keys(keys: tuple[str, ...]) -> None:
        if keys != context.server_keys():
            with suppress(FlctlError):  # there is another chance with the next command
                keep(context.known_by([public_key(key, "a server key") for key in keys]))
        link.use_server_keys(keys)

    console = Console(link, context.coordinator, key=context.public_key)
    console.on_server_keys = on_server_keys
    return console


def _start(state: Path) -> str:
    return f"flctl coordinator --state {shlex.quote(str(state))}"


def _whole(parts: bytearray, where: str) -> Any:
    try:
        return msgspec.msgpack.decode(parts)
    except NOT_DECODED as error:
        raise MalformedMessage(f"the answer of {where} is damaged: {one_line(error)}") from error


def _as_error(trouble: Trouble) -> FlctlError:
    return UsageError(trouble.message) if trouble.exit_code == 2 else FlctlError(trouble.message)


def _other_protocol(frames: list[Frame], error: ProtocolMismatch) -> FlctlError:
    if error.theirs != framing.NOTICE:
        return FlctlError(f"the coordinator speaks another protocol: {error}")
    notice = framing.read_notice(frames)
    older = notice.oldest > framing.PROTOCOL
    return FlctlError(
        f"this flctl ({__version__}) speaks protocol {framing.PROTOCOL}, the coordinator "
        f"({notice.version}) {notice.oldest} to {notice.newest}: upgrade "
        + ("this flctl" if older else "the coordinator")
    )


def _refusal(frames: list[Frame]) -> Refused | None:
    try:
        _, message, _ = framing.to_agent()(frames)
    except (MalformedMessage, ProtocolMismatch):
        return None
    return message if isinstance(message, Refused) else None
