"""STATE/audit.jsonl: who changed what, when, from where, and how it ended.

An action is two lines with one id: `begun`, on disk before anything happens, and its outcome. An
action without an outcome was cut short. A refused attempt is one line. The lines are chained
(flctl.core.chain). Several processes may append: the coordinator, and `flctl keys` on its folder.
"""

import contextlib
import fcntl
import logging
import os
import pwd
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from flctl.core.chain import Chain, split, split_lines, verify, whole_lines
from flctl.errors import AccessError, FlctlError, StateError, decoded, one_line
from flctl.files import explained, make_folder, page, sync_folder
from flctl.transport.allowance import Allowance
from flctl.transport.gate import STRANGER, Gate

logger = logging.getLogger(__name__)

Outcome: TypeAlias = Literal["begun", "done", "failed", "refused"]
FILE = "audit.jsonl"
ORDERS = 600
"""Orders allowed per minute and operator."""
REFUSALS = 10
"""Lines a minute about one peer's refused attempts; more are counted in the next line."""
ALL_REFUSALS = 60
"""Such lines a minute for all peers combined."""
TEXT = 300
"""Characters of one argument that are kept."""
ARGS_BYTES = 2048
DEPTH = 4
_TAIL = 64 * 1024
"""Larger than any line."""
_SECRET = re.compile(rb"flt_[0-9a-f]{4,}")


class Actor(NamedTuple):
    who: str
    """The name of the key, or the account on this machine."""
    role: str
    """admin, read, agent, guest, or local."""
    origin: str = ""
    """Address of the connection, as far as it is known."""
    key: str = ""


class Line(Struct, frozen=True, kw_only=True, omit_defaults=True):
    at: str
    """UTC, as 2026-11-27T07:31:09.123Z."""
    id: str
    who: str
    role: str
    origin: str = msgspec.field(name="from", default="")
    key: str = ""
    action: str
    args: dict[str, Any] = {}
    outcome: Outcome
    detail: Any = ""
    """Result: the reason for a failure or a refusal, or the run that was begun."""
    left_out: int = 0
    """Refused attempts before this one that have no line of their own."""


class Audit:
    """Audit file of the folder `state`; `clock` limits rates, `wall_clock` dates the lines."""

    def __init__(
        self,
        state: Path,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        gate: Gate | None = None,
    ) -> None:
        self.path = state / FILE
        self._wall_clock, self._gate = wall_clock, gate or Gate(clock)
        self._orders = Allowance(ORDERS, clock)
        self._refusals = Allowance(REFUSALS, clock)
        self._all_refusals = Allowance(ALL_REFUSALS, clock)

    def page(self, offset: int) -> dict[str, Any]:
        """Its next bytes from `offset` on, and how many there are. Raises StateError."""
        if not self.path.exists():
            return {"data": b"", "size": 0}
        with explained(self.path, "read"):
            size = self.path.stat().st_size
        return {"data": page(self.path, offset), "size": size}

    def begin(self, by: Actor, action: str, args: Mapping[str, Any], needed: bool = True) -> Line:
        """Before the action; the line, for `end`. Raises AccessError when the actor gives too many
        orders, and StateError when it cannot be written: then the action must not happen.

        Without `needed` failures are only logged: for orders that withdraw access or stop a run.
        """
        if self._orders.spend(f"{by.role} {by.who}") is None:
            raise AccessError(f"more than {ORDERS} orders within a minute; wait")
        begun = self._line(by, action, "begun", args=_bounded(args))
        try:
            self._write(begun)
        except StateError as error:
            if needed:
                raise StateError(f"{error}; without a line there nothing is changed") from error
            self._error("%s; '%s' of %s is carried out without it", error, begun)
        return begun

    def end(self, begun: Line, outcome: Outcome, detail: Any = "") -> None:
        """After it; what cannot be written is logged, for it has happened."""
        short = _bounded(detail) if isinstance(detail, Mapping) else _short(detail)
        line = replace(begun, at=self._now(), args={}, outcome=outcome, detail=short)
        try:
            head = self._write(line)
        except StateError as error:
            self._error(f"%s; '%s' of %s: {outcome}", error, line)
            return
        self._gate.info(
            logger, line.who or STRANGER, "audit who=%s role=%s from=%s action=%s %s head=%s",
            line.who, line.role, line.origin or "-", line.action, outcome, head,
        )  # fmt: skip

    @contextlib.contextmanager
    def action(
        self, by: Actor, action: str, args: Mapping[str, Any], needed: bool = True
    ) -> Iterator[dict[str, Any]]:
        """Around an action that is over at once; the block fills in what came of it."""
        begun = self.begin(by, action, args, needed)
        detail: dict[str, Any] = {}
        try:
            yield detail
        except BaseException as error:
            self.end(begun, "failed", reason_of(error))
            raise
        self.end(begun, "done", detail)

    def refused(self, by: Actor, action: str, why: str) -> None:
        """An attempt that was not let through. Peers decide how often: the lines are bounded."""
        over = self._refusals.spend(by.who)  # all who have no name are one
        if over is None or (others := self._all_refusals.spend("")) is None:
            return
        more = {"detail": _short(why), "left_out": over + others}
        line = self._line(by, one_line(action, 50), "refused", **more)
        try:
            self._write(line)
        except StateError as error:
            self._error("%s; a refused '%s' of %s", error, line)

    def _line(self, by: Actor, action: str, outcome: Outcome, **more: Any) -> Line:
        about = {"action": action, "outcome": outcome, **more}
        return Line(at=self._now(), id=secrets.token_hex(4), **by._asdict(), **about)

    def _now(self) -> str:
        at = datetime.fromtimestamp(self._wall_clock(), UTC)
        return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def _write(self, line: Line) -> str:
        """The head afterwards. Raises StateError, and nothing is added."""
        return self._append(_SECRET.sub(b"flt_...", msgspec.json.encode(line)))

    def _error(self, text: str, error: StateError, line: Line) -> None:
        who = line.who or STRANGER
        self._gate.error(logger, who, text, error, line.action, who)

    def _append(self, line: bytes) -> str:
        """Durably, under a lock; the head afterwards. Raises StateError, and nothing is added."""
        make_folder(self.path.parent)
        with explained(self.path, "write the audit file"):
            fd = os.open(
                self.path,
                os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW,
                0o600,
            )
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                end, head = _end(fd, self.path)
                if os.fstat(fd).st_size > end:
                    os.ftruncate(fd, end)  # a torn last line
                chain = Chain(head=head)
                data = memoryview(chain.seal(line) + b"\n")
                try:
                    while data:
                        data = data[os.write(fd, data) :]
                    getattr(os, "fdatasync", os.fsync)(fd)  # macOS has the latter
                except OSError:
                    os.ftruncate(fd, end)
                    raise
                if end == 0:
                    _give_to_owner(fd, self.path.parent)
                    sync_folder(self.path.parent)
            finally:
                os.close(fd)
        return chain.head


def read_line(data: bytes) -> Line:
    """Raises StateError."""
    with decoded(StateError, "not a line of an audit file"):
        return msgspec.json.decode(data, type=Line)


def local_actor() -> Actor:
    """The account of this process."""
    return Actor(account(os.getuid()), "local", f"process {os.getpid()}")


def account(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"


def reason_of(error: BaseException) -> str:
    return str(error) if isinstance(error, FlctlError) else repr(error)


def _end(fd: int, path: Path) -> tuple[int, str]:
    """End of the last whole line, and its chain. Raises StateError."""
    size = os.fstat(fd).st_size
    if size == 0:
        return 0, ""
    start = max(0, size - _TAIL)
    lines = split_lines(os.pread(fd, size - start, start))
    if start:
        start += len(lines.pop(0))  # the rest of a line
    try:
        whole = list(whole_lines(lines))
    except ValueError as error:
        raise StateError(f"{path}: damaged; see: flctl audit --verify") from error
    if start and not whole:
        raise StateError(f"{path}: damaged; see: flctl audit --verify")
    end = start + sum(map(len, whole))
    head = split(whole[-1].removesuffix(b"\n"))[1] if whole else ""
    if head is None:  # not written by flctl: what the chain is so far has to be computed
        with path.open("rb") as file:
            head = verify(file).head
    return end, head


def _give_to_owner(fd: int, folder: Path) -> None:
    """root may have written the first line: the coordinator's own account writes the next one."""
    if os.geteuid() == 0:
        owner = folder.stat()
        os.fchown(fd, owner.st_uid, owner.st_gid)


def _bounded(args: Mapping[str, Any]) -> dict[str, Any]:
    """Shorten a text to fit on a line, as it may come from anyone."""
    kept = {_short(key): _short(value) for key, value in args.items() if value is not None}
    if len(msgspec.json.encode(kept)) <= ARGS_BYTES:
        return kept
    return {"left out": f"{len(kept)} arguments, too long for a line"}


def _short(value: Any, depth: int = 0) -> Any:
    match value:
        case str():
            text = value[:TEXT].encode(errors="replace").decode()
            return text if len(value) <= TEXT else f"{text} ..."
        case bool() | int() | float() | None:
            return value
        case Mapping() if depth < DEPTH:
            return {_short(str(key)): _short(item, depth + 1) for key, item in value.items()}
        case list() | tuple() if depth < DEPTH:
            return [_short(item, depth + 1) for item in value]
        case _:
            return f"a {type(value).__name__}"
