"""Runs that viewers look at: one comes from the feed, others are fetched once."""

import threading
from collections import OrderedDict
from typing import Any, NamedTuple

from flctl.errors import UsageError
from flctl.web.asking import Inquiries, NotThere
from flctl.web.feed import Feed
from flctl.web.picture import RunPicture

MOST = 32
"""Runs that are kept, those that were looked at last."""


class Shown(NamedTuple):
    about: dict[str, Any]
    """As `answers.RunDetails`, with all settings."""
    picture: RunPicture
    changes: int


class RunShelf:
    def __init__(self, feed: Feed, inquiries: Inquiries) -> None:
        self._feed, self._inquiries = feed, inquiries
        self._kept: OrderedDict[str, Shown] = OrderedDict()
        self._lock = threading.Lock()

    def run(self, name: str) -> Shown:
        """Raises FlctlError. While the run is followed, its picture is to be read with the feed's
        lock."""
        changes, live = self._feed.changes, self._feed.run
        kept = self._kept.get(name)
        if kept is not None and kept.changes == changes and self._is_of(kept, live):
            return kept
        try:
            about = self._inquiries.ask(lambda runs: runs.about(name))
        except UsageError as error:  # it names a folder of the coordinator's machine
            raise NotThere(f"there is no run {name}") from error
        found = str(about["run"])
        if live is not None and live.name == found:
            shown = Shown(about, live, changes)
        elif kept is not None and kept.about.get("updated") == about.get("updated"):
            shown = Shown(about, kept.picture, changes)
        else:
            events = self._inquiries.once(lambda runs: list(runs.events(found)))
            shown = Shown(about, RunPicture.of(found, events), changes)
        with self._lock:
            self._kept[found] = shown
            self._kept.move_to_end(found)
            while len(self._kept) > MOST:
                self._kept.popitem(last=False)
        return shown

    @staticmethod
    def _is_of(kept: Shown, live: RunPicture | None) -> bool:
        """Whether it is still the picture that the feed draws, where it draws that run."""
        return live is None or live.name != kept.picture.name or live is kept.picture
