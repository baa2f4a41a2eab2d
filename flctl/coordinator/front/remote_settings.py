"""What a remote operator's settings may refer to.

The operator's key may start runs. It may neither make the coordinator import code that is not an
installed task, nor learn which files exist here: data go by the names of the owner's folders.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from flctl.errors import UsageError, one_line
from flctl.files import explained
from flctl.learning.registry import known_tasks
from flctl.settings import normalised

SHOWN = 10
"""Names of data that a message lists."""
RUN = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
LONGEST = 200
"""Characters of such a name."""


def settings_from_afar(given: dict[str, Any], where: str, listed: Sequence[Path]) -> dict[str, Any]:
    """`given` with the paths of its data, which it has by their names in the files and folders
    `listed` by the owner (absolute ones), or under their own paths there.

    Raises UsageError for a task that is not installed, or data that are not there.
    """
    plain = normalised(given, where)
    task = plain.get("task")
    if isinstance(task, str) and task not in (tasks := known_tasks()):
        raise UsageError(
            f"{where}: over the network a run takes an installed task: task '{one_line(task, 80)}' "
            f"is not; the coordinator has {', '.join(tasks) or 'none'}"
        )
    for key in ("data", "test_data", "from_"):
        if key == "from_" and isinstance(plain.get(key), str) and RUN.fullmatch(plain[key]):
            continue  # a run of this coordinator's
        if plain.get(key) is not None:
            plain[key] = str(_found(plain[key], key, where, listed))
    return plain


def _found(name: Any, key: str, where: str, listed: Sequence[Path]) -> Path:
    if not listed:
        raise UsageError(
            f"{where}: {key}: operators on other machines can name only data that the "
            "coordinator's owner lists, and none are listed: flctl coordinator --test-data PATH"
        )
    if isinstance(name, str) and _is_plain(name):
        for path in (path for each in listed if (path := _within(each, name)) is not None):
            with explained(path, "look for data"):
                if path.exists():
                    return path
    raise UsageError(
        f"{where}: {key}: '{one_line(name, 80)}' is not among the data that the coordinator's "
        f"owner lists (--test-data): {', '.join(_names(listed)) or 'the folders are empty'}"
    )


def _is_plain(name: str) -> bool:
    """It leads to nothing other than what it says, and costs no error."""
    parts = PurePosixPath(name).parts
    return 0 < len(name) <= LONGEST and name.isprintable() and parts != () and ".." not in parts


def _within(listed: Path, name: str) -> Path | None:
    """The path, if it is `listed` or within; nothing is revealed about any other."""
    path = Path(name)
    if path.is_absolute():
        return path if path.is_relative_to(listed) else None
    if listed.is_dir():
        return listed / path
    return listed if name == listed.name else None


def _names(listed: Sequence[Path]) -> Iterator[str]:
    for each in listed:
        names = [each.name]
        if each.is_dir():
            with explained(each, "list the data"):
                names = sorted(p.name for p in each.iterdir() if not p.name.startswith("."))
        yield from map(one_line, names[:SHOWN])
