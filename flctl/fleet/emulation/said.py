"""Logs of a fleet's members."""

import queue
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from flctl.fleet.emulation.members import EmulatedAgent, at_once

if TYPE_CHECKING:
    from docker import DockerClient

Line = tuple[str, str]
"""Member, and line."""


def said(client: "DockerClient", members: Sequence[EmulatedAgent], tail: int) -> Iterator[Line]:
    """The last lines of each, in the order of time."""

    def of(member: EmulatedAgent) -> list[tuple[str, str, str]]:
        container = client.containers.get(member.container)
        text = container.logs(tail=tail, timestamps=True).decode(errors="replace")
        stamped = (line.partition(" ") for line in text.splitlines())
        return [(at, member.name, line) for at, _, line in stamped]

    lines = [line for each in at_once(of, members) for line in each]
    yield from ((name, line) for _, name, line in sorted(lines, key=lambda line: line[0]))


def followed(client: "DockerClient", members: Sequence[EmulatedAgent], tail: int) -> Iterator[Line]:
    """The last lines of each, then what comes, until all of them are off."""
    lines: queue.SimpleQueue[Line | BaseException | None] = queue.SimpleQueue()

    def follow(member: EmulatedAgent) -> None:
        try:
            container = client.containers.get(member.container)
            rest = b""
            for chunk in container.logs(stream=True, follow=True, tail=tail):
                *whole, rest = (rest + chunk).split(b"\n")
                for line in whole:
                    lines.put((member.name, line.decode(errors="replace").rstrip("\r")))
            lines.put(None)
        except Exception as error:
            lines.put(error)

    for member in members:
        threading.Thread(target=follow, args=(member,), daemon=True).start()
    ended = 0
    while ended < len(members):
        line = lines.get()
        if isinstance(line, BaseException):
            raise line
        if line is None:
            ended += 1
        else:
            yield line
