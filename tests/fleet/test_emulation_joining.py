"""Who an emulated fleet lets in, and shuts out again when it could not be raised."""

import logging
from typing import Any

import pytest

from flctl.errors import FlctlError
from flctl.fleet.emulation.joining import Door


class Coordinator:
    """Its console: what it refuses arrives as a plain error, as over the wire."""

    def __init__(self, *enrolled: str, stuck: str = "") -> None:
        self.enrolled, self._stuck = list(enrolled), stuck
        self.closed = False

    def keys(self) -> dict[str, Any]:
        return {"keys": [{"name": name} for name in self.enrolled]}

    def token(self, ttl_s: float, uses: int) -> str:
        return f"token for {uses} within {ttl_s}"

    def revoke(self, name: str) -> None:
        if name not in self.enrolled:
            raise FlctlError(f"no key is enrolled as {name}")
        if name == self._stuck:
            raise FlctlError("the disk is full")
        self.enrolled.remove(name)

    def close(self) -> None:
        self.closed = True


def door_to(coordinator: Coordinator) -> Door:
    door = Door(None, "test", 7700, None)  # type: ignore[arg-type]  # no engine is asked
    door._console = coordinator  # type: ignore[assignment]
    return door


def test_a_fleet_that_failed_leaves_nobody_enrolled():
    """Also those who joined after one that never did."""
    coordinator = Coordinator("operator")
    door = door_to(coordinator)
    door.let_in(["pi-01", "pi-02", "pi-03"], set())
    coordinator.enrolled += ["pi-02", "pi-03"]
    door.close(failed=True)
    assert (coordinator.enrolled, coordinator.closed) == (["operator"], True)


def test_who_could_not_be_shut_out_is_named(caplog: pytest.LogCaptureFixture):
    """The others are; the connection is closed all the same."""
    coordinator = Coordinator("operator", stuck="pi-01")
    door = door_to(coordinator)
    door.let_in(["pi-01", "pi-02"], set())
    coordinator.enrolled += ["pi-01", "pi-02"]
    with caplog.at_level(logging.WARNING):
        door.close(failed=True)
    assert (coordinator.enrolled, coordinator.closed) == (["operator", "pi-01"], True)
    assert "pi-01: the disk is full" in caplog.text
