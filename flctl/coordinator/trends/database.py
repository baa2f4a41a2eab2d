"""Points in SQLite: one a minute for a day, then one for 15 minutes for a month.

What is kept is decided by how many ticks there are, never by the clock: one that jumps to 2036
and back throws nothing away. A tick is a number that only grows; its wall time is an attribute,
which is corrected when the clock is set.

The file is disposable: one that is damaged, or of another version, is set aside. Its methods are
for one thread; `read` opens a connection of its own.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from flctl.coordinator.trends.points import COLUMNS, COUNTERS, Minute
from flctl.wire.questions import Figure

FILE = "history.sqlite"
SCHEMA = 1
MINUTES, QUARTER = 1440, 15
"""A day of minutes; minutes of a longer point."""
QUARTERS = 31 * 24 * 4
MOST_BYTES = 120 * 2**20
"""Of the database; its log of up to some megabytes comes on top."""
PAGE_BYTES = 4096
FULL_SHARE = 0.95
BUSY_S = 1.0
BROKEN = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}
"""What another try does not repair: damage, and tables of other programs."""

_FIGURES = ", ".join(f"{name} INTEGER" for name in COLUMNS)
_TABLES = "".join(
    f"CREATE TABLE tick{size} (seq INTEGER PRIMARY KEY, at INTEGER NOT NULL, round INTEGER);"
    f"CREATE TABLE point{size} (seq INTEGER, agent INTEGER, {_FIGURES}, "
    "PRIMARY KEY (seq, agent)) WITHOUT ROWID;"
    for size in (1, QUARTER)
)
_MERGED = ", ".join(
    f"sum({name})" if name in COUNTERS else f"CAST(round(avg({name})) AS INTEGER)"
    for name in COLUMNS
)
_NAMES = "CREATE TABLE agent (id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, last INTEGER);"


class PointsBroken(Exception):
    """The file is damaged, or not of this version."""


class Points:
    """The database at `path`; opened, and made, with the first minute."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open: sqlite3.Connection | None = None
        self._inode = 0
        self._first = 0
        """The first tick of this life."""
        self._first_quarter = 0

    def add(self, minute: Minute) -> None:
        """In one transaction. Raises sqlite3.Error, OSError, and PointsBroken: then `set_aside`."""
        try:
            self._add(self._connected(), minute)
        except sqlite3.Error as error:
            self.close()
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in BROKEN:
                raise PointsBroken(str(error)) from error
            raise

    def set_aside(self) -> Path:
        """Rename what cannot be used, over what was set aside before. Raises OSError."""
        self.close()
        aside = self._path.with_suffix(".damaged")
        self._path.replace(aside)
        for suffix in ("-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        return aside

    def close(self) -> None:
        if self._open is not None:
            with suppress(sqlite3.Error):
                self._open.close()
            self._open = None

    # Steps --------------------------------------------------------------------------------

    def _connected(self) -> sqlite3.Connection:
        if self._open is not None and _inode(self._path) != self._inode:
            self.close()  # removed, or replaced by another one
        if self._open is None:
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            connection = sqlite3.connect(
                self._path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
            self._open = connection
            self._prepare(connection)
            self._inode = _inode(self._path)
            self._first = self._next(connection, 1)
            self._first_quarter = self._next(connection, QUARTER)
        return self._open

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        # Without a sync a minute: a power cut loses the last ones, and damages nothing.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA max_page_count = {MOST_BYTES // PAGE_BYTES}")
        (schema,) = connection.execute("PRAGMA user_version").fetchone()
        if schema == 0 and not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
            connection.executescript(
                f"BEGIN; {_TABLES} {_NAMES} PRAGMA user_version = {SCHEMA}; COMMIT;"
            )
        elif schema != SCHEMA:
            raise PointsBroken(f"schema {schema}, this version reads {SCHEMA}")
        elif (fault := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise PointsBroken(str(fault))

    def _add(self, connection: sqlite3.Connection, minute: Minute) -> None:
        connection.execute("BEGIN IMMEDIATE")
        try:
            if minute.shift_s:
                for size, first in ((1, self._first), (QUARTER, self._first_quarter)):
                    connection.execute(
                        f"UPDATE tick{size} SET at = at + ? WHERE seq >= ?",
                        (round(minute.shift_s), first),
                    )
            seq = self._next(connection, 1)
            connection.execute(
                "INSERT INTO tick1 VALUES (?, ?, ?)", (seq, round(minute.at), minute.round)
            )
            ids = self._ids(connection, [name for name, _ in minute.rows])
            marks = ", ".join("?" * (2 + len(COLUMNS)))
            connection.executemany(
                f"INSERT INTO point1 VALUES ({marks})",
                ((seq, ids[name], *figures) for name, figures in minute.rows),
            )
            if seq % QUARTER == 0:
                self._merge(connection, seq)
            self._forget(connection)
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise

    def _ids(self, connection: sqlite3.Connection, names: Sequence[str]) -> dict[str, int]:
        known: dict[str, int] = dict(connection.execute("SELECT name, id FROM agent").fetchall())
        for name in names:
            if name not in known:
                made = connection.execute("INSERT INTO agent (name) VALUES (?)", (name,))
                known[name] = made.lastrowid or 0
        return known

    def _merge(self, connection: sqlite3.Connection, upto: int) -> None:
        """The last quarter of an hour, as one point of each agent."""
        seq, span = self._next(connection, QUARTER), (upto - QUARTER, upto)
        connection.execute(
            f"INSERT INTO tick{QUARTER} SELECT ?, max(at), max(round) FROM tick1 "
            "WHERE seq > ? AND seq <= ?",
            (seq, *span),
        )
        connection.execute(
            f"INSERT INTO point{QUARTER} SELECT ?, agent, {_MERGED} FROM point1 "
            "WHERE seq > ? AND seq <= ? GROUP BY agent",
            (seq, *span),
        )
        connection.execute(
            f"UPDATE agent SET last = ? WHERE id IN (SELECT agent FROM point{QUARTER} "
            "WHERE seq = ?) OR last IS NULL",
            (seq, seq),
        )
        connection.execute(f"DELETE FROM agent WHERE last < (SELECT min(seq) FROM tick{QUARTER})")

    def _forget(self, connection: sqlite3.Connection) -> None:
        """What is too old; of a fleet that is too large for the file, earlier."""
        for size, most in ((1, MINUTES), (QUARTER, QUARTERS)):
            (least,) = connection.execute(
                f"SELECT max(seq) - ? FROM tick{size}", (most,)
            ).fetchone()
            _drop(connection, size, least)
        free, used = (
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("freelist_count", "page_count")
        )
        if (used - free) * PAGE_BYTES > FULL_SHARE * MOST_BYTES:
            for size in (1, QUARTER):
                (least,) = connection.execute(
                    f"SELECT min(seq) + (max(seq) - min(seq)) / 20 FROM tick{size}"
                ).fetchone()
                _drop(connection, size, least)

    def _next(self, connection: sqlite3.Connection, size: int) -> int:
        (found,) = connection.execute(
            f"SELECT coalesce(max(seq), 0) + 1 FROM tick{size}"
        ).fetchone()
        return int(found)


def _drop(connection: sqlite3.Connection, size: int, upto: int | None) -> None:
    for table in ("tick", "point"):
        connection.execute(f"DELETE FROM {table}{size} WHERE seq <= ?", (upto or 0,))


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0


def read(
    path: Path, agent: str, figure: Figure, since: float, upto: float, minutes: bool
) -> list[tuple[float, float | None]]:
    """Points of a figure with their wall times, in order; with `minutes` those of each minute, else
    longer ones, and minutes only after the last of those. "round" is of the coordinator: agent "".

    Raises sqlite3.Error.
    """
    if not path.exists():
        return []
    uri = f"file:{_quoted(path)}?mode=ro"
    with closing(sqlite3.connect(uri, timeout=BUSY_S, uri=True)) as connection:
        found: list[tuple[float, float | None]] = []
        if not minutes:
            found = list(_select(connection, QUARTER, agent, figure, since, upto))
            since = max(since, found[-1][0] + 1 if found else since)
        found += _select(connection, 1, agent, figure, since, upto)
    return sorted(found, key=lambda point: point[0])


def _select(
    connection: sqlite3.Connection, size: int, agent: str, figure: Figure, since: float, upto: float
) -> Iterator[tuple[float, float | None]]:
    within: Iterable[Any]
    if figure == "round":
        within, unit = (
            connection.execute(
                f"SELECT at, round FROM tick{size} WHERE at >= ? AND at <= ? ORDER BY at",
                (since, upto),
            ),
            1.0,
        )
    else:
        unit = COLUMNS[figure]
        within = connection.execute(
            f"SELECT at, {figure} FROM tick{size} CROSS JOIN point{size} USING (seq) "
            "WHERE agent = (SELECT id FROM agent WHERE name = ?) AND at >= ? AND at <= ? "
            "ORDER BY at",
            (agent, since, upto),
        )
    for at, value in within:
        yield float(at), None if value is None else value * unit


def _quoted(path: Path) -> str:
    from urllib.parse import quote

    return quote(str(path.absolute()))
