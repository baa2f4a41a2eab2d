"""Lines that seal the lines before them."""

import hashlib

import pytest

from flctl.core.chain import Chain, is_head, split, verify, whole_lines

BODIES = [b'{"n":%d,"text":"\\",\\"chain\\":\\""}' % n for n in range(6)]


def chained(bodies=BODIES) -> list[bytes]:
    chain = Chain()
    return [chain.seal(body) + b"\n" for body in bodies]


def test_a_line_carries_the_hash_of_all_before_it():
    """Anyone can check it with sha256 alone."""
    head = ""
    for body, line in zip(BODIES, chained(), strict=True):
        head = hashlib.sha256(head.encode() + body).hexdigest()
        assert line == body[:-1] + b',"chain":"' + head.encode() + b'"}\n'
        assert split(line.rstrip()) == (body, head)


def test_whole_lines_have_no_fault():
    """The verdict names the last line's chain, which is the head."""
    found = verify(chained())
    assert (found.lines, found.broken_at, found.fault, found.chained) == (6, None, None, True)
    assert found.head.encode() in chained()[-1]
    assert verify([]).lines == 0 and verify([]).fault is None


@pytest.mark.parametrize("number", range(1, 7))
def test_a_changed_line_is_named(number):
    """Also the last one, for which no later line vouches; it is one break, not all that follow."""
    lines = chained()
    lines[number - 1] = lines[number - 1].replace(b'"n":', b'"n":1')
    found = verify(lines)
    assert (found.broken_at, found.breaks) == (number, 1)
    assert f"line {number}:" in (found.fault or "")


@pytest.mark.parametrize("number", range(1, 6))
def test_a_removed_an_added_and_an_exchanged_line_are_named(number):
    """The break is where the line is missing, or stands."""
    lines = chained()
    assert verify(lines[: number - 1] + lines[number:]).broken_at == number
    assert verify([*lines[:number], b'{"n":9}\n', *lines[number:]]).broken_at == number + 1
    assert verify([*lines[:number], lines[number - 1], *lines[number:]]).broken_at == number + 1
    lines[number - 1 : number + 1] = lines[number - 1 : number + 1][::-1]
    assert verify(lines).broken_at == number


def test_a_line_without_a_chain_after_one_with_it_is_a_break():
    """Else taking the chain away would take the proof away."""
    lines = chained()
    assert verify([*lines, b'{"n":7}\n']).broken_at == 7
    assert verify([*lines[:3], *(split(li.rstrip())[0] + b"\n" for li in lines[3:])]).broken_at == 4


def test_a_chain_that_was_computed_again_is_found_by_a_head_that_was_kept():
    """By nothing else: all of it follows from what is there."""
    kept = verify(chained()[:4]).head
    again = chained([b'{"n":99}', *BODIES[1:]])
    assert verify(again).fault is None
    assert verify(again, kept).kept_at is None
    assert verify(chained(), kept).kept_at == 4
    assert verify(chained()[:3], kept).kept_at is None  # lines were cut off at the end


def test_lines_without_a_chain_are_vouched_for_by_those_that_follow():
    """A file that an older version began."""
    chain = Chain()
    for body in BODIES[:3]:
        chain.follow(body + b"\n")
    assert (chain.chained, chain.fault) == (False, None)
    lines = [body + b"\n" for body in BODIES[:3]] + [chain.seal(b'{"n":3}') + b"\n"]
    assert (verify(lines).unchained, verify(lines).fault) == (3, None)
    lines[1] = b'{"n":8}\n'
    assert verify(lines).broken_at == 4


def test_a_torn_last_line_is_left_out_and_other_damage_is_numbered():
    """A power cut leaves half a line, or zeros."""
    lines = chained()
    assert list(whole_lines([*lines, b'{"n":7'])) == lines
    assert list(whole_lines([*lines, b"\0" * 30])) == lines
    assert list(whole_lines([*lines, b"\0" * 30 + b"\n"])) == lines
    with pytest.raises(ValueError, match=r"^line 7: "):
        list(whole_lines([*lines, b"\0" * 30 + b"\n", *lines]))


@pytest.mark.parametrize(
    ("text", "it_is"), [("a" * 64, True), ("A" * 64, False), ("a" * 63, False), ("é" * 64, False)]
)
def test_a_head_is_64_digits(text, it_is):
    """As sha256sum prints them."""
    assert is_head(text) is it_is
