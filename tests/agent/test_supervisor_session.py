"""From the connection to the welcome, and the heartbeats after it."""

import json
import logging
from itertools import pairwise
from pathlib import Path

import pytest
from agent_rig import KEY, Rig

from flctl.agent.state import AgentState
from flctl.errors import AccessError, StateError
from flctl.transport.keypair import shown
from flctl.wire import framing
from flctl.wire.messages import (
    Goodbye,
    Heartbeat,
    HeartbeatAck,
    Hello,
    HelloAgain,
    Join,
    Joined,
    Ping,
    Pong,
    Refused,
    Welcome,
)
from flctl.worker.jobs import Described, JobFailed

WELCOME = Welcome(name="pi-01", version="1", heartbeat_s=5.0)

DATA = Path(__file__).parents[1] / "data" / "flctl-0.1"


def test_says_hello_at_once_and_again_when_the_data_are_known(rig: Rig) -> None:
    """The first Hello has no data sets, the second of the same session has."""
    rig.step()
    (first,) = rig.take(Hello)
    assert first.datasets == () and first.tasks == {"ecg": "a" * 64}
    rig.say(WELCOME)
    rig.step()
    (second,) = rig.take(Hello)
    assert second.session == first.session
    assert second.datasets[0].examples == 100 and second.device.torch == "2.9.1"


def test_starting_until_the_data_are_known(tmp_path: Path) -> None:
    """State "starting" while the worker looks, then "ready"."""
    rig = Rig(tmp_path, found=None)
    rig.step()
    rig.say(WELCOME)
    assert [beat.state for beat in rig.take(Heartbeat)] == ["starting"]
    assert Rig.found is not None
    rig.worker.end(Rig.found)
    rig.step(1.0)
    assert rig.supervisor.state == "ready"
    rig.close()


def test_no_data_is_said_with_the_reason(tmp_path: Path) -> None:
    """The Hello and the state tell why the agent cannot train."""
    found = Described(datasets=(), torch="2.9.1", cuda=False, error="/data: is empty")
    rig = Rig(tmp_path, found=found)
    rig.step()
    rig.take(Hello)
    rig.say(WELCOME)
    assert [hello.error for hello in rig.take(Hello)] == ["/data: is empty"]
    beat = rig.take(Heartbeat)[-1]
    assert (beat.state, beat.error) == ("no data", "/data: is empty")
    rig.close()


def test_a_worker_that_dies_while_looking_is_started_again_twice(tmp_path: Path) -> None:
    """After the third death the agent says that there are no data, and why."""
    rig = Rig(tmp_path, found=None)
    for _ in range(3):
        rig.step()
        assert rig.supervisor.state == "starting"
        rig.worker.end(JobFailed(kind="worker died", message="SIGILL"))
    rig.step()
    assert rig.supervisor.state == "no data" and len(rig.worker.jobs) == 3
    assert rig.supervisor.work.error == "SIGILL"
    rig.close()


def test_heartbeats_come_at_the_interval_of_the_welcome(ready: Rig) -> None:
    """One each 5 s, with telemetry, numbered."""
    ready.step(5.0)
    ready.take(Heartbeat)
    beats = []
    for _ in range(20):
        ready.step(1.0)
        beats += ready.take(Heartbeat)
    assert len(beats) == 4
    assert [b.sequence - beats[0].sequence for b in beats] == [0, 1, 2, 3]
    assert beats[0].telemetry.temperature_c == 41.5


def test_the_round_trip_is_measured_from_the_echo(ready: Rig) -> None:
    """A heartbeat whose echo took 0.2 s makes the next one say 200 ms."""
    ready.echoes = False
    ready.step(5.0)
    (beat,) = ready.take(Heartbeat)
    ready.now += 0.2
    ready.say(HeartbeatAck(sequence=beat.sequence))
    ready.step(5.0)
    assert ready.take(Heartbeat)[0].rtt_ms == pytest.approx(200.0)


def test_no_echo_for_a_minute_makes_a_new_connection(ready: Rig) -> None:
    """A connection that only looks alive is given up."""
    peer = ready.peer
    ready.echoes = False
    for _ in range(70):
        ready.step(1.0)
    ready.step()
    assert ready.take(Hello) and ready.peer != peer


def test_ping_is_answered(ready: Rig) -> None:
    """Pong carries the number of the Ping."""
    ready.say(Ping(sequence=7))
    assert [pong.sequence for pong in ready.take(Pong)] == [7]


def test_hello_again_is_answered_with_the_same_session(ready: Rig) -> None:
    """A coordinator that forgot it gets the Hello, and no heartbeats before its welcome."""
    ready.say(HelloAgain())
    ready.step(20.0)
    assert ready.take(Hello) and not ready.take(Heartbeat)


def test_a_hello_without_an_answer_is_sent_again(tmp_path: Path) -> None:
    """After 10 s."""
    rig = Rig(tmp_path, found=None)
    rig.step()
    rig.step(9.0)
    assert len(rig.take(Hello)) == 1
    rig.step(1.5)
    assert len(rig.take(Hello)) == 1
    rig.close()


def test_joins_first_and_remembers_its_name(tmp_path: Path) -> None:
    """Join, Joined, Hello; an agent started again on the folder does not join again."""
    rig = Rig(tmp_path, join_token="secret", name="pi-09")
    rig.step()
    assert [(j.token, j.name) for j in rig.take(Join)] == [("secret", "pi-09")]
    assert not rig.take(Hello)
    rig.say(Joined(name="pi-10"))
    assert rig.take(Hello)
    rig.close()
    again = Rig(tmp_path, join_token="secret")
    again.step()
    assert again.take(Hello) and not again.take(Join)
    assert again.supervisor.session.name == "pi-10"
    again.say(Refused(reason="guest", message="a guest may only join", retry_s=1.0))
    again.step(2.0)
    assert again.take(Join), "the coordinator has forgotten the key: the token is used again"
    again.close()


def test_a_refused_token_ends_the_agent(tmp_path: Path) -> None:
    """No retry can help: AccessError with what the coordinator said."""
    rig = Rig(tmp_path, join_token="old")
    rig.step()
    with pytest.raises(AccessError, match="this token has expired"):
        rig.say(Refused(reason="token", message="this token has expired", retry_s=30.0))
    rig.close()


def test_one_too_many_waits_for_a_shard(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """D19: it does not end, which Docker would answer with a start again and again. The token is
    read again from its file, and what it waits for is said."""
    token = tmp_path / "token"
    token.write_text("old\n")
    rig = Rig(tmp_path, join_token="old", join_token_file=token, shard_from_coordinator=True)
    rig.step()
    rig.say(Refused(reason="token", message="all 8 shards are assigned", retry_s=30.0))
    assert "all 8 shards are assigned" in caplog.text
    rig.take(Join)
    token.write_text("new\n")
    rig.step(31.0)
    assert [join.token for join in rig.take(Join)] == ["new"]
    rig.close()


def test_a_conflict_is_retried(ready: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """Refused for a conflict: silence for the time said, then Hello."""
    ready.say(Refused(reason="conflict", message="two machines use the key", retry_s=10.0))
    assert "two machines use the key" in caplog.text
    ready.step(9.0)
    assert not ready.take(Hello) and not ready.take(Heartbeat)
    ready.step(1.5)
    assert ready.take(Hello)


def test_an_operators_key_is_said_and_retried(ready: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """The key is enrolled for something else: one line, and a Hello after the time said."""
    refused = Refused(reason="role", message="not as an agent", retry_s=30.0)
    for _ in range(2):
        ready.say(refused)
        ready.step(29.0)
        assert not ready.take(Hello)
        ready.step(1.5)
        assert ready.take(Hello)
    assert caplog.text.count("reason=role not as an agent") == 1


def test_a_refused_key_says_what_to_do_and_backs_off(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The line names the command with the key, once; the waits double up to 30 s."""
    rig = Rig(tmp_path, name="pi-01")
    rig.listed = False
    rig.link.reopen()
    tries = []
    for _ in range(1000):
        before = rig.link._events.copy()
        rig.step(0.1)
        if "key refused" in [event.value for event in before]:
            tries.append(rig.now)
    waits = [after - before for before, after in pairwise(tries)]
    assert len(waits) >= 6
    for number, wait in enumerate(waits):
        longest = min(2**number, 30)
        assert longest / 2 <= wait + 0.01 and wait <= longest + 0.21
    lines = [r.message for r in caplog.records if r.levelno >= logging.WARNING]
    assert lines.count(lines[-1]) == 1 and f"flctl keys add pi-01 {shown(KEY)}" in lines[-1]
    rig.listed = True
    rig.step(31.0)
    rig.step()
    assert rig.take(Hello)
    rig.close()


def test_another_protocol_is_said_and_retried(ready: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """The notice of a newer coordinator: one line, and a Hello each minute."""
    ready.send(framing.notice("2.0", oldest=framing.PROTOCOL + 1, newest=framing.PROTOCOL + 2))
    assert "this agent is too old; upgrade the agent: flctl upgrade -i INVENTORY" in caplog.text
    ready.step(59.0)
    assert not ready.take(Hello)
    ready.step(2.0)
    assert ready.take(Hello)


@pytest.mark.parametrize("name", ["notice", "Welcome", "Train"])
def test_a_coordinator_of_protocol_1_is_to_be_upgraded_first(
    ready: Rig, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """Bytes of flctl 0.1: its answer to a newer agent, and what it says on its own."""
    kept = json.loads((DATA / "frames.json").read_text())
    ready.send([bytes.fromhex(frame) for frame in kept[name]])
    (line,) = [r.message for r in caplog.records if "protocol" in r.message]
    assert line.startswith(
        f"agent=pi-01 speaks protocol {framing.PROTOCOL}, the coordinator (flctl"
    )
    assert line.endswith(
        "this agent is too new; upgrade the coordinator first: flctl upgrade -i INVENTORY"
    )
    assert not ready.worker.jobs[1:]


def test_a_malformed_message_is_ignored_with_one_line(
    ready: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither rubbish nor a message that makes no sense stops the agent."""
    prefix = framing.encode(Goodbye())[0]
    for frames in ([prefix, b"rubbish"], [b"x"], [prefix, b""], [b"flc\x00", b"\xc1"]):
        caplog.clear()
        ready.send(frames)
        assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == 1
    ready.step(5.0)
    assert ready.take(Heartbeat)


def test_goodbye_at_the_end(tmp_path: Path) -> None:
    """Closing says goodbye and ends the worker."""
    rig = Rig(tmp_path)
    rig.welcome()
    rig.close()
    rig.listen()
    assert rig.take(Goodbye) and rig.worker.stopped


def test_one_agent_on_a_state_folder(tmp_path: Path) -> None:
    """A second one is told to use another folder."""
    first = AgentState(tmp_path / "state")
    with pytest.raises(StateError, match="another agent uses this state folder"):
        AgentState(tmp_path / "state")
    first.close()
    AgentState(tmp_path / "state").close()


def test_what_a_killed_worker_has_left_half_written_goes(tmp_path):
    """At the next start, after a power cut; at the end, when a job was given up. Beside it is
    what top-k has not sent, which stays."""
    run = tmp_path / "residuals" / "ecg-1"
    run.mkdir(parents=True)
    whole, half = run / "000000000004.safetensors", run / ".000000000008.safetensors.tmp"
    whole.touch()
    half.touch()
    state = AgentState(tmp_path)
    assert list(run.iterdir()) == [whole]
    half.touch()
    state.close()
    assert list(run.iterdir()) == [whole]


def test_an_agent_without_a_coordinator_says_so_and_then_ever_more_rarely(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Within five seconds: where it dials, and what happens."""
    rig = Rig(tmp_path)
    rig.link.cut()
    with caplog.at_level(logging.WARNING):
        said: list[float] = []
        for second in range(3600 * 4):
            rig.step(1.0)
            if caplog.records:
                said += [second + 1.0 for r in caplog.records if "not reached" in r.message]
                text = caplog.records[-1].message
                caplog.clear()
    assert said[0] <= 5.0
    assert "coordinator=" in text and "the cable is cut" in text
    pauses = [b - a for a, b in pairwise(said)]
    assert pauses[:4] == [10.0, 40.0, 160.0, 640.0] and max(pauses) <= 3600.0
    assert len(said) <= 10
    rig.close()


def test_a_connection_that_comes_at_once_is_not_explained(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor is a short break."""
    with caplog.at_level(logging.WARNING):
        for _ in range(30):
            rig.step(1.0)
            rig.say(WELCOME)
        rig.link.cut()
        rig.step(0.5)
        rig.link.mend()
        rig.step(0.5)
    assert not [r for r in caplog.records if "not reached" in r.message]
