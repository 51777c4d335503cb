from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keras_tl.storage import records, tensors


@st.composite
def blocks(draw: st.DrawFn) -> dict[str, np.ndarray]:
    count = draw(st.integers(1, 9))
    columns = {}
    for name in draw(st.sets(st.text("xyzäß", min_size=1, max_size=3), min_size=1, max_size=4)):
        shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
        dtype = draw(st.sampled_from(["float32", ">f8", "uint8", "int64", "bool"]))
        columns[name] = draw(hnp.arrays(dtype, (count, *shape)))
    return columns


def block() -> dict[str, np.ndarray]:
    return {"x": np.arange(12, dtype="float32").reshape(4, 3), "y": np.arange(4)}


@given(blocks())
def test_round_trip(columns: dict[str, np.ndarray]) -> None:
    value, headers = records.encode(columns)
    decoded = records.decode(value, [*headers, ("other", b"ignored")])
    assert decoded.keys() == columns.keys()
    for name, column in columns.items():
        assert decoded[name].dtype == column.dtype.newbyteorder("=")
        np.testing.assert_array_equal(decoded[name], column)
    assert dict(headers)["n"] == str(len(next(iter(columns.values())))).encode()


@given(blocks(), blocks())
def test_fingerprint_is_the_schema_and_nothing_else(
    one: dict[str, np.ndarray], two: dict[str, np.ndarray]
) -> None:
    def schema(columns: dict[str, np.ndarray]) -> dict[str, tuple]:
        return {name: (a.dtype.name, a.shape[1:]) for name, a in columns.items()}

    same = records.fingerprint(one) == records.fingerprint(two)
    assert same == (schema(one) == schema(two))
    assert records.fingerprint(one) == records.fingerprint(dict(reversed(one.items())))
    longer = {name: np.concatenate([a, a]) for name, a in one.items()}
    assert records.fingerprint(one) == records.fingerprint(longer)


def test_fingerprint_is_the_same_in_every_release() -> None:
    assert records.fingerprint(block()) == "ae2279142accb5d1"
    assert records.describe(block()) == "{x: float32[3], y: int64[]}"


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({}, "at least one sample"),
        ({"x": np.zeros((0, 3))}, "at least one sample"),
        ({"x": np.zeros((2, 3)), "y": np.zeros(3)}, r"equally many samples.*'x': 2, 'y': 3"),
        ({"x": np.float32(1)}, "'x'.*axis 0.*scalar"),
        ({"x": np.array(["a"])}, r"`bundle\['x'\]`"),
    ],
)
def test_bad_blocks_are_refused(columns: dict[str, np.ndarray], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        records.encode(columns)


@pytest.mark.parametrize(
    ("name", "received", "why"),
    [
        ("v", b"2", "Header 'v' must be b'1'. Received: b'2'"),
        ("n", b"5", "Header 'n' must be the number of samples, b'4'. Received: b'5'"),
        ("n", b"04", "Header 'n'"),
        ("n", b"", "Header 'n'"),
        ("s", b"0" * 16, r"Header 's'.*x: float32\[3\].*Received: b'0000"),
        ("v", None, "`headers` must hold 'v'"),
        ("n", None, "`headers` must hold 'n'"),
        ("s", None, "`headers` must hold 's'"),
    ],
)
def test_headers_that_disagree_are_refused(name: str, received: bytes, why: str) -> None:
    value, headers = records.encode(block())
    with pytest.raises(ValueError, match=why):
        records.decode(value, [(n, received if n == name else v) for n, v in headers])
    with pytest.raises(ValueError, match="`headers` must hold"):
        records.decode(value, [(n, v) for n, v in headers if n != name])


def test_a_value_that_disagrees_is_refused() -> None:
    value, headers = records.encode(block())
    with pytest.raises(ValueError, match="tombstone"):
        records.decode(None, headers)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="safetensors bundle"):
        records.decode(value[:-1], headers)
    ragged = tensors.dumps({"x": np.zeros((4, 3), "float32"), "y": np.zeros(3, "int64")})
    with pytest.raises(ValueError, match="equally many"):
        records.decode(ragged, headers)
