"""Whatever is done to the bytes of a message or a file: it is read, or refused in one line."""

import pytest
from decoders import TABLE, Decodes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flctl.errors import FlctlError

QUIET = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
NUMBERS = (b"-1", b"9" * 30, b"1e400", b"NaN", b"null", b"0.5", b"true", b'"x"', b"\xff", b"\0")
DEEP = (b"[" * 3000, b'{"a":' * 3000, b"\x91" * 3000, b"\x81\xa1a" * 3000, b"((" * 2000)


@st.composite
def damage(draw: st.DrawFn, good: bytes) -> bytes:
    """A few places flipped, cut, doubled, replaced by a number, or nested deep."""
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        span = draw(st.integers(0, 12))
        match draw(st.sampled_from(["flip", "cut", "double", "put", "number", "deep", "end"])):
            case "flip" if data:
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del data[at : at + span]
            case "double":
                data[at:at] = data[at : at + 10 * span]
            case "put":
                data[at : at + span] = draw(st.binary(max_size=12))
            case "number":
                data[at : at + span] = draw(st.sampled_from(NUMBERS))
            case "deep":
                data[at:at] = draw(st.sampled_from(DEEP))
            case "end":
                del data[at:]
    return bytes(data)


@pytest.mark.parametrize("decodes", TABLE, ids=lambda decodes: decodes.name)
def test_the_example_is_good(decodes: Decodes):
    """Or the tests below would say nothing."""
    try:
        decodes.read(decodes.good())
    except FlctlError as error:
        # A token that nobody has, a share whose file is not there: read to its end.
        assert "token is wrong" in str(error), error


@pytest.mark.parametrize("decodes", TABLE, ids=lambda decodes: decodes.name)
def test_damage_is_read_or_refused_in_one_line(decodes: Decodes):
    """Never another exception, never two lines, never a line that steers a terminal."""
    good = decodes.good()

    @settings(max_examples=12 if decodes.slow else 80, deadline=None, suppress_health_check=QUIET)
    @given(damage(good) | st.binary(max_size=64))
    def read(data: bytes) -> None:
        try:
            decodes.read(data)
        except FlctlError as error:
            assert str(error).isprintable(), repr(str(error))

    read()
