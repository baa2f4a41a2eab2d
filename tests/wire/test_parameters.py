"""Parameter files: the same format as the safetensors library, and no trust in strangers."""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from flctl.errors import ParametersError
from flctl.wire.parameters import (
    HEADER_LIMIT,
    SLICE,
    STORAGE,
    ParameterFile,
    ParameterWriter,
    TensorSpec,
    canonical,
    check,
    dump,
    from_float64,
    to_float,
)

TORCH = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@contextmanager
def opened(data: bytes) -> Iterator[ParameterFile]:
    """A parameter file in memory, from its bytes."""
    fd = os.memfd_create("test")
    try:
        os.write(fd, data)
        yield ParameterFile(fd, "update of pi-03")
    finally:
        os.close(fd)


def dumped(tensors, metadata=None) -> bytes:
    fd = os.memfd_create("test")
    try:
        digest, size = dump(fd, tensors, metadata)
        data = os.pread(fd, size + 1, 0)
    finally:
        os.close(fd)
    assert (hashlib.sha256(data).hexdigest(), len(data)) == (digest, size)
    return data


def with_header(header: bytes | dict, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def entry(dtype="F32", shape=(1,), offsets=(0, 4)) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def a_tensor_of_each_type() -> dict[str, torch.Tensor]:
    numbers = torch.arange(-6, 6).reshape(3, 4)
    return {f"layer.{name}": numbers.to(dtype) for name, dtype in TORCH.items()} | {
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "ünï.côde": torch.ones(2, dtype=torch.bfloat16),
    }


def test_what_the_library_writes_is_read_here():
    """Every type, a scalar, an empty tensor, a name outside ASCII."""
    tensors = a_tensor_of_each_type()
    with opened(safetensors.torch.save(tensors)) as file:
        assert {s.name: s.shape for s in file.specs} == {n: t.shape for n, t in tensors.items()}
        for spec in file.specs:
            theirs = tensors[spec.name].contiguous().reshape(-1)
            assert TORCH[spec.dtype] is theirs.dtype
            if spec.count:
                assert file.read(spec).tobytes() == bytes(theirs.view(torch.uint8).numpy())


def test_what_is_written_here_the_library_reads(tmp_path):
    """With its lazy reader, which torch and everybody else uses."""
    tensors = a_tensor_of_each_type()
    plain = {}
    for name, tensor in tensors.items():
        dtype = next(d for d, t in TORCH.items() if t is tensor.dtype)
        raw = tensor.view(torch.uint16) if dtype == "BF16" else tensor
        plain[name] = (dtype, raw.numpy())
    path = tmp_path / "model.safetensors"
    path.write_bytes(dumped(plain, {"task": "ecg", "n": [1, 2]}))
    with safetensors.safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["flctl"]) == {"task": "ecg", "n": [1, 2]}
        assert set(file.keys()) == set(tensors)
        for name, tensor in tensors.items():
            assert torch.equal(file.get_tensor(name), tensor)


def test_the_same_model_is_the_same_bytes():
    """Whatever the order in which tensors and metadata were named."""
    a, b = np.ones(3, np.float32), np.arange(4)
    one = dumped({"a": ("F32", a), "b": ("I64", b)}, {"x": 1, "y": {"p": 1, "q": 2}})
    two = dumped({"b": ("I64", b), "a": ("F32", a)}, {"y": {"q": 2, "p": 1}, "x": 1})
    assert one == two
    with opened(one) as file:
        assert file.metadata == {"x": 1, "y": {"p": 1, "q": 2}}
        again = {s.name: (s.dtype, file.read(s).reshape(s.shape)) for s in file.specs}
    assert dumped(again, {"x": 1, "y": {"p": 1, "q": 2}}) == one


def test_wide_types_come_first_and_every_tensor_is_aligned():
    """So that whoever maps the file gets aligned numbers."""
    specs = [TensorSpec(d, d, (3,)) for d in ("BOOL", "F16", "F32", "I64", "U8", "F64", "BF16")]
    assert [s.name for s in canonical(specs)] == ["F64", "I64", "F32", "BF16", "F16", "BOOL", "U8"]
    data = dumped({s.name: (s.dtype, np.zeros(3, STORAGE[s.dtype])) for s in specs})
    length = int.from_bytes(data[:8], "little")
    assert length % 8 == 0
    for dtype, entry in json.loads(data[8 : 8 + length]).items():
        assert (8 + length + entry["data_offsets"][0]) % STORAGE[dtype].itemsize == 0


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.text(max_size=8).filter(lambda name: name != "__metadata__" and name.isprintable()),
        st.tuples(st.sampled_from(sorted(STORAGE)), st.lists(st.integers(0, 5), max_size=3)),
        max_size=6,
    ),
    st.integers(0, 2**32 - 1),
)
def test_everything_that_is_written_is_read_back(shapes, seed):
    """Names, types, shapes and bytes, also in slices."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, (dtype, shape) in shapes.items():
        numbers = rng.integers(0, 2, shape)
        tensors[name] = (dtype, numbers.astype(STORAGE[dtype]))
    with opened(dumped(tensors)) as file:
        assert [s.name for s in file.specs] == [s.name for s in canonical(file.specs)]
        assert set(shapes) == {s.name for s in file.specs}
        check(file, file.specs)
        for spec in file.specs:
            array = tensors[spec.name][1].reshape(-1)
            assert spec.shape == tuple(shapes[spec.name][1])
            np.testing.assert_array_equal(file.read(spec), array)
            middle = spec.count // 2
            np.testing.assert_array_equal(file.read(spec, middle), array[middle:])
            np.testing.assert_array_equal(file.read(spec, 0, middle), array[:middle])


# What a stranger sends -----------------------------------------------------------------

GOOD = with_header({"w": entry()}, b"\0\0\0\0")
HOSTILE = {
    "nothing": b"",
    "a few bytes": b"\x02\0\0\0\0\0\0\0{",
    "a header of 2^63 bytes": b"\xff" * 7 + b"\x7f{}",
    "a header longer than the file": (1000).to_bytes(8, "little") + b"{}" * 20,
    "no header": b"\0" * 100,
    "a header over the limit": with_header(b"{" + b" " * HEADER_LIMIT + b"}"),
    "not JSON": with_header(b"safetensors"),
    "not an object": with_header(b'["w"]'),
    "not UTF-8": with_header(b'{"\xff\xfe": 1}'),
    "not UTF-8 in a type": with_header(b'{"w":{"dtype":"\xff","shape":[],"data_offsets":[0,4]}}'),
    "half a surrogate": with_header(b'{"\\ud800":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}'),
    "nested JSON": with_header(b'{"w":' + b"[" * 200_000),
    "nested metadata": with_header(b'{"__metadata__":{"a":' + b'{"a":' * 100_000),
    "nested metadata of ours": with_header({"__metadata__": {"flctl": '{"a":' + "[" * 100_000}}),
    "metadata of ours that are no object": with_header({"__metadata__": {"flctl": "[1]"}}),
    "metadata that are no object": with_header({"__metadata__": 1}),
    "metadata of numbers": with_header({"__metadata__": {"a": 1}}),
    "an unknown type": with_header({"w": entry("F8_E4M3", (4,))}, b"\0" * 4),
    "an enormous type": with_header({"w": entry("F" * 1000)}, b"\0" * 4),
    "an unknown field of two lines": with_header({"w": entry() | {"x\ny": 1}}, b"\0" * 4),
    "an unknown field of 1 MB": with_header({"w": entry() | {"x" * 10**6: 1}}, b"\0" * 4),
    "an unknown field": with_header({"w": entry() | {"x": 1}}, b"\0" * 4),
    "a missing field": with_header({"w": {"dtype": "F32", "shape": [1]}}, b"\0" * 4),
    "a negative shape": with_header({"w": entry(shape=(-1,))}, b"\0" * 4),
    "two negative dimensions": with_header({"w": entry(shape=(-1, -1))}, b"\0" * 4),
    "a fraction as shape": with_header({"w": entry(shape=(1.5,))}, b"\0" * 4),
    "a giant shape": with_header({"w": entry(shape=(2**62,))}, b"\0" * 4),
    "a shape that wraps to 4 bytes": with_header({"w": entry(shape=(2**40,) * 8)}, b"\0" * 4),
    "a thousand dimensions": with_header({"w": entry(shape=(1,) * 1000)}, b"\0" * 4),
    "negative offsets": with_header({"w": entry(offsets=(-4, 0))}, b"\0" * 4),
    "offsets the wrong way round": with_header({"w": entry(offsets=(4, 0))}, b"\0" * 4),
    "offsets of 2^70": with_header({"w": entry(offsets=(0, 2**70))}, b"\0" * 4),
    "offsets beyond the end": with_header({"w": entry(offsets=(4, 8))}, b"\0" * 4),
    "three offsets": with_header({"w": entry(offsets=(0, 4, 4))}, b"\0" * 4),
    "overlapping tensors": with_header({"a": entry(), "b": entry()}, b"\0" * 4),
    "half overlapping tensors": with_header({"a": entry(), "b": entry(offsets=(2, 6))}, b"\0" * 6),
    "a hole": with_header({"a": entry(), "b": entry(offsets=(8, 12))}, b"\0" * 12),
    "a tail": GOOD + b"\0",
    "a truncated body": GOOD[:-1],
    "a name of 2 MB": with_header({"w" * 2_000_000: entry()}, b"\0" * 4),
    "a name of two lines": with_header({"w\nERROR all is lost": entry()}, b"\0" * 4),
    "200,000 tensors": with_header(b"{" + b",".join(b'"%d":0' % n for n in range(200_000)) + b"}"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_file_is_one_clear_line(what):
    """It names its sender, quickly, and never needs the memory that its header claims."""
    began = time.process_time()
    with pytest.raises(ParametersError) as caught, opened(HOSTILE[what]):
        pass
    text = str(caught.value)
    assert text.startswith("update of pi-03: ") and "\n" not in text and len(text) < 600
    assert time.process_time() - began < 2.0


def test_a_duplicate_name_cannot_hide_a_tensor():
    """The last one counts, and its offsets must cover the file."""
    one = json.dumps(entry())
    both = f'{{"w":{json.dumps(entry("F64", (1,), (0, 8)))},"w":{one}}}'.encode()
    with pytest.raises(ParametersError), opened(with_header(both, b"\0" * 8)):
        pass
    with opened(with_header(both, b"\0" * 4)) as file:
        assert file.specs == (TensorSpec("w", "F32", (1,)),)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=200), st.booleans())
@example(b"{}", True)
def test_random_bytes_are_refused_in_words(noise, framed):
    """Anything at all, and anything at all where the header should be."""
    try:
        with opened(with_header(noise) if framed else noise) as file:
            assert file.specs == ()
    except ParametersError:
        pass


integers = st.integers(-5, 20) | st.sampled_from([2**31, 2**40, 2**63, 2**64, 2**80, -(2**63)])
leaves = st.none() | st.booleans() | integers | st.floats(allow_nan=False) | st.text(max_size=5)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*STORAGE, "F8", ""]) | leaves,
        "shape": st.lists(integers, max_size=4) | leaves,
        "data_offsets": st.lists(integers, min_size=2, max_size=2) | leaves,
    },
    optional={"extra": leaves},
)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.sampled_from(["a", "b", "c", "__metadata__"]), entries | leaves | st.just(entry())
    ),
    st.integers(0, 12),
)
def test_random_headers_are_refused_or_make_sense(header, length):
    """A file that is let in has bytes for every number that it claims, and no others."""
    try:
        with opened(with_header(header, b"\0" * length)) as file:
            assert sum(spec.nbytes for spec in file.specs) == length
            for spec in file.specs:
                assert file.read(spec).nbytes == spec.nbytes
    except ParametersError as error:
        assert "\n" not in str(error)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_flipped_byte_or_a_torn_end_is_no_crash(data):
    """A file that was damaged on its way."""
    whole = dumped({"w": ("F32", np.ones(3, np.float32)), "n": ("I64", np.arange(2))}, {"t": 1})
    place = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        damaged = whole[:place]
    else:
        byte = whole[place] ^ data.draw(st.integers(1, 255))
        damaged = whole[:place] + bytes([byte]) + whole[place + 1 :]
    try:
        with opened(damaged) as file:
            check(file, file.specs)
    except ParametersError:
        pass


def test_a_file_that_shrinks_while_it_is_read_names_the_tensor(tmp_path):
    """Another process has truncated it."""
    path = tmp_path / "model"
    path.write_bytes(dumped({"w": ("F32", np.ones(100, np.float32))}))
    with path.open("rb+") as handle:
        file = ParameterFile(handle.fileno(), "model")
        handle.truncate(200)
        with pytest.raises(ParametersError, match="model: ends within tensor w"):
            file.read(file.specs[0])


# Does it fit the model? ----------------------------------------------------------------

MODEL = {
    "bias": ("F32", np.zeros(4, np.float32)),
    "steps": ("I64", np.zeros((), np.int64)),
    "weight": ("F32", np.zeros((2, 3), np.float32)),
}


def problem(change: dict) -> str:
    with (
        opened(dumped(MODEL)) as model,
        opened(dumped({**MODEL, **change})) as update,
        pytest.raises(ParametersError) as caught,
    ):
        check(update, model.specs)
    return str(caught.value)


def test_an_update_that_fits_is_let_through():
    """The same tensors with other numbers."""
    other = {name: (d, array + array.dtype.type(1)) for name, (d, array) in MODEL.items()}
    with opened(dumped(MODEL)) as model, opened(dumped(other)) as update:
        check(update, model.specs)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"bias": ("F32", np.zeros(5, np.float32))}, "bias F32[5], the model has bias F32[4]"),
        ({"bias": ("F64", np.zeros(4))}, "tensor bias F64[4], the model has bias F32[4]"),
        ({"weight": ("F32", np.zeros((3, 2), np.float32))}, "weight F32[3, 2], the model has"),
        ({"more": ("F32", np.zeros(1, np.float32))}, "tensor more is not in the model"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(change, says):
    """With what it is and what it should be."""
    assert says in problem(change)


def test_a_missing_tensor_is_named():
    """Half a model is no update."""
    with (
        opened(dumped(MODEL)) as model,
        opened(dumped({"bias": MODEL["bias"]})) as update,
        pytest.raises(ParametersError, match="update of pi-03: tensor steps is missing"),
    ):
        check(update, model.specs)


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, SLICE - 1, SLICE, SLICE + 9])
def test_numbers_that_are_none_are_found_wherever_they_are(dtype, bad, place):
    """At the start, the end and the border of a slice; and the tensor is named."""
    numbers = np.zeros(SLICE + 10)
    numbers[place] = bad
    with (
        opened(dumped({"w": (dtype, of(numbers, dtype))})) as file,
        pytest.raises(ParametersError, match="tensor w holds NaN or infinite numbers"),
    ):
        check(file, file.specs)


def of(numbers: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "BF16":
        return (numbers.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return numbers.astype(STORAGE[dtype])


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16"])
def test_numbers_whose_sum_overflows_are_still_numbers(dtype):
    """The quick look at the sum is not the last word."""
    top = np.full(1000, np.finfo(STORAGE[dtype]).max, STORAGE[dtype])
    with opened(dumped({"w": (dtype, top)})) as file:
        check(file, file.specs)


def test_a_boolean_is_zero_or_one():
    """Other bytes mean something else to every library."""
    data = dumped({"mask": ("BOOL", np.ones(3, bool))})
    with (
        opened(data[:-1] + b"\x02") as file,
        pytest.raises(ParametersError, match="mask holds bytes that are neither 0 nor 1"),
    ):
        check(file, file.specs)


# Writing -------------------------------------------------------------------------------


def test_a_writer_that_was_not_fed_to_the_end_says_so():
    """A file with a hole in it never gets a digest."""
    fd = os.memfd_create("test")
    writer = ParameterWriter(fd, [TensorSpec("w", "F32", (10,))])
    writer.write(np.zeros(9, np.float32))
    with pytest.raises(ParametersError, match=r"wrote \d+ of \d+ bytes"):
        writer.finish()
    os.close(fd)


def test_slices_of_any_size_make_the_same_file():
    """Also arrays that are not contiguous."""
    numbers = np.arange(1000, dtype=np.float32)
    whole = dumped({"w": ("F32", numbers)})
    fd = os.memfd_create("test")
    writer = ParameterWriter(fd, [TensorSpec("w", "F32", (1000,))])
    for start in range(0, 1000, 7):
        writer.write(np.repeat(numbers[start : start + 7], 2)[::2])
    assert writer.finish() == (hashlib.sha256(whole).hexdigest(), len(whole))
    os.close(fd)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(-(2.0**126), 2.0**126, width=32), min_size=1, max_size=20))
@example([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 1 + 2**-8 + 2**-20, 1 + 2**-8 - 2**-20])
def test_bfloat16_is_rounded_like_torch_does(numbers):
    """To nearest, ties to even; and every bfloat16 is read exactly."""
    array = np.array(numbers, np.float64)
    bits = from_float64(array, "BF16")
    theirs = torch.tensor(array, dtype=torch.float32).to(torch.bfloat16)
    np.testing.assert_array_equal(bits, theirs.view(torch.uint16).numpy())
    np.testing.assert_array_equal(to_float(bits, "BF16"), theirs.float().numpy())


def test_a_file_is_not_mapped_into_memory(tmp_path):
    """A mapped update would count as memory for every agent of the round."""
    path = tmp_path / "unmapped-model"
    path.write_bytes(dumped({"w": ("F32", np.zeros(5000, np.float32))}))
    with path.open("rb") as handle:
        file = ParameterFile(handle.fileno(), "model")
        array = file.read(file.specs[0], 10, 5)
        assert array.base is None
        assert path.name not in Path("/proc/self/maps").read_text()


def test_a_file_in_memory_is_the_same_file(tmp_path: Path):
    """Bytes, digest and tensors; of one that is cut off, the error too."""
    tensors = {
        "w": ("F32", np.arange(12, dtype=np.float32).reshape(3, 4)),
        "n": ("I64", np.array(7)),
    }
    memory, path = bytearray(), tmp_path / "file"
    with path.open("w+b") as file:
        assert dump(memory, tensors, {"task": "x"}) == dump(file.fileno(), tensors, {"task": "x"})
        assert path.read_bytes() == memory
        for source in (memory, bytes(memory), memoryview(memory)):
            found = ParameterFile(source, "it")
            assert found.size == len(memory) and found.metadata == {"task": "x"}
            for spec in found.specs:
                on_disk = ParameterFile(file.fileno(), "it").read(spec)
                assert np.array_equal(found.read(spec), on_disk)
            part = found.read(found.specs[-1], 5, 3)
            part += 1  # it is the reader's own
            assert part.tolist() == [6, 7, 8] and found.read(found.specs[-1], 5, 1) == 5
    for short in (memory[:4], memory[:-1]):
        with pytest.raises(ParametersError, match=r"^it: "):
            ParameterFile(short, "it")
