"""The newest lines of this agent's log, for operators who ask for them over the connection.

They are in memory: a Pi's SD card wears out by small writes, and systemd or Docker keep the whole
log already. At an orderly end the last ones are written to the state folder, one small file, so
that the log continues after an upgrade or a reboot; a power cut loses it.
"""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import get_args

from flctl.errors import one_line
from flctl.wire.messages import LATEST, LOG_TEXT, LogLevel, LogLine, LogLines, SendLog

KEPT_LINES, KEPT_BYTES = 2000, 256 * 1024
LAST_LINES, LAST_BYTES = 200, 32 * 1024
"""What is kept over a restart."""
ANSWER_BYTES = 48 * 1024
"""Of one message; a longer log takes several."""
BYTES_PER_S, BURST_BYTES = 32 * 1024, 512 * 1024
"""What all that ask may have together: the log must not disturb a round on a slow link."""
LINE_BYTES = 48
"""What a line takes besides its text, at most."""
LEVELS: dict[str, LogLevel] = {level: level for level in get_args(LogLevel)}


class AgentLog(logging.Handler):
    """`before` are the last lines of the process before this one."""

    def __init__(
        self, before: Sequence[LogLine] = (), wall_clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__()
        self._life, self._wall_clock = os.urandom(16).hex(), wall_clock
        self._guard = threading.Lock()
        self._lines: deque[LogLine] = deque()
        self._bytes = self._count = 0
        """`_count` is the number of the newest line, counted from 1 with those from before."""
        for line in before:
            self._keep(line)
        self._before = self._count
        self._budget, self._spent_at = float(BURST_BYTES), 0.0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
            if record.exc_info and record.exc_info[1] is not None:
                text += f": {record.exc_info[1]!r}"
            self._add(record.levelname, text)
        except Exception:
            self.handleError(record)

    def of_worker(self, level: str, text: str) -> None:
        """A line that the worker process has written."""
        self._add(level, f"worker: {text}")

    def _add(self, level: str, text: str) -> None:
        at = round(min(max(self._wall_clock(), 0.0), LATEST), 3)
        line = LogLine(at=at, level=LEVELS.get(level, "INFO"), text=one_line(text, LOG_TEXT - 2))
        self._keep(line)

    def last(self) -> list[LogLine]:
        """The lines that are kept over a restart."""
        lines, _ = self._all()
        found, left = lines[-LAST_LINES:], LAST_BYTES
        for at in range(len(found) - 1, -1, -1):
            left -= _size(found[at])
            if left < 0:
                return found[at + 1 :]
        return found

    def answer(self, asked: SendLog, now: float) -> LogLines:
        """The lines after those that the reader has, as far as the message size and the rate
        allow."""
        lines, count = self._all()
        oldest = count - len(lines) + 1
        first = self._first(asked, lines, count)
        missed = max(0, oldest - first)
        wanted = lines[max(0, first - oldest) :]
        if asked.since_s is not None:
            begin = self._wall_clock() - asked.since_s
            wanted = [line for line in wanted if line.at >= begin]
        if not asked.after:
            wanted, missed = wanted[-asked.lines :], 0
        room, given = min(ANSWER_BYTES, self._may_send(now)), 0
        while given < min(len(wanted), asked.lines) and room >= _size(wanted[given]):
            room -= _size(wanted[given])
            self._budget -= _size(wanted[given])
            given += 1
        last = count - len(wanted) + given
        at = lines[last - oldest].at if last >= oldest else 0.0
        return LogLines(
            id=asked.id,
            lines=tuple(wanted[:given]),
            cursor=f"{self._life}:{last}:{at:.3f}",
            more=given < len(wanted),
            missed=missed,
        )

    def _first(self, asked: SendLog, lines: Sequence[LogLine], count: int) -> int:
        """The number of the first line that the asker does not have."""
        oldest = count - len(lines) + 1
        if not asked.after:
            return oldest
        life, number, at = asked.after.split(":")
        if life == self._life:
            return min(int(number), count) + 1
        # The asker has lines of another process: it gets all of this one, and of those from before
        # the newer ones.
        before = lines[: max(0, self._before - oldest + 1)]
        return max(self._before, oldest - 1) + 1 - sum(line.at > float(at) for line in before)

    def _may_send(self, now: float) -> int:
        grown = max(0.0, now - self._spent_at) * BYTES_PER_S
        self._budget, self._spent_at = min(BURST_BYTES, self._budget + grown), now
        return int(self._budget)

    def _keep(self, line: LogLine) -> None:
        with self._guard:
            self._lines.append(line)
            self._count += 1
            self._bytes += _size(line)
            while len(self._lines) > KEPT_LINES or self._bytes > KEPT_BYTES:
                self._bytes -= _size(self._lines.popleft())

    def _all(self) -> tuple[list[LogLine], int]:
        with self._guard:
            return list(self._lines), self._count


def _size(line: LogLine) -> int:
    return LINE_BYTES + len(line.text.encode())
