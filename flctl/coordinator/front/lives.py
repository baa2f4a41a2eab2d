"""Whether another coordinator has this server's key: its agents tell.

Each start of a coordinator on a state folder is a life, with a name of its own that is kept in the
folder. An agent is told the name, and says at its next connection which one it was told last. A
name that is not in the folder is that of a coordinator on a copy of it, or of a later life than the
backup that the folder was restored from. An agent may lie: it is a notice, and nothing follows.
"""

import logging
import platform
import secrets
import time
from pathlib import Path

import msgspec

from flctl.core.roster import Roster
from flctl.errors import NOT_DECODED, one_line
from flctl.files import explained, read_small, replace
from flctl.transport.gate import Gate
from flctl.wire.messages import Hello, Life

logger = logging.getLogger(__name__)

FILE = "lives.json"
KEPT = 2000
"""Newest lives; an agent that was away for longer is believed to have met another coordinator."""


class Lives:
    """Lives of the coordinator on `state`; making this begins a new one. Raises StateError."""

    def __init__(self, state: Path, roster: Roster, gate: Gate, at: float | None = None) -> None:
        self._roster, self._gate = roster, gate
        path = state / FILE
        known: list[str] = []
        if path.exists():
            with explained(path, "read which lives there were"):
                data = read_small(path)
            try:
                known = msgspec.json.decode(data, type=list[Life])
            except NOT_DECODED as error:
                logger.warning("%s: damaged, and begun again: %s", path, one_line(error))
        begun = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))
        self.own = f"{platform.node()[:100] or '?'}, started {begun} ({secrets.token_hex(4)})"
        kept = [*known, self.own][-KEPT:]
        replace(path, msgspec.json.encode(kept) + b"\n")
        self._known = frozenset(kept)

    def on_hello(self, name: str, hello: Hello) -> None:
        """To be called when the agent is in the roster."""
        member = self._roster.member(name)
        if not hello.life or hello.life in self._known:
            # The Hello that follows a Welcome names this life: that the agent was elsewhere
            # before stays to be seen until it is another process.
            if member.elsewhere is not None and member.elsewhere[0] != hello.session:
                member.elsewhere = None
            return
        text = (
            f"was last with another coordinator of this server's key: {one_line(hello.life, 200)}; "
            "stop one of them, unless this state folder was restored since"
        )
        member.elsewhere = hello.session, text
        self._gate.warning(logger, name, "agent=%s %s", name, text)
