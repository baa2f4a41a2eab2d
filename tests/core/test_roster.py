"""Who is there, with the time passed in."""

import gc
import tracemalloc

import msgspec

from flctl.core.roster import DECLARED, RIVALS, Admit, Conflict, Jumped, Lost, Probe, Roster
from flctl.wire.messages import DatasetInfo, Device, Heartbeat, Hello, Telemetry

DEVICE = Device(kind="Raspberry Pi 4", arch="aarch64", cores=4, memory_bytes=2**31)
DATA = (DatasetInfo(name="default", task="ecg", examples=300, held_out=40),)


def hello(session: int, datasets=DATA, error=None) -> Hello:
    return Hello(
        session=f"{session:032x}",
        version="1.0",
        role="train",
        device=DEVICE,
        tasks={"ecg": "d" * 64},
        datasets=datasets,
        error=error,
    )


def beat(sequence: int, state="ready") -> Heartbeat:
    return Heartbeat(sequence=sequence, state=state, telemetry=Telemetry(cpu_percent=3.0))


def roster_with(name="pi-01", peer=b"1", now=0.0) -> Roster:
    roster = Roster()
    assert roster.on_hello(name, peer, hello(1), 1, now) == [Admit(name, peer, True)]
    return roster


def test_an_agent_with_data_is_ready():
    """What it declared can be asked for by task and data set."""
    member = roster_with().member("pi-01")
    assert member.ready and member.state == "ready"
    assert (
        member.examples("ecg", "default") == 300 and member.examples("ecg", "default", "test") == 40
    )
    assert member.examples("mnist", "default") == member.examples("ecg", "other") == 0


def test_an_agent_becomes_ready_with_the_hello_that_names_its_data():
    """First it starts, then it says what it has, in the same session."""
    roster = Roster()
    roster.on_hello("pi-01", b"1", hello(1, datasets=()), 1, 0.0)
    member = roster.member("pi-01")
    assert member.state == "starting" and member.connected and not member.ready
    member.on_heartbeat(beat(1))
    assert not member.ready, "it may not be invited before it has said with which data"
    assert roster.on_hello("pi-01", b"1", hello(1), 1, 1.0) == [Admit("pi-01", b"1", False)]
    assert member.ready


def test_an_agent_without_data_says_why():
    """It is shown, and never invited."""
    roster = Roster()
    roster.on_hello("pi-01", b"1", hello(1, datasets=(), error="no file in /data"), 1, 0.0)
    member = roster.member("pi-01")
    assert member.state == "no data" and member.error == "no file in /data"
    assert not member.ready


def test_a_repeated_hello_of_a_session_is_no_new_agent():
    """A new connection of the same process is: what was said on the old one may be lost."""
    roster = roster_with()
    assert roster.on_hello("pi-01", b"1", hello(1), 1, 1.0) == [Admit("pi-01", b"1", False)]
    assert roster.on_hello("pi-01", b"2", hello(1), 1, 2.0) == [Admit("pi-01", b"2", True)]
    assert roster.of_peer(b"1") is None and roster.of_peer(b"2") is roster.member("pi-01")


def test_a_rebooted_agent_whose_old_connection_is_gone_is_welcome_at_once():
    """The ping to the old session cannot be delivered."""
    roster = roster_with()
    assert roster.on_hello("pi-01", b"2", hello(2), 1, 10.0) == [Probe(b"1")]
    assert roster.on_unreachable(b"1", 10.0) == [
        Lost("pi-01", "its connection was closed"),
        Admit("pi-01", b"2", True),
    ]
    assert roster.member("pi-01").ready


def test_a_rebooted_agent_whose_old_connection_hangs_is_welcome_after_three_seconds():
    """A power cut leaves a connection that looks open and does not answer."""
    roster = roster_with()
    roster.on_hello("pi-01", b"2", hello(2), 1, 10.0)
    assert roster.on_time(12.9) == []
    assert roster.on_time(13.0) == [Admit("pi-01", b"2", True)]
    assert roster.of_peer(b"2") is roster.member("pi-01")
    assert roster.of_peer(b"1") is None


def test_a_pong_of_the_old_session_means_two_machines_with_one_key():
    """Neither takes part; nobody guesses which of them is the right one."""
    roster = roster_with()
    roster.on_hello("pi-01", b"2", hello(2), 1, 10.0)
    assert roster.on_pong(b"1", 10.1) == [Conflict("pi-01", b"1"), Conflict("pi-01", b"2")]
    member = roster.member("pi-01")
    assert member.state == "conflict" and not member.ready and "two machines" in member.note
    assert roster.of_peer(b"1") is roster.of_peer(b"2") is None
    assert roster.on_hello("pi-01", b"2", hello(2), 1, 20.0) == [Conflict("pi-01", b"2")]
    assert roster.on_hello("pi-01", b"1", hello(1), 1, 20.1) == [Conflict("pi-01", b"1")]


def test_a_conflict_ends_when_one_machine_is_left():
    """After the other has said nothing for 25 seconds."""
    roster = roster_with()
    roster.on_hello("pi-01", b"2", hello(2), 1, 10.0)
    roster.on_pong(b"1", 10.0)
    for now in (20.0, 30.0):
        assert roster.on_hello("pi-01", b"2", hello(2), 1, now) == [Conflict("pi-01", b"2")]
    assert roster.on_hello("pi-01", b"2", hello(2), 1, 40.0) == [Admit("pi-01", b"2", True)]
    member = roster.member("pi-01")
    assert member.ready and member.note is None


def test_a_conflict_of_any_number_of_sessions_costs_no_more_than_one_of_two():
    """One key can invent them without end; the newest are remembered, and it stays a conflict."""
    roster = roster_with()
    roster.on_hello("pi-01", b"2", hello(2), 1, 10.0)
    roster.on_pong(b"1", 10.0)
    for session in range(3, 20_000):
        said = roster.on_hello("pi-01", b"2", hello(session), 1, 10.0 + session / 10_000)
        assert said == [Conflict("pi-01", b"2")]
    assert len(roster.member("pi-01").rivals) == RIVALS
    last = hello(19_999)
    assert roster.on_hello("pi-01", b"2", last, 1, 40.0) == [Admit("pi-01", b"2", True)]


def test_a_pong_that_nobody_waits_for_is_only_a_sign_of_life():
    """Connections are also probed when no rival is there."""
    roster = roster_with()
    assert roster.on_pong(b"1", 29.0) == [] and roster.on_time(40.0) == []
    assert roster.on_pong(b"stranger", 29.0) == []


def test_thirty_seconds_of_silence_are_a_loss():
    """Any message counts as a sign of life."""
    roster = roster_with()
    assert roster.on_time(30.0) == []
    roster.on_heard(b"1", 30.0)
    assert roster.on_time(60.0) == []
    assert roster.on_time(60.1) == [Lost("pi-01", "silent for 30 s")]
    assert roster.on_time(90.2) == [], "it is lost once"
    member = roster.member("pi-01")
    assert member.state == "lost" and not member.connected
    assert roster.on_heard(b"1", 91.0) is None, "its session is unknown now: hello again"


def test_rarer_heartbeats_are_given_more_time():
    """Six of them."""
    roster = Roster(heartbeat_s=60.0)
    roster.on_hello("pi-01", b"1", hello(1), 1, 0.0)
    assert roster.on_time(360.0) == []
    assert roster.on_time(360.1) == [Lost("pi-01", "silent for 360 s")]
    assert roster.on_hello("pi-01", b"1", hello(1), 1, 92.0) == [Admit("pi-01", b"1", True)]


def test_a_clock_that_starts_anywhere_is_good_enough():
    """Only differences of the time that is passed in count, so a step of the wall clock
    does nothing."""
    roster = roster_with(now=-5e8)
    assert roster.on_time(-5e8 + 30) == []
    assert [type(a) for a in roster.on_time(-5e8 + 31)] == [Lost]


def test_a_goodbye_is_a_loss_without_a_wait():
    """And a stranger's goodbye is nothing."""
    roster = roster_with()
    assert roster.on_goodbye(b"stranger") == []
    assert roster.on_goodbye(b"1") == [Lost("pi-01", "it shut down")]
    assert roster.on_goodbye(b"1") == []


def test_who_said_goodbye_is_stopped_and_shows_no_stale_values():
    """Until it is back."""
    roster = roster_with()
    member = roster.member("pi-01")
    member.on_heartbeat(msgspec.structs.replace(beat(1), rtt_ms=3.0))
    roster.on_goodbye(b"1")
    assert (member.state, member.telemetry, member.rtt_ms) == ("stopped", None, None)
    roster.on_hello("pi-01", b"2", hello(2), 1, 10.0)
    assert member.ready


def test_a_goodbye_lets_in_the_session_that_waits():
    """An agent was restarted: its successor's hello was quicker than its own goodbye."""
    roster = roster_with()
    roster.on_hello("pi-01", b"2", hello(2), 1, 10.0)
    assert roster.on_goodbye(b"1") == [Lost("pi-01", "it shut down")]
    assert roster.on_time(13.0) == [Admit("pi-01", b"2", True)]


def test_another_protocol_is_shown_with_what_to_do():
    """The agent is not dropped in silence; it is welcome after its upgrade."""
    roster = roster_with()
    note = "speaks protocol 0: upgrade the agent"
    assert roster.on_wrong_protocol("pi-01", "too old", note, 5.0) == [Lost("pi-01", "too old")]
    member = roster.member("pi-01")
    assert (member.state, member.note, member.ready) == ("too old", note, False)
    assert roster.on_wrong_protocol("pi-02", "too new", note, 5.0) == []
    roster.on_hello("pi-01", b"9", hello(3), 1, 6.0)
    assert member.ready and member.note is None


def test_a_revoked_agent_is_forgotten():
    """Its session is unknown from that moment on."""
    roster = roster_with()
    roster.on_hello("pi-01", b"2", hello(2), 1, 1.0)
    roster.remove("pi-01")
    roster.remove("never there")
    assert roster.of_peer(b"1") is None and roster.connected() == []
    assert roster.on_time(100.0) == [] and roster.members == {}


def test_two_agents_do_not_touch_each_other():
    """A conflict of one leaves the other ready."""
    roster = roster_with()
    roster.on_hello("pi-02", b"5", hello(5), 1, 0.0)
    roster.on_hello("pi-01", b"2", hello(2), 1, 1.0)
    roster.on_pong(b"1", 1.0)
    assert [m.name for m in roster.connected()] == ["pi-02"]
    assert roster.member("pi-02").ready


def test_a_day_of_heartbeats_and_reboots_needs_no_memory():
    """17,280 heartbeats of one agent, with a new session every hour."""
    roster = roster_with()
    peer, now = b"1", 0.0

    def live(hours: range) -> None:
        nonlocal peer, now
        for hour in hours:
            for _ in range(720):
                now += 5.0
                member = roster.on_heard(peer, now)
                assert member is not None
                member.on_heartbeat(beat(int(now)))
                assert roster.on_time(now) == []
            peer = b"peer of hour %d" % hour
            roster.on_hello("pi-01", peer, hello(1000 + hour), 1, now)
            roster.on_time(now + 3.0)

    live(range(2))
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        live(range(2, 24))
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 8192, f"{grown} bytes in 22 hours"


def data(examples: int, name: str = "default") -> tuple[DatasetInfo, ...]:
    return (DatasetInfo(name=name, task="ecg", examples=examples),)


def jumps(actions) -> list[str]:
    return [action.text for action in actions if isinstance(action, Jumped)]


def test_a_declared_count_that_jumps_is_noticed():
    """Whoever claims more examples weighs more: it is said once, and stands in the status."""
    roster = roster_with()
    (text,) = jumps(roster.on_hello("pi-01", b"1", hello(1, data(2**53)), 1, 1.0))
    assert text.startswith(
        "its number of examples has jumped: 300 became 9007199254740992 of 'default'"
    )
    member = roster.member("pi-01")
    assert member.note == text
    assert not jumps(roster.on_hello("pi-01", b"1", hello(1, data(2**53)), 1, 2.0))
    assert member.note == text, "a Hello that changes nothing does not take it away"
    roster.on_goodbye(b"1")
    assert not jumps(roster.on_hello("pi-01", b"2", hello(2, data(2**53)), 1, 3.0))
    assert member.note is None


def test_a_count_that_jumps_with_a_restart_or_behind_an_empty_hello_is_noticed():
    """Another session of the agent is compared with the last one; so is one that names its data
    only later."""
    roster = roster_with()
    roster.on_goodbye(b"1")
    assert not jumps(roster.on_hello("pi-01", b"2", hello(2, ()), 1, 1.0))
    assert jumps(roster.on_hello("pi-01", b"2", hello(2, data(601)), 1, 2.0))


def test_many_small_steps_are_a_jump_too():
    """Compared with where they began; data that grow are no jump before they have doubled."""
    roster = roster_with()
    told = [
        bool(jumps(roster.on_hello("pi-01", b"1", hello(1, data(count)), 1, 1.0)))
        for count in (300, 400, 500, 600, 601, 700, 1202, 1203)
    ]
    assert told == [False, False, False, False, True, False, False, True]


def test_fewer_examples_are_no_jump():
    """The next count is compared with them."""
    roster = roster_with()
    assert not jumps(roster.on_hello("pi-01", b"1", hello(1, data(10)), 1, 1.0))
    assert jumps(roster.on_hello("pi-01", b"1", hello(1, data(300)), 1, 2.0))


def test_invented_data_sets_cost_no_memory():
    """However many an agent names."""
    roster = roster_with()
    for number in range(500):
        roster.on_hello("pi-01", b"1", hello(1, data(5, f"set-{number}")), 1, 1.0)
    assert len(roster.member("pi-01").declared) == DECLARED
