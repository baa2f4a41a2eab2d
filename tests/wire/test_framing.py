"""Frames and messages: everything that is sent is understood, and nothing else."""

import contextlib
import typing

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from flctl.errors import ErrorKind, MalformedMessage, ProtocolMismatch
from flctl.settings import LocalTraining
from flctl.wire import messages as m
from flctl.wire.framing import (
    HEADER_BYTES,
    MAGIC,
    NOTICE,
    PROTOCOL,
    Decoder,
    encode,
    notice,
    read_notice,
    to_agent,
    to_coordinator,
    to_operator,
)

SHA = "0123456789abcdef" * 4
KEY = m.WorkKey(run="ecg-0102-2f", version=6, base=SHA, sequence=5)
WHOLE = m.Model(shared=m.Coded(blob=SHA, size=2**35))
PARTS = m.Model(
    shared=m.Coded(blob=SHA, size=100, codec="int8", base=SHA),
    frozen=m.Coded(blob=SHA, size=9),
    private=SHA,
)
SUMS = m.Sums(
    examples=3,
    means={"loss": m.Moments(count=3, mean=0.5)},
    counts={"classes": ((1, 0), (0, 2))},
)
EXAMPLES = [
    m.Hello(
        session="a" * 32,
        version="1.0",
        role="train",
        device=m.Device(kind="Raspberry Pi 4", arch="aarch64", cores=4, memory_bytes=2**32),
        tasks={"ecg": SHA},
        datasets=(m.DatasetInfo(name="default", task="ecg", examples=300, held_out=9),),
        error="nothing",
        limits=m.Limits(min_examples=100),
        image=SHA,
        settings=SHA,
        labels={"site": "ward-3", "model": "pi4"},
        log=True,
    ),
    m.LogLines(
        id=3,
        lines=(m.LogLine(1.7e9, "WARNING", "coordinator=10.0.0.1:7700 connection lost"),),
        cursor=f"{'a' * 32}:7:1700000000.125",
        more=True,
        missed=2,
    ),
    m.LogLines(id=4, refused=True),
    m.SendLog(id=3, lines=200, since_s=60.0, after=f"{'a' * 32}:7:1700000000.125"),
    m.Heartbeat(
        sequence=1,
        state="no data",
        telemetry=m.Telemetry(temperature_c=51.5, throttled=("under-voltage",), uptime_s=9.0),
        rtt_ms=3.5,
        error="no file",
    ),
    m.Heartbeat(sequence=0, state="ready", telemetry=m.Telemetry()),
    m.Pong(sequence=2**53),
    m.Progress(key=KEY, step=3, steps=9, loss=float("inf")),
    m.UpdateReady(
        key=KEY,
        update=m.Coded(blob=SHA, size=2**35, codec="int8", base=SHA),
        claim=m.Claim(
            examples=300, batches=12, loss=1.0, last_loss=0.5, seconds=12.5, exhausted=True
        ),
    ),
    m.Evaluated(key=KEY, part="test", sums=SUMS),
    m.Evaluated(key=KEY, part="validation", sums=None),
    m.Personalised(key=KEY, number=2, whose="own", part="test", sums=SUMS, epochs=10),
    m.Failed(key=KEY, what="train", kind="out of memory", message="…", retrying=True),
    m.Failed(key=KEY, what="train", kind="owner", message="…", again_s=60.0),
    m.Goodbye(),
    m.Join(token="t", name="pi-01"),
    m.Join(token="t"),
    m.Welcome(name="pi-01", version="1.0", heartbeat_s=5.0),
    m.Refused(reason="conflict", message="two machines", retry_s=10.0),
    m.Joined(name="pi-01"),
    m.ServerKeys(keys=("k" * 40, "o" * 40)),
    m.HelloAgain(),
    m.HeartbeatAck(sequence=4),
    m.Ping(sequence=5),
    m.Train(
        key=KEY,
        model=PARTS,
        task="ecg",
        dataset="default",
        training=LocalTraining(optimizer="AdamW", optimizer_args={"betas": [0.9, 0.99]}),
        seed=2**63 - 1,
        position=40,
    ),
    m.Evaluate(
        key=KEY, model=WHOLE, task="ecg", dataset="default", batch_size=1000, parts=("test",)
    ),
    m.Personalise(
        key=KEY,
        number=2,
        model=WHOLE,
        task="ecg",
        dataset="default",
        training=LocalTraining(),
        seed=7,
        batch_size=1000,
        tensors=("head.*",),
    ),
    m.NextModel(run=KEY.run, model=m.Coded(blob=SHA, size=9)),
    m.Accepted(key=KEY),
    m.Discarded(key=KEY, reason="too late"),
    m.Cancel(run="ecg-0102-2f"),
    m.Fetch(blob=SHA, offset=0, length=m.CHUNK_BYTES),
    m.Chunk(blob=SHA, offset=2**40),
    m.BlobGone(blob=SHA),
    m.Ask(id=1, what="status", args={"a": [1, {"b": None}]}),
    m.Answer(id=1, body={"agents": [1, 2.5, "x", None, True]}),
    m.AnswerPart(id=1, last=True),
    m.Trouble(id=1, message="no such run", kind=ErrorKind.USAGE),
    m.RunEvent(id=1, event={"event": "round", "round": 7}),
]
DIRECTIONS = [to_coordinator(), to_agent(), to_operator()]
UNIONS = [m.ToCoordinator, m.ToAgent, m.ToOperator]


def understood(message: m.Message) -> list[Decoder]:
    return [
        decode
        for decode, union in zip(DIRECTIONS, UNIONS, strict=True)
        if type(message) in typing.get_args(union)
    ]


def test_there_is_an_example_of_every_message():
    """Else the tests below would pass over a new one."""
    defined = {
        cls
        for cls in vars(m).values()
        if isinstance(cls, type) and issubclass(cls, m.Message) and cls is not m.Message
    }
    assert {type(example) for example in EXAMPLES} == defined
    assert defined == {cls for union in UNIONS for cls in typing.get_args(union)}


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda e: type(e).__name__)
def test_every_message_is_read_back_where_it_belongs_and_nowhere_else(message):
    """An agent cannot be given an order that only an operator may send."""
    frames = encode(message, b"payload")
    readers = understood(message)
    assert readers
    for decode in DIRECTIONS:
        if decode in readers:
            assert decode(frames) == (PROTOCOL, message, b"payload")
            assert decode(frames[:2]) == (PROTOCOL, message, None)
            views = [memoryview(bytes(frame)) for frame in frames]
            assert decode(views)[:2] == (PROTOCOL, message)
        else:
            with pytest.raises(MalformedMessage, match="Invalid value"):
                decode(frames)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda e: type(e).__name__)
def test_every_message_is_refused_with_an_unknown_field_or_cut_short(message):
    """Unknown fields mean another version; those are told apart by the protocol number."""
    body = msgspec.to_builtins(message)
    (decode, *_) = understood(message)
    prefix = encode(message)[0]
    with pytest.raises(MalformedMessage, match="unknown field `surprise`"):
        decode([prefix, msgspec.msgpack.encode(body | {"surprise": 1})])
    with pytest.raises(MalformedMessage):
        decode([prefix, msgspec.msgpack.encode(body | {"type": "surprise"})])
    whole = bytes(encode(message)[1])
    for length in range(len(whole)):
        with pytest.raises(MalformedMessage):
            decode([prefix, whole[:length]])


@pytest.mark.parametrize(
    ("frames", "says"),
    [
        ([], "not the protocol of flctl"),
        ([b""], "not the protocol of flctl"),
        ([b"flc"], "not the protocol of flctl"),
        ([b"GET / HTTP/1.1", b""], "not the protocol of flctl"),
        ([b"FLC\x01", b""], "not the protocol of flctl"),
        ([b"flc\x02\x00", b""], "not the protocol of flctl"),
        ([b"flc\x02" * 100_000, b""], "not the protocol of flctl"),
        ([b"flc\x02"], "1 frames instead of 2 or 3"),
        ([b"flc\x02", b"", b"", b""], "4 frames"),
        ([b"flc\x02"] + [b""] * 1000, "1001 frames"),
        ([b"flc\x02", b"\x90" * (HEADER_BYTES + 1)], "a message of 65537 bytes, 65536 at most"),
        ([*encode(m.Goodbye()), b"x" * (m.CHUNK_BYTES + 1)], "a payload of 262145 bytes"),
        ([b"flc\x02", b""], "not a message"),
        ([b"flc\x02", b"\x91" * HEADER_BYTES], "not a message"),
        ([b"flc\x02", b"\x81\xa4type\xa2\xff\xfe"], "not a message"),
        ([b"flc\x02", b"\xdf\xff\xff\xff\xff"], "not a message"),
        ([b"flc\x02", b"\xdd\xff\xff\xff\xff\x01"], "not a message"),
    ],
)
def test_other_frames_are_refused_with_the_reason(frames, says):
    """A port scanner, a browser, an attacker: one line each."""
    with pytest.raises(MalformedMessage, match=says) as caught:
        to_coordinator()(frames)
    assert "\n" not in str(caught.value)


def test_a_nested_question_is_refused_and_not_followed():
    """`args` may hold anything, so its depth has no other bound than the decoder's."""
    good = bytes(encode(m.Ask(id=1, what="status", args={"a": 7}))[1])
    assert good.count(b"\xa1a\x07") == 1
    bad = good.replace(b"\xa1a\x07", b"\xa1a" + b"\x91" * 60_000)
    with pytest.raises(MalformedMessage, match="recursion"):
        to_coordinator()([MAGIC + bytes([PROTOCOL]), bad])


@pytest.mark.parametrize(
    "message",
    [
        m.Pong(sequence=-1),
        m.Pong(sequence=2**60),
        m.Cancel(run="../../etc"),
        m.Cancel(run="ecg-1\n"),
        m.ServerKeys(keys=()),
        m.ServerKeys(keys=("k" * 39,)),
        m.ServerKeys(keys=("k" * 40,) * 3),
        m.Joined(name="Pi 01"),
        m.Joined(name="pi-01\n"),
        m.Joined(name="a" * 64),
        m.BlobGone(blob=SHA[:-1]),
        m.BlobGone(blob=SHA + "\n"),
        m.BlobGone(blob=SHA.upper()),
        m.Fetch(blob=SHA, offset=0, length=m.CHUNK_BYTES + 1),
        m.Fetch(blob=SHA, offset=-1, length=1),
        m.Fetch(blob=SHA, offset=0, length=0),
        m.Refused(reason="bad luck", message="", retry_s=0.0),
        m.Refused(reason="guest", message="x" * 2001, retry_s=0.0),
        m.Refused(reason="guest", message="", retry_s=float("inf")),
        m.Refused(reason="guest", message="", retry_s=float("nan")),
        m.Refused(reason="guest", message="", retry_s=100_000.0),
        m.Welcome(name="pi-01", version="1", heartbeat_s=1e-9),
        m.Welcome(name="pi-01", version="1", heartbeat_s=float("inf")),
        m.Joined(name="pi-01", shard=m.Shard(index=0, of=10**9, partition="iid")),
        m.Joined(name="pi-01", shard=m.Shard(index=10**9, of=10, partition="iid")),
        m.Joined(name="pi-01", shard=m.Shard(index=0, of=1, partition="dirichlet", alpha=0.0)),
        *(
            m.Evaluate(
                key=KEY,
                model=m.Model(shared=m.Coded(blob=SHA, size=size)),
                task="ecg",
                dataset="default",
                batch_size=batch_size,
                parts=parts,  # type: ignore[arg-type]
            )
            for size, batch_size, parts in (
                (2**40, 1, ("test",)),
                (1, 2**60, ("test",)),
                (1, 1, ()),
                (1, 1, ("train",)),
            )
        ),
        m.Join(token="t" * 201),
        m.Ask(id=1, what="x" * 201),
        m.UpdateReady(
            key=KEY,
            update=m.Coded(blob=SHA, size=1),
            claim=m.Claim(examples=0, batches=1, loss=0, last_loss=0, seconds=1),
        ),
    ],
    ids=str,
)
def test_values_out_of_range_are_refused_by_whoever_gets_them(message):
    """The bounds stand in the types; a name never holds a path or a line's end."""
    for decode in understood(message):
        with pytest.raises(MalformedMessage, match="not a message of this protocol: "):
            decode(encode(message))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.binary(max_size=60), max_size=4))
@example([MAGIC + bytes([PROTOCOL]), b"\xc1"])
def test_random_frames_are_only_ever_refused(frames):
    """With one of two errors, and with any prefix."""
    for decode in DIRECTIONS:
        for tried in (frames, [MAGIC + bytes([PROTOCOL]), *frames]):
            with pytest.raises((MalformedMessage, ProtocolMismatch)):
                decode(tried)


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text("a/\n\0é")
    | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(EXAMPLES), st.data())
def test_a_message_with_a_changed_field_is_refused_or_within_its_bounds(message, data):
    """Whatever is let in encodes and decodes to itself: no value that nobody foresaw."""
    body = msgspec.to_builtins(message)
    field = data.draw(st.sampled_from(sorted(body)))
    body[field] = data.draw(anything)
    prefix = MAGIC + bytes([PROTOCOL])
    for decode in DIRECTIONS:
        try:
            _, read, _ = decode([prefix, msgspec.msgpack.encode(body)])
        except MalformedMessage as error:
            assert "\n" not in str(error)
        else:
            again = decode(encode(read))[1]
            assert msgspec.msgpack.encode(again) == msgspec.msgpack.encode(read)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(EXAMPLES), st.data())
def test_a_flipped_byte_is_no_crash(message, data):
    """CURVE would notice; a faulty program would not."""
    header = bytearray(encode(message)[1])
    header[data.draw(st.integers(0, len(header) - 1))] ^= data.draw(st.integers(1, 255))
    for decode in DIRECTIONS:
        with contextlib.suppress(MalformedMessage):
            decode([MAGIC + bytes([PROTOCOL]), bytes(header)])


# Versions ------------------------------------------------------------------------------


def test_a_coordinator_of_the_next_version_speaks_with_agents_of_this_one():
    """It is upgraded first; it answers each agent in the agent's own protocol."""
    decode = Decoder(m.ToCoordinator, oldest=PROTOCOL, newest=PROTOCOL + 1)
    for protocol in (PROTOCOL, PROTOCOL + 1):
        assert decode(encode(m.Goodbye(), protocol=protocol)) == (protocol, m.Goodbye(), None)
    answer = encode(m.HelloAgain(), protocol=PROTOCOL)
    assert to_agent()(answer) == (PROTOCOL, m.HelloAgain(), None)


@pytest.mark.parametrize(
    ("protocol", "age"), [(0, "too old"), (PROTOCOL + 1, "too new"), (255, "too new")]
)
def test_another_version_is_recognised_before_it_is_decoded(protocol, age):
    """Its body may be anything, and as many frames as it likes."""
    prefix = MAGIC + bytes([protocol])
    for frames in ([prefix], [prefix, b"\xc1"], [prefix, b"", b"", b"", b""]):
        with pytest.raises(ProtocolMismatch) as caught:
            to_coordinator()(frames)
        assert (caught.value.theirs, caught.value.age) == (protocol, age)
        assert "\n" not in str(caught.value)


def test_a_notice_is_read_by_every_version():
    """It says what is spoken, under a number that never changes, and is decoded by none."""
    frames = notice("2.0", oldest=3, newest=4)
    assert Decoder.protocol_of(frames) == NOTICE
    told = read_notice(frames)
    assert (told.oldest, told.newest, told.version) == (3, 4, "2.0")
    with pytest.raises(ProtocolMismatch):
        to_agent()(frames)


def test_a_notice_of_a_later_version_may_say_more():
    """Fields may be added, for ever."""
    body = {"oldest": 3, "newest": 4, "version": "2.0", "upgrade": ["here", {"x": 1}]}
    told = read_notice([MAGIC + b"\0", msgspec.msgpack.encode(body), b"and a frame"])
    assert (told.oldest, told.newest) == (3, 4)


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [MAGIC + b"\0"],
        [MAGIC + b"\0", b""],
        [MAGIC + b"\0", b"\xc1"],
        [MAGIC + b"\0", b"\x81\xa2\xff\xfe\x01"],
        [MAGIC + b"\0", b"\x81\xa7version\xa2\xff\xfe"],
        [MAGIC + b"\0", b"\x81\xa1z" + b"\x91" * 60_000],
        [MAGIC + b"\0", msgspec.msgpack.encode({"oldest": 1, "newest": 2})],
    ],
    ids=range(8),
)
def test_a_notice_that_is_none_is_malformed(frames):
    """And not a crash of the agent that reads it."""
    with pytest.raises(MalformedMessage):
        read_notice(frames)
