"""Questions are decoded like every other message: typed, bounded, unknown ones refused."""

import json
import math
from typing import Any, get_args

import msgspec
import pytest
from memory_fleet import MemoryFleet

from flctl.errors import ErrorKind
from flctl.transport.channel import LOCAL
from flctl.transport.keypair import KeyPair
from flctl.wire import framing
from flctl.wire import questions as q
from flctl.wire.messages import Answer, Ask, Message, Trouble


def answer(fleet: MemoryFleet, what: str, by: str = LOCAL, **args: Any) -> Message:
    link = fleet.network.link(by)
    link.send(framing.encode(Ask(id=7, what=what, args=args)))
    fleet.until(lambda: bool(link.inbox))
    return framing.to_operator()(link.inbox.popleft())[1]


@pytest.mark.parametrize(
    ("what", "args", "says"),
    [
        (
            "checkpoint",
            {"round": math.inf},
            "'checkpoint': round: must be a whole number, without a",
        ),
        ("checkpoint", {"round": "1"}, "round: must be a whole number, not text"),
        ("checkpoint", {"round": -1}, "round: must be a whole number >= 0"),
        ("checkpoint", {"round": 2**62}, "'checkpoint': "),
        ("watch", {"after": "no"}, "after: must be a whole number, not text"),
        ("run", {"fun": 1}, "unknown key 'fun'; did you mean 'run'?"),
        ("status", {"run": "any"}, "unknown key 'run'"),
        ("stop", {"run": None}, "run: must be text in quotation marks, not nothing"),
        ("token", {"ttl_s": "inf", "uses": 1}, "ttl_s: must be a number, not text"),
        ("token", {"ttl_s": math.inf, "uses": 1}, "a token lives for up to"),
        ("token", {"ttl_s": math.nan, "uses": 1}, "a token lives for up to"),
        (
            "token",
            {"ttl_s": 60, "uses": 1, "deal": {"of": 0}},
            "deal.of: must be a whole number >= 1",
        ),
        (
            "key-add",
            {"name": "x", "key": "k", "role": "guest"},
            "role: 'guest' is unknown; it is one of agent, evaluate, read, admin",
        ),
        ("start", {"given": [1]}, "given: must be a table, not a list"),
        ("label", {"name": "a", "labels": {"a b": "c"}}, "labels: not a label: key and value have"),
        (
            "history",
            {"agent": "a", "figure": "temp"},
            "'temp' is unknown; it is one of temperature_c",
        ),
        ("start", {}, "'start': given: is missing"),
        ("reboot", {}, "does not know the question 'reboot'; it knows status, runs,"),
        ("x\ny", {}, r"does not know the question 'x\ny'"),
    ],
)
def test_a_question_that_is_none_is_refused_in_one_line(
    fleet: MemoryFleet, what: str, args: dict[str, Any], says: str, caplog: pytest.LogCaptureFixture
):
    """The person who asked reads why; the coordinator has no traceback, and goes on."""
    run = fleet.start_run(rounds=1)
    kind = q.KINDS.get(what)
    if kind is not None and "run" in kind.__struct_fields__:
        args = {"run": run, **args}
    said = answer(fleet, what, **args)
    assert isinstance(said, Trouble) and said.kind in (ErrorKind.USAGE, ErrorKind.SETTINGS)
    assert says in said.message and said.message.isprintable()
    assert not caplog.records or "Traceback" not in caplog.text
    assert fleet.finish().state == "finished"


def test_every_question_has_an_answer_and_a_class():
    """What may be asked, and what is answered, are the same: mypy holds that for `Control`."""
    waiting, tagged = [q.Question], set()
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        tagged |= {kind} if kind.__struct_config__.tag else set()
    assert tagged == set(get_args(q.AnyQuestion)) == set(q.KINDS.values())


@pytest.mark.parametrize(
    "what", [what for what, kind in q.KINDS.items() if issubclass(kind, q.AdminOrder)]
)
def test_an_order_of_a_read_key_is_refused_before_its_arguments_are_read(
    fleet: MemoryFleet, what: str
):
    """Even one that is no order at all."""
    reader = KeyPair.make().public
    fleet.keyring.add("ana", reader, "read")
    said = answer(fleet, what, reader, nonsense=1)
    assert isinstance(said, Trouble) and "needs an admin key" in said.message


def test_a_question_of_an_older_console_is_understood(fleet: MemoryFleet):
    """It sends the arguments that it always sent, and leaves out those that have a default."""
    run = fleet.start_run(rounds=1)
    fleet.finish()
    for what, args in (
        ("status", {}),
        ("run", {"run": run}),
        ("checkpoint", {"run": run}),
        ("checkpoint", {"run": run, "round": 1}),
        ("token", {"ttl_s": 60, "uses": 2}),
        ("cordon", {"name": "pi-01"}),
    ):
        said = answer(fleet, what, **args)
        assert isinstance(said, Answer), said
        json.dumps(msgspec.to_builtins(said.body))
