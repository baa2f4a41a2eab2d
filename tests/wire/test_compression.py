"""Compressed updates: read as base + change, part by part, and no trust in strangers."""

import os
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from flctl.errors import ParametersError
from flctl.settings import LocalTraining
from flctl.wire.compression import check_update, compression_metadata, open_update
from flctl.wire.parameters import SLICE, ParameterFile, dump, to_float

RNG = np.random.default_rng(5)
MODEL: dict[str, tuple[str, np.ndarray]] = {
    "d": ("F64", RNG.standard_normal(5)),
    "w": ("F32", RNG.standard_normal((2, SLICE)).astype(np.float32)),
    "h": ("F16", RNG.standard_normal(7).astype(np.float16)),
    "b": ("BF16", RNG.integers(0x3F00, 0x4000, 40).astype(np.uint16)),
    "steps": ("I64", np.arange(3)),
    "mask": ("BOOL", np.array([True, False])),
}
ORDER = ("d", "w", "b", "h")
"""Float tensors as a file has them: widest type first."""
FLAT = np.concatenate(
    [to_float(MODEL[n][1].reshape(-1), MODEL[n][0]).astype(np.float64) for n in ORDER]
)
ENDS = np.cumsum([MODEL[n][1].size for n in ORDER])
EXACT = np.frombuffer(np.array([7, 8, -9]).tobytes() + b"\x00\x01", np.uint8)
SCALES = np.array([0.5, 2.0, 0.25, 1.0], np.float32)
SHARE = 0.01
KEPT = -(-len(FLAT) // 100)


def stored(tensors: dict, metadata: Any = None, where: str = "update of pi-02") -> ParameterFile:
    fd = os.memfd_create(where)
    dump(fd, tensors, metadata)
    return ParameterFile(fd, where)


BASE = stored(MODEL, where="model")


def packed(kind: str) -> dict[str, tuple[str, np.ndarray]]:
    """The tensors of an update as an honest agent sends it."""
    common = {"scales": ("F32", SCALES), "exact": ("U8", EXACT)}
    n = len(FLAT)
    if kind == "int8":
        return common | {"values": ("I8", RNG.integers(-127, 128, n).astype(np.int8))}
    if kind == "fp16":
        return common | {"values": ("F16", RNG.uniform(-1, 1, n).astype(np.float16))}
    places = np.sort(RNG.choice(n, KEPT, replace=False)).astype(np.int32)
    values = RNG.uniform(-1, 1, KEPT).astype(np.float16)
    return common | {"values": ("F16", values), "indices": ("I32", places)}


def asked(kind: str) -> LocalTraining:
    return LocalTraining(compression=kind, topk_share=SHARE)


def opened(kind: str, tensors: dict):
    return open_update(stored(tensors, compression_metadata(kind)), BASE, asked(kind))


def expected(tensors: dict) -> np.ndarray:
    """base + scale · value, everything at once."""
    values = tensors["values"][1].astype(np.float64)
    change = np.zeros(len(FLAT))
    if "indices" in tensors:
        change[tensors["indices"][1]] = values
    else:
        change[:] = values
    return FLAT + change * np.repeat(SCALES.astype(np.float64), np.diff(ENDS, prepend=0))


KINDS = pytest.mark.parametrize("kind", ["fp16", "int8", "topk"])


@KINDS
def test_it_reads_as_the_base_and_the_change(kind: str):
    """In each tensor's own type; integers and booleans are exact."""
    tensors = packed(kind)
    update = opened(kind, tensors)
    assert update.specs == BASE.specs
    parts = np.split(expected(tensors), ENDS[:-1])
    for spec in update.specs:
        found = update.read(spec)
        if spec.name in ORDER:
            wanted = parts[ORDER.index(spec.name)]
            digits = {"F64": 1e-15, "F32": 1e-7, "F16": 1e-3, "BF16": 1e-2}[spec.dtype]
            np.testing.assert_allclose(to_float(found, spec.dtype), wanted, digits, digits)
    read = {spec.name: update.read(spec).tolist() for spec in update.specs}
    assert read["steps"] == [7, 8, -9] and read["mask"] == [False, True]
    check_update(stored(tensors, compression_metadata(kind)), BASE, asked(kind))


NAMED = stored(MODEL, {"buffers": ["b", "steps", "gone"]}, "a model that names its buffers")
LEARNED = ("d", "w", "h")


@KINDS
@pytest.mark.parametrize("claimed", [{}, {"buffers": []}, {"buffers": ["w", "d", "h", "b"]}])
def test_what_the_model_names_as_buffers_is_exact(kind: str, claimed: dict):
    """Whatever the update itself says of them."""
    tensors, n = packed(kind), sum(MODEL[name][1].size for name in LEARNED)
    halves = RNG.integers(0x3F00, 0x4000, 40).astype(np.uint16)
    bits = np.frombuffer(np.array([7, 8, -9]).tobytes() + halves.tobytes() + b"\x00\x01", np.uint8)
    tensors |= {"scales": ("F32", SCALES[:3]), "exact": ("U8", bits)}
    tensors["values"] = (tensors["values"][0], tensors["values"][1][:n])
    if kind == "topk":
        kept = -(-n // 100)
        tensors["values"] = ("F16", tensors["values"][1][:kept])
        tensors["indices"] = ("I32", np.arange(kept, dtype=np.int32))
    file = stored(tensors, claimed | compression_metadata(kind))
    check_update(file, NAMED, asked(kind))
    update = open_update(file, NAMED, asked(kind))
    found = {spec.name: update.read(spec) for spec in update.specs}
    assert found["b"].tolist() == halves.tolist()
    assert found["steps"].tolist() == [7, 8, -9] and found["mask"].tolist() == [False, True]
    assert not np.array_equal(found["d"], MODEL["d"][1])


@KINDS
def test_an_update_of_the_first_form_has_statistics_among_its_weights(kind: str):
    """As an agent of version 0.1 sends it; where a model names no buffers both are the same."""
    tensors = packed(kind)
    old = open_update(stored(tensors, compression_metadata(kind, 1)), NAMED, asked(kind))
    new = open_update(stored(tensors, compression_metadata(kind)), BASE, asked(kind))
    for spec in BASE.specs:
        np.testing.assert_array_equal(old.read(spec), new.read(spec))


def test_buffers_that_are_not_numbers_are_refused():
    """They travel as bytes, and are looked at as what they are."""
    tensors = packed("int8")
    bits = EXACT[:24].tobytes() + np.full(40, 0x7FC0, np.uint16).tobytes() + EXACT[24:].tobytes()
    tensors |= {"scales": ("F32", SCALES[:3]), "exact": ("U8", np.frombuffer(bits, np.uint8))}
    tensors["values"] = ("I8", tensors["values"][1][:-40])
    with pytest.raises(ParametersError, match="tensor b holds NaN or infinite numbers"):
        check_update(stored(tensors, compression_metadata("int8")), NAMED, asked("int8"))


@pytest.mark.parametrize("damaged", ["b", 3, [1], {"b": 1}])
def test_a_damaged_list_of_buffers_is_one_line(damaged: Any):
    base = stored(MODEL, {"buffers": damaged}, "the model")
    with pytest.raises(ParametersError, match="the model: its list of buffers is damaged"):
        check_update(stored(packed("int8"), compression_metadata("int8")), base, asked("int8"))


WHOLE = {kind: opened(kind, packed(kind)) for kind in ("fp16", "int8", "topk")}
CONTENT = {
    kind: {spec: update.read(spec) for spec in update.specs} for kind, update in WHOLE.items()
}


@settings(deadline=None)
@given(data=st.data(), kind=st.sampled_from(["fp16", "int8", "topk"]))
def test_any_part_is_that_part_of_the_whole(data: st.DataObject, kind: str):
    """Slices of all lengths, over the borders of blocks, in any order."""
    spec = data.draw(st.sampled_from(BASE.specs))
    start = data.draw(st.integers(0, spec.count))
    count = data.draw(st.integers(0, spec.count - start))
    part = WHOLE[kind].read(spec, start, count)
    assert part.tobytes() == CONTENT[kind][spec][start : start + count].tobytes()


def changed(name: str, dtype: str | None = None, at: int = 0, to: Any = None, cut: int = 0):
    """An update whose tensor `name` has another type, another value or another length."""

    def change(tensors: dict) -> dict:
        kind, array = tensors[name]
        array = array[: len(array) - cut].copy()
        if to is not None:
            array[at] = to
        return {**tensors, name: (dtype or kind, array)}

    return change


def swapped(tensors: dict) -> dict:
    places = tensors["indices"][1].copy()
    places[[3, 4]] = places[[4, 3]]
    return {**tensors, "indices": ("I32", places)}


def wrapped(tensors: dict) -> dict:
    """From the largest to the smallest index is a step of 1, for 32 bits."""
    places = tensors["indices"][1].copy()
    places[-2:] = [2**31 - 1, -(2**31)]
    return {**tensors, "indices": ("I32", places)}


NAN16 = np.array([0x7FFF], np.uint16).view(np.float16)[0]


@pytest.mark.parametrize(
    ("kind", "change", "says"),
    [
        ("topk", changed("indices", at=0, to=-1), "indices are not ascending"),
        ("topk", changed("indices", at=-1, to=len(FLAT)), "indices are not ascending"),
        ("topk", changed("indices", at=5, to=0), "indices are not ascending"),
        ("topk", swapped, "indices are not ascending"),
        ("topk", wrapped, "indices are not ascending"),
        ("topk", changed("indices", "I64"), "indices I64"),
        ("topk", changed("indices", cut=1), "this model's topk update has indices I32"),
        ("topk", changed("values", cut=1), "this model's topk update has values F16"),
        ("topk", changed("values", at=9, to=np.inf), "values holds NaN or infinite"),
        ("topk", changed("values", at=9, to=NAN16), "values holds NaN or infinite"),
        ("topk", lambda t: {n: t[n] for n in t if n != "indices"}, "indices is missing"),
        ("fp16", changed("values", at=9, to=np.nan), "values holds NaN or infinite"),
        ("fp16", changed("values", "F32"), "values F32"),
        ("int8", changed("values", "U8"), "values U8"),
        ("int8", changed("values", cut=1), "this model's int8 update has values I8"),
        ("int8", changed("scales", at=1, to=np.nan), "a scale is not a finite number"),
        ("int8", changed("scales", at=1, to=np.inf), "a scale is not a finite number"),
        ("int8", changed("scales", at=1, to=-1), "below 0"),
        ("int8", changed("scales", cut=1), "scales F32[3]"),
        ("int8", changed("scales", at=3, to=1e38), "tensor h holds NaN or infinite"),
        ("int8", changed("scales", at=2, to=3e38), "tensor b holds NaN or infinite"),
        ("int8", changed("scales", at=1, to=3e38), "tensor w holds NaN or infinite"),
        ("int8", changed("exact", cut=1), "exact U8[25]"),
        ("int8", changed("exact", at=-1, to=2), "tensor mask holds bytes that are neither"),
        ("int8", lambda t: {**t, "more": ("U8", np.zeros(1, "u1"))}, "tensor more is not in"),
        ("int8", lambda t: MODEL, "scales is missing"),
    ],
)
def test_what_a_compressed_update_must_not_be(kind: str, change, says: str):
    """It is refused by the check before it counts, with the agent and what is wrong."""
    file = stored(change(packed(kind)), compression_metadata(kind))
    with pytest.raises(ParametersError) as caught:
        check_update(file, BASE, asked(kind))
    assert str(caught.value).startswith("update of pi-02: ") and says in str(caught.value)


@pytest.mark.parametrize(
    ("sent", "wanted", "says"),
    [
        ({}, "int8", "is not compressed, the run asks for int8"),
        ({"compression": "none"}, "topk", "is compressed as 'none', the run asks for topk"),
        ({"compression": "int8", "version": 1}, "none", "as 'int8', the run asks for none"),
        ({"compression": "int8", "version": 1}, "fp16", "as 'int8', the run asks for fp16"),
        ({"compression": "int8", "version": 3}, "int8", "compression of version 3, not 2 or 1"),
        ({"compression": "int8"}, "int8", "compression of version None, not 2 or 1"),
        ({"compression": ["int8\n"] * 999}, "int8", "is compressed as ['int8\\n', "),
    ],
)
def test_another_kind_than_was_asked_for(sent: dict, wanted: str, says: str):
    """Plain when the run asks for compressed updates, the reverse, and another form."""
    file = stored(MODEL if not sent else packed("int8"), sent)
    with pytest.raises(ParametersError) as caught:
        check_update(file, BASE, asked(wanted))
    assert says in str(caught.value) and len(str(caught.value)) < 150


def test_a_plain_update_is_read_as_it_is():
    file = stored(MODEL)
    assert open_update(file, BASE, asked("none")) is file
    check_update(file, BASE, asked("none"))


def written(kind: str) -> bytes:
    file = stored(packed(kind), compression_metadata(kind))
    return os.pread(file.fd, file.size, 0)


BYTES = {kind: written(kind) for kind in ("fp16", "int8", "topk")}


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    kind=st.sampled_from(["fp16", "int8", "topk"]),
    edits=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=8)), max_size=6),
    cut=st.integers(0, 3),
)
@example(kind="topk", edits=[(1.0, b"\xff\xff\xff\x7f")], cut=0)
def test_noise_is_refused_or_has_finite_numbers(kind: str, edits: list, cut: int):
    """Whatever bytes come: a ParametersError, or a model that can be averaged."""
    data = bytearray(BYTES[kind])
    for place, noise in edits:
        # Half of the edits fall into the header, which is short.
        at = int(place * 2 * 600) if place < 0.5 else int((place - 0.5) * 2 * len(data))
        data[at : at + len(noise)] = noise
    fd = os.memfd_create("noise")
    try:
        os.write(fd, data[: len(data) - cut])
        file = ParameterFile(fd, "update of pi-02")
        check_update(file, BASE, asked(kind))
        update = open_update(file, BASE, asked(kind))
        for spec in update.specs:
            if spec.name in ORDER:
                assert np.isfinite(to_float(update.read(spec), spec.dtype)).all()
    except ParametersError:
        pass
    finally:
        os.close(fd)


@KINDS
def test_memory_is_that_of_a_part(kind: str):
    """Also where all that is sent of a model of 16 MB lies in one place."""
    numbers = 4_000_000
    base = stored({"w": ("F32", np.zeros(numbers, np.float32))})
    training = LocalTraining(compression=kind, topk_share=0.01)
    tensors: dict[str, tuple[str, np.ndarray]] = {
        "scales": ("F32", np.ones(1, "f4")),
        "exact": ("U8", np.zeros(0, "u1")),
        "values": ("I8", np.ones(numbers, "i1")) if kind == "int8" else
        ("F16", np.ones(40_000 if kind == "topk" else numbers, "f2")),
    }  # fmt: skip
    if kind == "topk":
        tensors["indices"] = "I32", np.arange(40_000, dtype="i4")
    file = stored(tensors, compression_metadata(kind))
    tracemalloc.start()
    try:
        check_update(file, base, training)
        assert tracemalloc.get_traced_memory()[1] < 3e6
    finally:
        tracemalloc.stop()
