"""A file that a coordinator sends in pages, line by line: it may be longer than any answer."""

from collections.abc import Callable, Iterator
from pathlib import Path

from flctl.core import chain
from flctl.errors import StateError
from flctl.files import page as page_of

Page = Callable[[int], bytes]
"""The bytes of a file from an offset on, as many as fit into one answer; none at its end."""

LINE_BYTES = 64 * 2**20
"""No line of a file is so long."""


def local(path: Path) -> Page:
    return lambda offset: page_of(path, offset)


def lines(page: Page, where: str) -> Iterator[bytes]:
    """Whole lines. Raises StateError with the number of a damaged one."""
    try:
        yield from chain.whole_lines(_split(page, where))
    except ValueError as error:
        raise StateError(f"{where}, {error}") from error


def verify(page: Page, where: str, *kept: str) -> chain.Chain:
    return chain.verify(lines(page, where), *kept)


def _split(page: Page, where: str) -> Iterator[bytes]:
    rest, offset = b"", 0
    while data := page(offset):
        offset += len(data)
        *whole, rest = (rest + data).split(b"\n")
        yield from (line + b"\n" for line in whole)
        if len(rest) > LINE_BYTES:
            raise StateError(f"{where}: a line of more than {LINE_BYTES >> 20} MB: damaged")
    if rest:
        yield rest
