"""What a peer can have written into the log has a bound."""

import ast
import logging
from pathlib import Path

import pytest
import zmq
from zmq.utils import z85

import flctl
from flctl.transport.gate import LINES, STRANGER, Gate
from flctl.transport.keypair import KeyPair
from flctl.transport.zap import DOMAIN, ENDPOINT, Gatekeeper

LOG = logging.getLogger("flctl.test")
ORDERED = "once each time that an operator asks for it"
NOT_BY_PEERS = {
    "aggregation": "once a round for each agent",
    "book.load_book": "once for each start, about a file of this machine",
    "ahead.send_ahead": "at most once a round, about a file of this machine",
    "context.has_to_draw_again": "once for each start of a run",
    "reports.tell_failure": "passes the gate first",
    "evaluator._call": "a worker that died, TRIES times for each evaluation of a round",
    "evaluator.evaluate": "once a run",
    "token_folder": "once each time that an operator opens the door",
    "journal.__init__": "once for each start of a run",
    "keeper": "runs that start, go on and end",
    "main.stop": "a signal",
    "round_driver._attempt_failed": "as many as a round has attempts",
    "round_driver.done": "ends the run",
    "rotating": "once for each rotation of the server's key",
    "folder._put_back": "once for each start of a run",
    "scoring.by_agents": "once a round",
    "service._tick": "once for each trouble with the file",
    "serving.pump": "the blob is not served after it",
    "resume": "once for each start of a run",
    "run": "rounds and ends of a run; what an agent says that it failed at passes the gate first",
    "personalising._begin": ORDERED,
    "personalising._end": ORDERED,
    "personalising.give_up": ORDERED,
    "personalising._on_failed": "passes the gate first",
    "gate": "the gate",
    "guard.__init__": "once for each start, about the kernel",
    "health": "its own socket",
    "keypair": "a file of this machine",
    "keys._reread": "once for each trouble with the file",
    "link": "the agent's side",
    "settings.settings_of": "once for each start, about a file of this machine",
    "lives.__init__": "once for each start, about a file of this machine",
}
"""Lines that no peer can repeat at will: module or module.function, and why."""


def written(gate: Gate, caplog: pytest.LogCaptureFixture, source: str, times: int) -> int:
    before = len(caplog.records)
    for number in range(times):
        gate.warning(LOG, source, "agent=%s says %d", source, number)
    return len(caplog.records) - before


def test_each_source_has_so_many_lines_a_minute_with_the_count_of_the_others(caplog):
    """A minute begins with a line: any sixty seconds have twenty at most."""
    now = [0.0]
    gate = Gate(lambda: now[0])
    assert written(gate, caplog, "pi-01", 3000) == LINES
    assert written(gate, caplog, "pi-02", 3) == 3, "another source has its own"
    now[0] = 59.9
    assert written(gate, caplog, "pi-01", 10) == 0
    now[0] = 60.0
    assert written(gate, caplog, "pi-01", 3000) == LINES
    assert "source=pi-01 3000 more lines about it were left out" in caplog.text
    assert caplog.records[0].filename == Path(__file__).name, "the line of the one who writes"


def test_a_bug_that_a_peer_has_found_is_one_line(caplog):
    """With the places of its traceback; the traceback itself is for --verbose."""
    caplog.set_level("INFO")
    gate = Gate(lambda: 0.0)
    for _ in range(100):
        try:
            int("no\nsuch")
        except ValueError as error:
            gate.bug(LOG, STRANGER, error, "key=x a message could not be handled")
    assert len(caplog.records) == LINES and "Traceback" not in caplog.text
    first = caplog.records[0].getMessage()
    assert first.isprintable() and "ValueError" in first and "test_gate.py:" in first


@pytest.mark.parametrize("broken", [False, True])
def test_three_thousand_keys_of_strangers_are_ten_lines(caplog, broken: bool):
    """A key is made in no time; also where each makes the check itself fail."""
    caplog.set_level("INFO")

    def authorise(_: str) -> bool:
        if broken:
            raise OSError("the disk")
        return False

    key = z85.decode(KeyPair.make().public.encode())
    with zmq.Context() as context:
        gatekeeper = Gatekeeper(context, authorise, Gate(lambda: 0.0))
        asking = context.socket(zmq.REQ)
        asking.connect(ENDPOINT)
        for number in range(3000):
            stranger = number.to_bytes(4, "big") + key[4:]
            asking.send_multipart([b"1.0", b"1", DOMAIN, b"198.51.100.7", b"", b"CURVE", stranger])
            assert asking.recv_multipart()[2] in (b"400", b"500")
        asking.close(linger=0)
        gatekeeper.close()
    assert 1 <= len(caplog.records) <= LINES
    assert "Traceback" not in caplog.text


def calls_of_the_logger(path: Path) -> list[str]:
    """`module.function` of each line that is written without the gate."""
    found: list[str] = []

    def visit(node: ast.AST, function: str) -> None:
        if isinstance(node, ast.FunctionDef):
            function = node.name
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id in ("logger", "logging")
            and node.func.attr in ("info", "warning", "error", "exception", "critical")
        ):
            found.append(f"{path.stem}.{function}")
        for child in ast.iter_child_nodes(node):
            visit(child, function)

    visit(ast.parse(path.read_text()), "")
    return found


def test_every_line_that_a_peer_can_cause_goes_through_the_gate():
    """A new line of the coordinator either does, or stands above with the reason why not."""
    package = Path(flctl.__file__).parent
    files = [*package.glob("coordinator/**/*.py"), *package.glob("transport/*.py")]
    ungated = {place for file in files for place in calls_of_the_logger(file)}
    listed = {place for place in ungated if {place, place.partition(".")[0]} & NOT_BY_PEERS.keys()}
    assert ungated == listed, "write it with Gate, or say here why no peer can repeat it"
