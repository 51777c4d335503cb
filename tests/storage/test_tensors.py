from __future__ import annotations

import json
import tracemalloc
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keras_tl.storage import tensors

FLOAT8 = ["float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "float8_e4m3fnuz", "float8_e5m2fnuz"]
NATIVE = ["bool", "complex64", "float16", "float32", "float64"] + [
    f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
]


def bits(array: np.ndarray) -> bytes:
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
    name = draw(st.sampled_from([*NATIVE, "bfloat16", *FLOAT8]))
    dtype = np.dtype(name if name in NATIVE else getattr(ml_dtypes, name))
    raw = draw(st.binary(min_size=64, max_size=64)) * (5**4 * 8 // 64 + 1)
    count = int(np.prod(shape)) * dtype.itemsize
    flat = np.frombuffer(raw[:count], "uint8")
    array = (flat & 1 if name == "bool" else flat).view(dtype).reshape(shape)
    if name in NATIVE and draw(st.booleans()):
        array = array.astype(array.dtype.newbyteorder(">"))
    if draw(st.booleans()):
        array = array.T
    if array.ndim and draw(st.booleans()):
        array = array[::-1]
    return array


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(
    lambda name: name != "__metadata__"
)
bundles = st.dictionaries(names, arrays(), max_size=5)


def pack(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(shape: Any, begin: Any, end: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@given(bundles)
def test_round_trip_keeps_every_bit(bundle: dict[str, np.ndarray]) -> None:
    loaded = tensors.loads(tensors.dumps(bundle))
    assert loaded.keys() == bundle.keys()
    for name, array in bundle.items():
        assert loaded[name].shape == array.shape
        assert loaded[name].dtype == array.dtype.newbyteorder("=")
        assert bits(loaded[name]) == bits(array)
        assert not loaded[name].flags.writeable


@given(bundles, st.randoms(use_true_random=False))
def test_equal_bundles_have_equal_bytes(bundle: dict[str, np.ndarray], random: Any) -> None:
    items = list(bundle.items())
    random.shuffle(items)
    copied = {name: np.array(a, dtype=a.dtype.newbyteorder("="), order="C") for name, a in items}
    assert tensors.checksum(tensors.dumps(bundle)) == tensors.checksum(tensors.dumps(copied))


@given(st.dictionaries(names, hnp.arrays(st.sampled_from(NATIVE), (2, 3)), max_size=4))
def test_the_library_reads_what_we_write(bundle: dict[str, np.ndarray]) -> None:
    loaded = safetensors.numpy.load(tensors.dumps(bundle))
    assert {name: bits(a) for name, a in loaded.items()} == {n: bits(a) for n, a in bundle.items()}


@given(bundles, st.data())
def test_every_truncation_is_refused(bundle: dict[str, np.ndarray], data: st.DataObject) -> None:
    whole = tensors.dumps(bundle)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(ValueError, match="`data` must be a safetensors bundle"):
        tensors.loads(whole[:cut])
    with pytest.raises(ValueError, match="left over"):
        tensors.loads(whole + b"\0")


@settings(max_examples=400)
@given(bundles.filter(len), st.data())
def test_a_flipped_header_bit_never_crashes_or_grows(
    bundle: dict[str, np.ndarray], data: st.DataObject
) -> None:
    damaged = bytearray(tensors.dumps(bundle))
    header = 8 + int.from_bytes(damaged[:8], "little")
    for bit in data.draw(st.lists(st.integers(0, header * 8 - 1), min_size=1, max_size=3)):
        damaged[bit // 8] ^= 1 << bit % 8
    try:
        loaded = tensors.loads(bytes(damaged))
    except ValueError:
        return
    assert sum(array.nbytes for array in loaded.values()) <= len(damaged)


@given(st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    for data in (noise, pack(noise), pack(b'{"a":' + noise + b"}")):
        try:
            tensors.loads(data)
        except ValueError:
            pass


HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no header"),
    "short": (b"\0" * 7, "no header"),
    "no header": (b"\0" * 8, "Expecting value"),
    "huge header": (b"\xff" * 8 + b"{}", "longer than the data"),
    "not utf-8": (pack(b'{"\xff":1}'), "utf-8"),
    "utf-16": (pack("{}".encode("utf-16")), "utf-8"),
    "list": (pack([]), "not an object"),
    "deep": (pack(b"[" * 200_000), "recursion"),
    "digits": (pack(b'{"a":' + b"9" * 5000 + b"}"), "digits"),
    "no dtype": (pack({"a": {"shape": [], "data_offsets": [0, 4]}}, b"0000"), "needs dtype"),
    "extra key": (pack({"a": {**entry([1], 0, 4), "x": 1}}, b"0000"), "needs dtype"),
    "unknown dtype": (pack({"a": entry([1], 0, 4, "F4")}, b"0000"), "unknown dtype"),
    "unhashable dtype": (pack({"a": entry([1], 0, 4, ["F32"])}, b"0000"), "unknown dtype"),
    "negative": (pack({"a": entry([-1, -1], 0, 4)}, b"0000"), "whole numbers"),
    "float shape": (pack({"a": entry([1.0], 0, 4)}, b"0000"), "whole numbers"),
    "true shape": (pack({"a": entry([True], 0, 4)}, b"0000"), "whole numbers"),
    "text shape": (pack({"a": entry("1", 0, 4)}, b"0000"), "whole numbers"),
    "huge shape": (pack({"a": entry([2**62, 2**62], 0, 4)}, b"0000"), "does not fit"),
    "wrapping shape": (pack({"a": entry([2**32, 2**32], 0, 0)}), "does not fit"),
    "huge and empty": (pack({"a": entry([0, 2**80], 0, 0)}), "bundle"),
    "huge and empty 2": (pack({"a": entry([0, 2**62, 8], 0, 0)}), "bundle"),
    "dimensions": (pack({"a": entry([1] * 65, 0, 4)}, b"0000"), "64 dimensions"),
    "many dimensions": (pack({"a": entry([10**9] * 100_000, 0, 4)}, b"0000"), "64 dimensions"),
    "behind the end": (pack({"a": entry([2], 0, 8)}, b"0000"), "behind the data"),
    "backwards": (pack({"a": entry([1], 4, 0)}, b"0000"), "begin and an end"),
    "one offset": (pack({"a": {**entry([1], 0, 4), "data_offsets": [0]}}, b"0000"), "begin and"),
    "overlap": (pack({"a": entry([1], 0, 4), "b": entry([1], 0, 4)}, b"0000"), "overlap"),
    "half overlap": (pack({"a": entry([2], 0, 8), "b": entry([1], 4, 8)}, b"0" * 8), "overlap"),
    "gap": (pack({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, b"0" * 12), "gap"),
    "bad bool": (pack({"a": entry([2], 0, 2, "BOOL")}, b"\1\2"), "no boolean"),
    "surrogate": (pack(b'{"\\ud800":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'), "Unicode"),
    "metadata": (pack({"__metadata__": {"a": 1}}), "table of strings"),
    "same name": (
        pack(b'{"a":%b,"a":%b}' % ((json.dumps(entry([1], 0, 4)).encode(),) * 2), b"0000"),
        "stands twice",
    ),
    "same key": (
        pack(b'{"a":{"dtype":"U8","dtype":"I8","shape":[0],"data_offsets":[0,0]}}'),
        "stands twice",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_bytes_are_refused_and_cost_no_memory(kind: str) -> None:
    data, why = HOSTILE[kind]
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=why):
            tensors.loads(data)
        assert tracemalloc.get_traced_memory()[1] < 40 * len(data) + 200_000
    finally:
        tracemalloc.stop()


def test_a_header_over_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "MAX_HEADER", 100)
    with pytest.raises(ValueError, match="header of 100 bytes"):
        tensors.dumps({f"a name of some length {i}": np.zeros(1) for i in range(4)})
    with pytest.raises(ValueError, match="longer than 100 bytes"):
        tensors.loads(pack(b" " * 101))


@pytest.mark.parametrize(
    "value",
    ["text", np.array(["a"]), np.array([b"a"]), np.array([None]), np.array([{}], object)]
    + [np.zeros(2, "complex128"), np.zeros(2, "datetime64[s]"), np.zeros(2, [("f", "i4")])]
    + [np.zeros(2, ml_dtypes.int4), np.zeros(2, ml_dtypes.float4_e2m1fn)],
    ids=lambda value: str(np.asarray(value).dtype),
)
def test_what_no_bundle_holds_is_refused_by_name(value: Any) -> None:
    with pytest.raises(ValueError, match=r"`bundle\['label'\]` must have.*Received: dtype="):
        tensors.dumps({"label": value})


@pytest.mark.parametrize("name", ["__metadata__", "\ud800", 3, b"x", None])
def test_a_bad_name_is_refused(name: Any) -> None:
    with pytest.raises(ValueError, match="A name in `bundle`"):
        tensors.dumps({name: np.zeros(1)})


def test_loading_is_a_view_unless_unaligned() -> None:
    data = bytearray(tensors.dumps({"a": np.zeros(4, "float32")}))
    loaded = tensors.loads(data)["a"]
    data[-4:] = np.float32(7).tobytes()
    assert loaded[-1] == 7 and not loaded.flags.writeable
    shifted = pack({"pad": entry([1], 0, 1, "U8"), "a": entry([2], 1, 9)}, b"\0" + b"\1" * 8)
    shifted_a = tensors.loads(shifted)["a"]
    assert shifted_a.flags.aligned and bits(shifted_a) == b"\1" * 8


def test_any_contiguous_buffer_of_bytes_is_taken_and_others_refused() -> None:
    data = tensors.dumps({"a": np.arange(4)})
    for buffer in (bytearray(data), memoryview(data), memoryview(data).cast("b")):
        assert tensors.loads(buffer)["a"].tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="contiguous bytes"):
        tensors.loads(memoryview(data)[::2])
    with pytest.raises(ValueError, match="contiguous bytes"):
        tensors.loads("text")  # type: ignore[arg-type]


def test_metadata_of_a_foreign_file_is_ignored() -> None:
    data = safetensors.numpy.save({"a": np.ones(2)}, metadata={"format": "pt"})
    assert tensors.loads(data)["a"].tolist() == [1, 1]


@given(st.dictionaries(names, arrays(), max_size=6))
def test_the_library_writes_the_same_bytes(bundle: dict[str, np.ndarray]) -> None:
    plain = {n: np.array(a, dtype=a.dtype.newbyteorder("="), order="C") for n, a in bundle.items()}
    assert tensors.dumps(bundle) == safetensors.numpy.save(plain)


def test_pieces_are_views_of_the_arrays() -> None:
    array = np.zeros(8, "float32")
    header, view = tensors.pieces({"a": array})
    array[0] = 1
    assert bytes(view) == array.tobytes()
    assert tensors.checksum([header, view]) == tensors.checksum(tensors.dumps({"a": array}))
