"""A fleet is told the server's new key, and the old one ends."""

import pytest
from memory_fleet import MemoryFleet

from flctl.coordinator.front.rotating import LEAVE_S, Rotating
from flctl.errors import UsageError
from flctl.transport.keypair import KeyPair

DAY = 86_400.0


class Port:
    """What the coordinator answers with, by public keys."""

    def __init__(self, public: str) -> None:
        self.public = [public]

    def listen_also(self, keys: KeyPair) -> None:
        self.public.append(keys.public)

    def listen_only(self, keys: KeyPair) -> None:
        self.public = [keys.public]


class Bed:
    """A fleet of three whose coordinator can replace its key, with a wall clock of its own."""

    def __init__(self, fleet: MemoryFleet) -> None:
        self.fleet, self.wall, self.written = fleet, 1_700_000_000.0, 0
        self.port = Port(fleet.keyring.server.public)
        self.old = fleet.keyring.server.public
        self.start()

    def start(self) -> None:
        keyring, coordinator = self.fleet.keyring, self.fleet.coordinator
        keyring.server_keys.clock = lambda: self.wall
        self.rotating = coordinator.agents.rotating = Rotating(
            keyring.server_keys, self.port, coordinator.peers, coordinator.roster,
            coordinator.agents.enrolled, self.wrote, lambda: self.wall,
        )  # fmt: skip

    def wrote(self) -> None:
        self.written += 1

    @property
    def new(self) -> str:
        return self.fleet.keyring.server_keys.public[0]

    def stored(self, name: str) -> tuple[str, ...]:
        return self.fleet.agents[name].state.server_keys("k" * 40)


@pytest.fixture
def bed(fleet: MemoryFleet) -> Bed:
    fleet.until(lambda: len(fleet.coordinator.roster.connected()) == 3)
    return Bed(fleet)


def test_all_that_are_here_get_the_new_key_and_then_the_old_one_ends(bed: Bed):
    """Both are good meanwhile; the folder of an invitation gets the new one."""
    bed.rotating.begin(7 * DAY)
    assert bed.port.public == [bed.old, bed.new]
    bed.fleet.until(lambda: bed.rotating.missing() == [])
    assert bed.stored("pi-01") == (bed.new, bed.old)
    assert bed.rotating.shown()["have"] == 3
    bed.rotating.finish(bed.fleet.clock())
    assert bed.written == 1
    bed.fleet.until(lambda: bed.stored("pi-03") == bed.stored("pi-01") == (bed.new,))
    bed.fleet.until(lambda: bed.port.public == [bed.new])
    assert bed.fleet.keyring.server.public == bed.new != bed.old


def test_one_that_is_away_is_waited_for_or_left_behind(bed: Bed):
    """finish names it; when it returns during the overlap it is told."""
    bed.fleet.agents["pi-02"].kill()
    bed.fleet.until(lambda: len(bed.fleet.coordinator.roster.connected()) == 2)
    bed.rotating.begin(7 * DAY)
    bed.fleet.until(lambda: bed.rotating.missing() == ["pi-02"])
    with pytest.raises(UsageError, match=r"pi-02 would be locked out.*--anyway.*flctl deploy"):
        bed.rotating.finish(bed.fleet.clock())
    bed.fleet.agents["pi-02"].start()
    bed.fleet.until(lambda: bed.rotating.missing() == [])
    bed.rotating.finish(bed.fleet.clock())


def test_the_overlap_ends_by_itself(bed: Bed, caplog):
    """With a line for each agent that may be left behind."""
    bed.fleet.agents["pi-02"].kill()
    bed.fleet.until(lambda: len(bed.fleet.coordinator.roster.connected()) == 2)
    bed.rotating.begin(DAY)
    new = bed.new
    bed.fleet.until(lambda: bed.rotating.missing() == ["pi-02"])
    bed.wall += DAY - 1
    bed.rotating.on_time(bed.fleet.clock())
    assert bed.fleet.keyring.server.public == bed.old
    bed.wall += 1
    bed.rotating.on_time(bed.fleet.clock())
    assert bed.fleet.keyring.server.public == new
    assert "agent=pi-02 is not known to have the new server key" in caplog.text
    bed.rotating.on_time(bed.fleet.clock() + LEAVE_S)
    assert bed.port.public == [new]


def test_a_second_rotation_is_refused_and_changes_nothing(bed: Bed):
    """Both keys stay good, and the first one ends as it would have."""
    bed.rotating.begin(DAY)
    new = bed.new
    with pytest.raises(UsageError, match="is already being replaced"):
        bed.rotating.begin(DAY)
    assert bed.port.public == [bed.old, new]
    bed.fleet.until(lambda: bed.rotating.missing() == [])
    bed.rotating.finish(bed.fleet.clock())
    bed.fleet.until(lambda: bed.port.public == [new])


def test_an_abort_takes_the_new_key_back(bed: Bed):
    """Also from an agent that was away meanwhile, when it returns."""
    bed.rotating.begin(DAY)
    bed.fleet.until(lambda: bed.rotating.missing() == [])
    bed.fleet.agents["pi-02"].kill()
    bed.fleet.until(lambda: len(bed.fleet.coordinator.roster.connected()) == 2)
    bed.rotating.abort(bed.fleet.clock())
    assert bed.rotating.shown() is None
    bed.fleet.agents["pi-02"].start()
    bed.fleet.until(lambda: bed.stored("pi-02") == bed.stored("pi-01") == (bed.old,))
    bed.fleet.until(lambda: bed.port.public == [bed.old])


def test_a_coordinator_that_was_killed_goes_on_with_both_keys(bed: Bed):
    bed.rotating.begin(DAY)
    new = bed.new
    bed.port.public = [bed.old]
    bed.start()
    assert bed.port.public == [bed.old, new]
