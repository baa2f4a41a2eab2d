"""A lost agent is found at once; strangers who come and go do not make the fleet pay."""

from flctl.coordinator.front.probing import AGAIN, AT_ONCE, SPARE_S, Probing


class Count:
    def __init__(self) -> None:
        self.pings = 0
        self.probing = Probing(self.ping)

    def ping(self) -> None:
        self.pings += 1

    def pass_time(self, start_s: float, seconds: float, lost: bool) -> None:
        """In steps of a quarter of a second."""
        for quarter in range(int(seconds * 4)):
            now = start_s + quarter / 4
            if lost:
                self.probing.on_lost(now)
            self.probing.on_time(now)


def test_a_loss_is_looked_into_at_once():
    """And again on the ticks that follow, then no more."""
    count = Count()
    count.probing.on_lost(1000.0)
    assert count.pings == 1
    count.pass_time(1000.0, 60.0, lost=False)
    assert count.pings == 1 + AGAIN


def test_several_agents_lost_one_after_another_are_each_found_at_once():
    """A switch goes: they are told of within the same seconds."""
    count = Count()
    for number in range(AT_ONCE):
        before = count.pings
        count.probing.on_lost(1000.0 + number / 10)
        assert count.pings == before + 1


def test_an_hour_of_strangers_costs_less_than_a_ping_a_second():
    """Each comes and hangs up, four in a second."""
    count = Count()
    count.pass_time(1000.0, 3600.0, lost=True)
    assert count.pings <= 3600


def test_a_loss_among_strangers_is_found_within_seconds():
    """It waits for its turn, and is not forgotten."""
    count = Count()
    count.pass_time(1000.0, 60.0, lost=True)
    count.probing.on_lost(1060.0)
    before = count.pings
    count.pass_time(1060.0, SPARE_S + 1, lost=False)
    assert count.pings > before
