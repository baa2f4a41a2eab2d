"""Whatever an enrolled agent says, in whatever order: the others' run ends as it would without."""

import types
import typing
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from memory_fleet import MemoryFleet

from flctl.errors import AccessError
from flctl.transport.channel import LOCAL
from flctl.wire import framing
from flctl.wire import messages as m
from flctl.wire.questions import KINDS

FROM_AGENT = typing.get_args(m.FromAgent)
TO_AGENT = typing.get_args(m.ToAgent)
NUMBERS = [0, 1, 2, 7, 100, 2**20, 2**40, 2**53, -1]
FLOATS = [0.0, 0.5, 1e300, float("nan"), float("inf"), -1.0]
TEXT = ["", "toy", "default", "x" * 2000, "\x1b[2J", "é\n", "pi-01", "a" * 64, "5" * 32, "k" * 40]


def fits(value: Any, meta: msgspec.Meta) -> bool:
    kind = type(value)
    try:
        msgspec.convert(value, typing.Annotated[kind, meta])
    except msgspec.ValidationError:
        return False
    return True


def values(kind: Any, known: dict[str, Any]) -> st.SearchStrategy[Any]:  # noqa: PLR0911
    """Values of a message's field: often those of the round in progress, else at the edges."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        meta = next((arg for arg in args[1:] if isinstance(arg, msgspec.Meta)), msgspec.Meta())
        if args[0] not in (int, float, str):
            return values(args[0], known)
        # Within the bounds, and at them: what the decoder refuses has tests of its own.
        edges = [args[0](edge) for edge in (meta.ge, meta.le) if edge is not None]
        fitting = [value for value in plain(args[0], known) + edges if fits(value, meta)]
        return st.sampled_from(fitting or plain(args[0], known))
    if origin in (typing.Union, types.UnionType):
        return st.one_of([values(arg, known) for arg in args])
    if origin is typing.Literal:
        return st.sampled_from(args)
    if origin is tuple:
        return st.lists(values(args[0], known), max_size=3)
    if origin is dict:
        return st.dictionaries(values(args[0], known), values(args[1], known), max_size=3)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return bodies(kind, known)
    if kind in (int, float, str):
        return st.sampled_from(plain(kind, known))
    return st.booleans() if kind is bool else st.none()


def plain(kind: Any, known: dict[str, Any]) -> list[Any]:
    return {int: NUMBERS, float: FLOATS, str: [*TEXT, *known["text"]]}[kind]


def bodies(kind: Any, known: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = {
        name: values(hint, known) for name, hint in hints.items() if name in kind.__struct_fields__
    }
    made = st.fixed_dictionaries(fields)
    if kind is m.WorkKey:
        return st.just(known["key"]) | made
    return made


def said(
    kinds: tuple[Any, ...], known: dict[str, Any]
) -> st.SearchStrategy[tuple[Any, bytes | None]]:
    def of(kind: Any) -> st.SearchStrategy[Any]:
        tag = kind.__struct_config__.tag
        payload = st.none() | st.binary(max_size=100) | st.just(bytes(m.CHUNK_BYTES))
        return st.tuples(bodies(kind, known).map(lambda body: {"type": tag, **body}), payload)

    return st.one_of([of(kind) for kind in kinds])


def frames(body: Any, payload: bytes | None) -> list[bytes]:
    head = [framing.MAGIC + bytes([framing.PROTOCOL]), msgspec.msgpack.encode(body)]
    return [*head, payload] if payload is not None else head


def known_of(fleet: MemoryFleet) -> dict[str, Any]:
    assert fleet.coordinator is not None and fleet.coordinator.training is not None
    key = fleet.coordinator.training.round.key_of("pi-01")
    assert key is not None
    return {"key": msgspec.to_builtins(key), "text": [key.base, key.run]}


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_an_agent_says_anything_and_the_others_finish(
    data: st.DataObject, caplog: pytest.LogCaptureFixture
):
    """No message of it cannot be dealt with, and the two honest ones make every round."""
    caplog.clear()
    fleet = MemoryFleet(3)
    try:
        fleet.start_run(rounds=2, quorum=2 / 3, deadline_s=30.0)
        fleet.until(lambda: bool(fleet.named("opened")))
        hostile = fleet.agents["pi-02"]
        for body, payload in data.draw(st.lists(said(FROM_AGENT, known_of(fleet)), max_size=25)):
            hostile.link.send(frames(body, payload))
            fleet.step()
        hostile.kill()
        history = fleet.finish()
    finally:
        fleet.close()
    assert history.state == "finished"
    assert all({"pi-01", "pi-03"} <= set(event.participants) for event in history.rounds)
    assert "could not be dealt with" not in caplog.text


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_a_coordinator_says_anything_and_the_agent_lives(data: st.DataObject):
    """It ends only where it is told to, by an error in words."""
    fleet = MemoryFleet(1)
    try:
        fleet.start_run(rounds=1)
        fleet.until(lambda: bool(fleet.named("opened")))
        known, agent = known_of(fleet), fleet.agents["pi-01"]
        assert fleet.network.current is not None
        for body, payload in data.draw(st.lists(said(TO_AGENT, known), max_size=25)):
            if agent.link.peer is not None:
                fleet.network.current.send(agent.link.peer, frames(body, payload))
            try:
                agent.step()
            except AccessError as error:
                assert str(error)
                return
            fleet.now += 0.1
        fleet.until(lambda: agent.supervisor.session.connected, within_s=200)
    finally:
        fleet.close()


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_an_operator_asks_anything_and_gets_an_answer(data: st.DataObject):
    """Each question has one answer, or trouble in words."""
    fleet = MemoryFleet(1)
    try:
        run = fleet.start_run(rounds=1)
        link = fleet.network.link(LOCAL)
        decode = framing.to_operator()
        names = st.sampled_from(["run", "name", "key", "role", "ttl_s", "uses", "given", "round"])
        some = st.sampled_from([*NUMBERS, *FLOATS, *TEXT, run, None, {"task": "toy"}])
        asked = [*KINDS, "reboot"]
        for number in range(5):
            args = data.draw(st.dictionaries(names, some, max_size=3))
            body = {
                "type": "ask",
                "id": number,
                "what": data.draw(st.sampled_from(asked)),
                "args": args,
            }
            link.send(frames(body, None))
            for _ in range(5):
                fleet.step()
            answers = [decode(got)[1] for got in link.receive()]
            mine = [a for a in answers if getattr(a, "id", None) == number]
            assert mine, body
            for answer in mine:
                if isinstance(answer, m.Trouble):
                    assert "unexpected" not in answer.message
    finally:
        fleet.close()
