"""Reading an agent's log over the coordinator: who may, and what happens when one is away."""

import msgspec
import pytest
from memory_fleet import MemoryFleet
from memory_network import MemoryLink
from test_questions import answer

from flctl.coordinator.front.agent_logs import ANSWER_S, OPEN
from flctl.errors import ErrorKind
from flctl.transport.channel import LOCAL
from flctl.transport.keypair import KeyPair
from flctl.wire import framing
from flctl.wire.messages import Answer, Ask, Hello, LogLines, Message, Trouble


@pytest.fixture
def here(fleet: MemoryFleet) -> MemoryFleet:
    fleet.until(lambda: len(fleet.coordinator.roster.connected()) == 3)
    return fleet


def asked(fleet: MemoryFleet, number: int, agent: str, by: str = LOCAL) -> MemoryLink:
    link = fleet.network.link(by)
    link.send(framing.encode(Ask(id=number, what="logs", args={"agent": agent})))
    return link


def said(link: MemoryLink) -> Message:
    return framing.to_operator()(link.inbox.popleft())[1]


def trouble(fleet: MemoryFleet, agent: str = "pi-01") -> Trouble:
    found = answer(fleet, "logs", agent=agent)
    assert isinstance(found, Trouble) and found.message.isprintable()
    return found


def test_an_admin_reads_the_lines_and_goes_on_with_the_cursor(here: MemoryFleet):
    boss = KeyPair.make().public
    here.keyring.add("boss", boss, "admin")
    for text in ("one", "two", "three"):
        here.agents["pi-01"].says(text)
    found = answer(here, "logs", boss, agent="pi-01", lines=2)
    assert isinstance(found, Answer)
    assert [line["text"] for line in found.body["lines"]] == ["two", "three"]
    assert (found.body["agent"], found.body["more"], found.body["missed"]) == ("pi-01", False, 0)
    here.agents["pi-01"].says("four")
    found = answer(here, "logs", boss, agent="pi-01", after=found.body["cursor"])
    assert [line["text"] for line in found.body["lines"]] == ["four"]
    assert here.status("pi-01")["log"] is True


def test_a_read_key_may_not(here: MemoryFleet):
    """A log may hold paths; the attempt stands in the audit file."""
    reader = KeyPair.make().public
    here.keyring.add("ana", reader, "read")
    found = answer(here, "logs", reader, agent="pi-01")
    assert isinstance(found, Trouble) and found.kind is ErrorKind.ACCESS
    assert "'logs' needs an admin key" in found.message
    assert b'"refused"' in (here.state / "audit.jsonl").read_bytes()


@pytest.mark.parametrize("hello_says", [True, False])
def test_an_owner_can_forbid_it(here: MemoryFleet, hello_says: bool):
    """The coordinator knows; and the agent itself refuses a coordinator that asks all the same."""
    agent = here.agents["pi-01"]
    agent.kill()
    agent.shares_log = False
    agent.start()
    here.until(lambda: here.status("pi-01")["log"] is False)
    if not hello_says:
        member = here.coordinator.roster.members["pi-01"]
        member.hello = msgspec.structs.replace(member.hello, log=True)
    found = trouble(here)
    assert found.kind is ErrorKind.ACCESS and "does not share its log" in found.message


def test_an_older_agent_is_named_with_its_version(here: MemoryFleet):
    member = here.coordinator.roster.members["pi-02"]
    assert isinstance(member.hello, Hello)
    member.hello = msgspec.structs.replace(member.hello, log=None, version="0.1.9")
    found = trouble(here, "pi-02")
    assert found.message == "pi-02 runs flctl 0.1.9, which cannot send its log: upgrade it"


def test_one_that_is_away_is_said_at_once_or_when_it_goes(here: MemoryFleet):
    assert "no agent is enrolled as pi-99" in trouble(here, "pi-99").message
    here.keyring.add("pi-09", KeyPair.make().public, "agent")
    assert "pi-09 is not connected (not seen since" in trouble(here, "pi-09").message
    here.agents["pi-03"].alive = False  # it hangs: connected, and says nothing
    link = asked(here, 1, "pi-03")
    here.step()
    here.agents["pi-03"].alive = True
    here.agents["pi-03"].kill()
    here.until(lambda: bool(link.inbox), within_s=3.0)
    found = said(link)
    assert isinstance(found, Trouble) and "pi-03 disconnected before it ans" in found.message
    found = trouble(here, "pi-03")
    assert found.kind is ErrorKind.FAILED
    assert "pi-03 is not connected (lost, last seen" in found.message


def test_one_that_does_not_answer_is_waited_for_so_long(
    here: MemoryFleet, caplog: pytest.LogCaptureFixture
):
    here.agents["pi-03"].alive = False
    link = asked(here, 1, "pi-03")
    for _ in range(int(ANSWER_S)):
        here.step(0.99)
    assert not link.inbox
    here.step(1.0)
    here.step()
    found = said(link)
    assert isinstance(found, Trouble) and found.message == "no answer from pi-03 in 10 s"
    here.agents["pi-03"].alive = True  # its answer comes too late, and is no offence
    here.step()
    here.step()
    assert not link.inbox and here.status("pi-03")["note"] is None
    assert "without being asked" not in caplog.text


def test_an_agent_has_only_so_many_questions_and_a_key_too(here: MemoryFleet):
    here.agents["pi-03"].alive = False
    links = []
    for number in range(OPEN + 1):
        boss = KeyPair.make().public
        here.keyring.add(f"boss-{number}", boss, "admin")
        links.append(asked(here, number, "pi-03", boss))
        here.step(0.05)
    here.step(0.05)
    assert [bool(link.inbox) for link in links] == [False] * OPEN + [True]
    found = said(links[-1])
    assert isinstance(found, Trouble) and "8 questions to pi-03 are open already" in found.message


def test_what_was_not_asked_for_reaches_nobody(here: MemoryFleet, caplog: pytest.LogCaptureFixture):
    """Nor can one agent answer for another."""
    here.agents["pi-03"].alive = False
    link = asked(here, 1, "pi-03")
    here.step()
    for number in range(5):
        here.agents["pi-02"].link.send(framing.encode(LogLines(id=number)))
    here.step()
    here.step()
    assert not link.inbox
    assert "agent=pi-02 refused: sent its log without being asked" in caplog.text


def test_an_operator_who_is_gone_costs_nothing_more(here: MemoryFleet):
    """The next operator is answered; the question that was open ends by itself."""
    here.agents["pi-03"].alive = False
    asked(here, 1, "pi-03").close()
    here.step(ANSWER_S + 1)
    here.agents["pi-03"].alive = True
    here.agents["pi-03"].says("still here")
    here.step()
    found = answer(here, "logs", agent="pi-03")
    assert isinstance(found, Answer) and found.body["lines"][-1]["text"] == "still here"


def test_a_round_goes_on_undisturbed_while_the_log_is_read(here: MemoryFleet):
    """Each question is one small message to the supervisor; the worker never hears of it."""
    here.start_run(rounds=4)
    reads = 0
    while here.coordinator.training is not None:
        found = answer(here, "logs", agent="pi-01")
        reads += isinstance(found, Answer)
    assert here.history().state == "finished" and reads > 10
    assert [len(agent.trained) for agent in here.agents.values()] == [4, 4, 4]
