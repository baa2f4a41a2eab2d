"""The file that alerts survive a restart in: `alerts.json` of the state folder."""

import logging
from pathlib import Path

import msgspec

from flctl.core.alerts import SCHEMA, AlertBook
from flctl.errors import NOT_DECODED, one_line
from flctl.files import read_small, replace

logger = logging.getLogger(__name__)

FILE = "alerts.json"
MOST_BYTES = 8 * 2**20


def load_book(state: Path) -> AlertBook:
    """An empty book when there is no file; an unreadable one is set aside, for alerts must not
    keep a coordinator from starting."""
    path = state / FILE
    try:
        data = read_small(path, MOST_BYTES).replace(b'"event":"mended"', b'"event":"resolved"')
        book = msgspec.json.decode(data, type=AlertBook)  # older versions wrote "mended"
    except FileNotFoundError:
        return AlertBook()
    except (OSError, *NOT_DECODED) as error:
        why = one_line(error)
    else:
        if book.schema == SCHEMA:
            return book
        why = f"schema {book.schema}, this version reads {SCHEMA}"
    aside = path.with_suffix(".damaged")
    try:
        path.replace(aside)
    except OSError as error:
        logger.warning("%s: %s; alerts start over: %s", path, why, one_line(error))
    else:
        logger.warning("%s: %s; it is now %s, and alerts start over", path, why, aside.name)
    return AlertBook()


def save_book(state: Path, book: AlertBook) -> None:
    """Whole or not at all. Raises StateError."""
    replace(state / FILE, msgspec.json.encode(book) + b"\n")
