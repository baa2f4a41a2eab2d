"""Lines that seal the lines before them: a changed, missing or added line is found.

Each line is a JSON object whose last field is `chain`: the sha256 of the chain up to the line
before, followed by the line without this field. The chain of the last line is the head.

Anyone who can write the file can compute the whole chain again. A head that was kept in another
place finds that, and it finds lines that were cut off at the end.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator

import msgspec
from msgspec import Struct

from flctl.errors import NOT_DECODED, one_line

_FIELD, _END = b',"chain":"', b'"}'
_DIGITS = 64
_SUFFIX = len(_FIELD) + _DIGITS + len(_END)
_HEAD = re.compile(rb"[0-9a-f]{64}")


class Chain(Struct):
    """The chain of one file, to write it or to check it line after line; and what that has found.

    One that begins with the `head` of a known line continues after that line, and counts from
    there.
    """

    lines: int = 0
    head: str = ""
    """Chain of the last line; empty when there is no line."""
    unchained: int = 0
    """Lines at the beginning that have no chain: an older flctl wrote them."""
    broken_at: int | None = None
    """The first line that does not follow from the lines before it, counted from 1."""
    breaks: int = 0
    kept_at: int | None = None
    """The line whose chain is the (first) head that was kept elsewhere."""
    missing: tuple[str, ...] = ()
    """Heads that were kept elsewhere and are in no line."""

    def seal(self, line: bytes) -> bytes:
        """`line`, a JSON object without line end, with its chain."""
        self.head = _link(self.head, line)
        self.lines += 1
        return line[:-1] + _FIELD + self.head.encode() + _END

    def follow(self, line: bytes) -> None:
        """A line that was read, with or without line end.

        After a break the chain continues from the line's own value: one changed line is one
        break.
        """
        line = line.removesuffix(b"\n")
        self.lines += 1
        bare, carried = split(line)
        computed = _link(self.head, bare)
        if carried is None and self.unchained == self.lines - 1:
            self.unchained += 1
        elif carried != computed:
            self.breaks += 1
            self.broken_at = self.broken_at or self.lines
        self.head = carried or computed

    @property
    def chained(self) -> bool:
        return self.unchained < self.lines

    @property
    def fault(self) -> str | None:
        """Description of the damage; None for a whole chain, and for a file without a chain."""
        if self.broken_at is None:
            return None
        more = f" (and {self.breaks - 1} more)" if self.breaks > 1 else ""
        return (
            f"the chain breaks at line {self.broken_at}{more}: that line or a neighbour was "
            "changed, removed or added, or an older flctl wrote it"
        )


def verify(lines: Iterable[bytes], *kept: str) -> Chain:
    """The chain of a file's whole lines; `kept` are heads that were kept elsewhere."""
    chain, found = Chain(), dict[str, int]()
    for line in lines:
        chain.follow(line)
        if chain.head in kept:
            found[chain.head] = chain.lines
    chain.kept_at = found.get(kept[0]) if kept else None
    chain.missing = tuple(head for head in kept if head not in found)
    return chain


def split(line: bytes) -> tuple[bytes, str | None]:
    """A line without its chain, and the chain; None when it has none."""
    field, rest = line[-_SUFFIX:][: len(_FIELD)], line[-_SUFFIX:][len(_FIELD) :]
    digits = rest[:_DIGITS]
    if field != _FIELD or rest[_DIGITS:] != _END or not _HEAD.fullmatch(digits):
        return line, None
    return line[:-_SUFFIX] + b"}", digits.decode()


def split_lines(data: bytes) -> list[bytes]:
    """Each with its line end; the last one may have none. Unlike `splitlines`, at b"\\n" only."""
    *whole, rest = data.split(b"\n")
    return [*(line + b"\n" for line in whole), *([rest] if rest else [])]


def whole_lines(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Without a last line that a power cut has torn or left as zeros.

    Raises ValueError with the number of any other line that is not JSON.
    """
    torn: tuple[int, str] | None = None
    for number, line in enumerate(lines, start=1):
        if torn is not None:
            raise ValueError(f"line {torn[0]}: {torn[1]}")
        if not line.endswith(b"\n"):
            return
        try:
            msgspec.json.decode(line)
        except NOT_DECODED as error:
            torn = number, one_line(error)
            continue
        yield line


def is_head(text: str) -> bool:
    """Whether `text` can be a head at all."""
    return _HEAD.fullmatch(text.encode(errors="replace")) is not None


def _link(head: str, line: bytes) -> str:
    return hashlib.sha256(head.encode() + line).hexdigest()
