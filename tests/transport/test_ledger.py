"""Which connections must go, by readings that are passed in."""

import pytest

from flctl.transport.ledger import (
    GRACE_S,
    GUESTS,
    MIB,
    READ_BYTES,
    SILENCE_S,
    SILENT,
    SLACK_BYTES,
    TOTAL_BYTES,
    Ledger,
    Quota,
    agent_share,
    operator_share,
    shares_of,
)
from flctl.wire.messages import CHUNK_BYTES

BEAT_BYTES = 84
"""A heartbeat of libzmq and the answer to another one."""


class Watched:
    """A ledger whose time goes on by a quarter of a second with each look."""

    def __init__(self, most: int = 4096) -> None:
        self.roles: dict[str, str | None] = {}
        self.ledger = Ledger(shares_of(self.roles.get), most)
        self.turn = 0
        self.now = 100.0

    def open(self, fd: int, key: str | None = None, role: str = "agent") -> int:
        self.ledger.opened(fd, self.turn)
        if key is not None:
            self.roles[key] = role
            self.receive(fd, 100)
            self.ledger.read(fd, key, 100, self.turn)
        return fd

    def receive(self, fd: int, size: int, unread: int = 0) -> None:
        connection = self.ledger.get(fd)
        assert connection is not None
        if self.ledger.reading(connection, connection.received + size):
            self.ledger.mark(connection, unread, self.turn)

    def look(self, later_s: float = 0.25, empty: bool = True) -> list[tuple[int, str]]:
        self.now += later_s
        self.turn += empty
        found = self.ledger.judge(self.now, self.turn)
        return [(verdict.connection.fd, verdict.reason) for verdict in found]


@pytest.fixture
def watched() -> Watched:
    return Watched()


@pytest.mark.parametrize("role", ["agent", "read", "admin", "guest"])
def test_more_than_its_share_ends_a_connection(watched: Watched, role: str):
    """One byte less does not; and it is said once."""
    share = shares_of(lambda _: role)("k")
    assert share is not None
    watched.open(7, "k", role)
    watched.receive(7, share.waiting_bytes)
    assert watched.look() == []
    watched.receive(7, 1)
    ((fd, reason),) = watched.look()
    assert fd == 7 and "not a whole message yet" in reason
    assert watched.look() == []


def test_what_is_read_does_not_count(watched: Watched):
    """However much it is in all: a long upload."""
    watched.open(7, "k")
    for _ in range(1_000):
        watched.receive(7, 8 * CHUNK_BYTES)
        assert watched.look() == []
        watched.ledger.read(7, "k", 8 * CHUNK_BYTES, watched.turn)


def test_an_agent_may_have_two_windows_on_their_way_while_the_loop_stands_still(watched: Watched):
    """Its own and one of a round that was cancelled; nothing is read for a minute."""
    watched.open(7, "k")
    watched.receive(7, 2 * 8 * (CHUNK_BYTES + 1024))
    for _ in range(240):
        assert watched.look(empty=False) == []


def test_heartbeats_of_libzmq_do_not_add_up(watched: Watched):
    """They are received and never read: a year of them closes nothing."""
    watched.open(7, "k")
    for _ in range(200_000):
        watched.receive(7, BEAT_BYTES + 200)
        watched.ledger.read(7, "k", 200, watched.turn)
        assert watched.look() == []
    connection = watched.ledger.get(7)
    assert connection is not None and connection.waiting < SLACK_BYTES + READ_BYTES + 10_000


def test_words_that_are_read_do_not_hide_an_unfinished_message(watched: Watched):
    """Frames in front of the next whole message only: a message that was read ended before."""
    watched.open(7, "k")
    share = agent_share("k")
    for _ in range(10):
        watched.receive(7, 200)
        watched.ledger.read(7, "k", 200, watched.turn)
        assert watched.look() == []
    watched.receive(7, share.waiting_bytes + 1)
    assert [fd for fd, _ in watched.look()] == [7]


def test_a_message_that_was_queued_before_a_reading_says_nothing_about_it(watched: Watched):
    """Read only after the reading, with no empty queue in between: nothing is settled by it."""
    watched.open(7, "k")
    watched.receive(7, 1 * MIB)
    connection = watched.ledger.get(7)
    assert connection is not None
    for _ in range(5):
        watched.ledger.read(7, "k", 100, watched.turn)
        watched.receive(7, 100)
        watched.look(empty=False)
    assert connection.waiting >= 1 * MIB


def test_a_descriptor_that_is_used_again_begins_with_nothing(watched: Watched):
    """Late messages of the connection before it give it no credit."""
    watched.open(7, "old")
    watched.ledger.closed(7, watched.turn)
    watched.open(7)
    watched.ledger.read(7, "old", 50 * MIB, watched.turn)
    watched.receive(7, 300)
    watched.receive(7, agent_share("old").waiting_bytes + 1)
    assert [fd for fd, _ in watched.look()] == [7]


def test_a_key_that_is_not_let_in_any_more_ends_its_connections(watched: Watched):
    """Within half a second, so that there is time to say why; nobody else's."""
    watched.open(7, "stolen")
    watched.open(8, "good")
    watched.open(9, "stolen")
    assert watched.look() == []
    watched.roles["stolen"] = None
    assert watched.look(0.25) == []
    ended = watched.look(GRACE_S - 0.25)
    assert [fd for fd, _ in ended] == [7, 9] and "no longer enrolled" in ended[0][1]


def test_a_key_that_is_listed_again_in_time_stays(watched: Watched):
    """A guest that has used up the token, and is an agent."""
    watched.open(7, "k", "guest")
    watched.roles["k"] = None
    assert watched.look(0.25) == []
    watched.roles["k"] = "agent"
    assert watched.look(10) == [] and watched.look(10) == []


def test_silence_ends_a_connection(watched: Watched):
    """Of one that nobody has heard; what has spoken may be silent for ever."""
    watched.open(7)
    watched.open(8, "k", "read")
    ended: list[int] = []
    looks = 0
    while not ended:
        ended = [fd for fd, _ in watched.look()]
        looks += 1
        assert looks < 1_000
    assert ended == [7] and abs(looks * 0.25 - SILENCE_S) < 1


def test_a_process_that_was_stopped_hangs_up_on_nobody(watched: Watched):
    """SIGSTOP for an hour: what was said meanwhile is not read yet."""
    watched.open(7)
    watched.look()
    assert watched.look(3600) == []
    for _ in range(1_000):  # nor one whose loop is busy
        assert watched.look(empty=False) == []


def test_the_oldest_of_too_many_connections_go(watched: Watched):
    """Of one key; others do not count with it."""
    for fd in range(6):
        watched.open(fd, "k")
    watched.open(50, "other")
    ended = watched.look()
    assert [fd for fd, _ in ended] == [0, 1] and "more than 4 connections" in ended[0][1]
    assert watched.look() == []


def test_all_guests_are_one_group(watched: Watched):
    """A key costs nothing."""
    for fd in range(GUESTS.connections + 3):
        watched.open(fd, f"k{fd}", "guest")
    assert [fd for fd, _ in watched.look()] == [0, 1, 2]


def test_the_silent_are_one_group_and_make_room():
    """By their own number, and by that of all connections."""
    watched = Watched()
    for fd in range(SILENT.connections + 2):
        watched.open(fd)
    assert [fd for fd, _ in watched.look()] == [0, 1]
    watched = Watched(most=10)
    for fd in range(8):
        watched.open(fd, f"k{fd}")
    for fd in range(8, 13):
        watched.open(fd)
    assert [fd for fd, _ in watched.look()] == [8, 9, 10]


def test_what_all_have_together_is_bounded(watched: Watched):
    """Those go that are nearest to their own share, and no more of them than must."""
    each = agent_share("").waiting_bytes
    for fd in range(20):
        watched.open(fd, f"k{fd}")
        watched.receive(fd, each - fd * 1000)
    watched.open(50, "good")
    watched.receive(50, 2 * MIB)
    ended = [fd for fd, _ in watched.look()]
    assert ended == list(range(len(ended)))
    left = sum(c.waiting for c in watched.ledger if not c.closing)
    assert TOTAL_BYTES - each <= left <= TOTAL_BYTES


def test_three_hundred_honest_agents_that_nobody_reads_all_stay(watched: Watched):
    """Each has a chunk on its way, four a window, and all have said a dozen words."""
    for fd in range(300):
        watched.open(fd, f"k{fd}")
        watched.receive(fd, (8 if fd < 4 else 1) * (CHUNK_BYTES + 1024) + 12 * 500)
    for _ in range(10):
        assert watched.look(empty=False) == []


def test_messages_of_closed_connections_count_until_they_are_read(watched: Watched):
    """Whoever fills a queue, hangs up and dials again is not a new peer each time."""
    share = agent_share("")
    for fd in range(100):
        watched.open(fd, "k")
        watched.receive(fd, share.waiting_bytes)
        watched.ledger.closed(fd, watched.turn)
    watched.open(200, "k")
    watched.receive(200, share.fair_bytes + 1)
    assert [fd for fd, _ in watched.look(empty=False)] == [200]
    watched.open(201, "k")
    watched.receive(201, share.fair_bytes + 1)
    for _ in range(3):
        watched.turn += 1
    assert watched.look() == []


def test_only_listed_keys_have_a_name_in_the_log(watched: Watched):
    """The lines of all others are one source."""
    watched.open(1, "a", "agent")
    watched.open(2, "g", "guest")
    watched.open(3)
    for fd in (1, 2, 3):
        watched.receive(fd, 100 * MIB)
    found = watched.ledger.judge(watched.now + 1, watched.turn)
    assert [verdict.source for verdict in found] == ["a", None, None]


def test_the_shares_of_each_role():
    """Nobody has more than an agent; without a role there is none."""
    roles: dict[str, str | None] = {"a": "agent", "r": "read", "g": "guest", "x": None}
    share = shares_of(roles.get)
    assert share("a") == agent_share("a") and share("r") == operator_share("r")
    assert share("g") == GUESTS and share("x") is None
    shares = [share("a"), share("r"), GUESTS, SILENT]
    assert max(shares, key=lambda s: s.waiting_bytes if s else 0) == share("a")
    assert isinstance(shares[0], Quota)
