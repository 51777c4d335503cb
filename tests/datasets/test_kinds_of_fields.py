"""Kinds of fields: what fits is kept as it is, what does not is refused by name."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keras_tl.datasets import Array, Audio, Boxes, Bytes, Field, Image, Label, Mask, Text
from keras_tl.datasets.schema.casting import Refused, cast, dtype_of
from keras_tl.datasets.schema.fields import BLOB_BYTES, from_config
from keras_tl.storage.files import FileContent

KINDS: list[Field] = [
    Array((2, None), "bfloat16"),
    Array((), "bool", compress=None),
    Array(7, "int16", compress="zstd"),
    Image(4, 5),
    Image(4, 5, 1, compress="photo"),
    Image(None, None, encoded="png"),
    Mask(3, None, "int32"),
    Boxes("rel_xyxy"),
    Text(),
    Bytes("video/mp4"),
    Audio(None, 2, 44100, "int16"),
    Audio(encoded="any"),
    Label(),
    Label(3, dtype="int8"),
    Label(names=["a", "b"]),
    Label(dtype="float32"),
]
INTEGERS = [np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)]
FLOATS = [np.dtype(f"float{bits}") for bits in (16, 32, 64)]
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("kind", KINDS, ids=repr)
def test_config_round_trip(kind: Field) -> None:
    found = from_config(kind.config())
    assert found == kind and hash(found) == hash(kind) and repr(found) == repr(kind)
    assert (found.dtype, found.shape, found.row_bytes) == (kind.dtype, kind.shape, kind.row_bytes)


def test_kinds_differ() -> None:
    assert len({repr(kind) for kind in KINDS}) == len(set(KINDS)) == len(KINDS)


@given(
    values=st.sampled_from([*INTEGERS, *FLOATS, np.dtype(bool)]).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0, max_side=4))
    ),
    dtype=st.sampled_from([*INTEGERS, *FLOATS, np.dtype(bool)]),
)
def test_a_cast_changes_no_value_or_is_refused(values: np.ndarray, dtype: np.dtype[Any]) -> None:
    try:
        made = cast(values, dtype)
    except Refused as error:
        assert values.size == 0 or error.row < max(1, len(np.atleast_1d(values)))
        assert values.dtype != dtype
        return
    assert made.dtype == dtype and made.shape == values.shape
    if values.dtype.kind == "f":  # digits may be lost, nothing else
        limits = np.finfo(dtype)
        finite = np.isfinite(values)
        assert (np.isfinite(made) == finite).all()
        error = abs(made[finite].astype("f8") - values[finite])
        assert (error <= abs(values[finite]) * limits.eps + limits.tiny).all()
    else:
        assert made.astype(object).tolist() == values.astype(object).tolist()


@given(value=st.integers(-(2**70), 2**70), dtype=st.sampled_from(INTEGERS))
def test_integers_are_kept_or_refused(value: int, dtype: np.dtype[Any]) -> None:
    info = np.iinfo(dtype)
    kind = Array((1,), dtype)
    if info.min <= value <= info.max:
        assert kind.check([value]).tolist() == [value]  # type: ignore[union-attr]
    else:
        with pytest.raises(ValueError, match="`x` must be"):
            kind.check([value], "`x`")


@pytest.mark.parametrize(
    ("kind", "value", "rule"),
    [
        (Array((2,), "uint8"), [1, 300], "uint8, 0 to 255. Received: 300"),
        (Array((2,), "uint8"), [1, -1], "Received: -1"),
        (Array((2,), "int32"), [1.0, 2.5], "of dtype int32. Received: dtype=float64"),
        (Array((2,), "float32"), [1, 2**24 + 1], "float32 holds exactly"),
        (Array((2,), "float16"), [1.0, 1e9], "of dtype float16, in its range"),
        (Array((2,), "bool"), [1, 0], "of dtype bool"),
        (Array((2,), "float32"), [1j, 0], "of dtype float32"),
        (Array((2,)), ["a", "b"], "an array of numbers"),
        (Array((2,)), [None, 1], "an array of numbers"),
        (Array((2,)), [[1], [1, 2]], "an array of numbers"),
        (Array((2,)), np.zeros((3,)), r"shape \(2,\). Received: shape=\(3,\)"),
        (Array((2,)), 1.0, r"shape=\(\)"),
        (Array((None, 2)), np.zeros((3, 3)), r"of shape \(None, 2\)"),
        (Image(2, 2), np.zeros((2, 2), "uint8"), r"of shape \(2, 2, 3\)"),
        (Image(2, 2, encoded="png"), b"\xff\xd8\xff", "format 'png'"),
        (Image(2, 2, encoded="png"), np.zeros((2, 2, 3)), "bytes, a `pathlib.Path`"),
        (Image(2, 2, encoded="any"), b"", "format 'any'"),
        (Bytes(), "text", "bytes, a `pathlib.Path` or an open file. Received: 'text'"),
        (Bytes(), Path("/does/not/exist"), "a file that can be read"),
        (Bytes(), Path("/"), "a file that can be read"),
        (Text(), b"bytes", "text"),
        (Text(), "\ud800", "text of Unicode"),
        (Label(3), 3, "0 to 2, or None"),
        (Label(3), -2, "0 to 2, or None"),
        (Label(3), 1.0, "of dtype int64"),
        (Label(names=["a", "b"]), "c", r"one of the classes \['a', 'b'\]"),
        (Label(3), [1], "one number"),
        (Label(), "a", "an array of numbers"),
        (Label(3), True, "a number, or None. Received: True"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(kind: Field, value: Any, rule: str) -> None:
    with pytest.raises(ValueError, match=f"`x` of sample 'a' must be .*{rule}"):
        kind.check(value, "`x` of sample 'a'")
    if not isinstance(kind, Bytes):  # of a column the sample is named
        good: Any = np.zeros_like(value) if isinstance(value, np.ndarray) else value
        with pytest.raises(ValueError, match=f"row 0 must be .*{rule}"):
            kind.check_column([good, value], lambda row: f"row {row}")


@pytest.mark.parametrize(
    ("kind", "column"),
    [
        (Array((2,), "uint8"), np.array([[0, 1], [2, 3], [4, 256]])),
        (Array((2,), "float16"), np.array([[0, 1], [2, 3], [4, 1e9]])),
        (Array((1,), "uint8"), [[1], [2], [-3]]),
        (Label(3), np.array([0, -1, 3])),
        (Label(3), [0, None, 3]),
        (Label(3), [0, 1, True]),
        (Label(names=["a", "b"]), ["a", None, "c"]),
        (Text(), ["a", "b", 3]),
    ],
    ids=str,
)
def test_a_column_names_the_row_that_does_not_fit(kind: Field, column: Any) -> None:
    with pytest.raises(ValueError, match="row 2 must be"):
        kind.check_column(column, lambda row: f"row {row}")


def test_an_array_that_fits_is_not_copied() -> None:
    images = np.zeros((3, 4, 5, 3), np.uint8)
    assert np.shares_memory(Image(4, 5).check_column(images, str), images)


@pytest.mark.parametrize("column", [[[1, 2]], np.array([[1, 2]]), np.array([[1, 2]], object)])
def test_columns_come_in_many_forms(column: Any) -> None:
    found = Array((2,), "int16").check_column(column, str)
    assert isinstance(found, np.ndarray) and found.dtype == "int16" and found.tolist() == [[1, 2]]


def test_ragged_columns() -> None:
    kind = Array((None, 2), "float32")
    rows = kind.check_column([np.zeros((3, 2)), [], [[1, 2]]], str)
    assert [row.shape for row in rows] == [(3, 2), (0, 2), (1, 2)]
    assert {row.dtype for row in rows} == {np.dtype("float32")}
    dense = kind.check_column(np.zeros((4, 1, 2)), str)
    assert [row.shape for row in dense] == [(1, 2)] * 4


def test_labels_may_be_missing() -> None:
    kind = Label(names=["a", "b"], dtype="int8")
    column = kind.check_column(["b", None, 0, -1], str)
    assert (column.dtype, column.tolist()) == ("int8", [1, -1, 0, -1])
    assert kind.plain(column) == [1, None, 0, None]
    numbers = Label(dtype="float32").check_column([0.5, None], str)
    assert Label(dtype="float32").plain(numbers) == [0.5, None]


def test_a_format_of_its_own_stays_encoded() -> None:
    kind = Image(None, None, encoded="png")
    assert (kind.dtype, kind.shape, kind.row_bytes) == (None, None, None)
    assert (kind.decoded_shape, kind.decoded_dtype) == ((None, None, 3), np.dtype("uint8"))
    assert kind.check(bytearray(PNG)) == PNG


def test_files(tmp_path: Path) -> None:
    small, large = tmp_path / "small.png", tmp_path / "large.png"
    small.write_bytes(PNG + b"small")
    large.write_bytes(PNG + bytes(BLOB_BYTES))
    kind = Image(None, None, encoded="png")
    assert kind.check(small) == PNG + b"small"
    found = kind.check(large)
    assert isinstance(found, FileContent) and len(found) == len(PNG) + BLOB_BYTES
    with small.open("rb") as file:
        file.seek(3)
        assert kind.check(file) == PNG + b"small"
        assert file.tell() == 3
    with pytest.raises(ValueError, match="`x` must be a file that can be read"):
        kind.check(FakeFile(), "`x`")


class FakeFile(io.BytesIO):
    def fileno(self) -> int:
        raise OSError("no file of the system")


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: Array((-1,)), "`shape` must have sizes"),
        (lambda: Array((1.5,)), "`shape` must have sizes"),
        (lambda: Array((1,), "str"), "`dtype` must be one of"),
        (lambda: Array((1,), "object"), "`dtype` must be one of"),
        (lambda: Array((1,), "float8"), "`dtype` must be one of"),
        (lambda: Array((1,), compress="gzip"), "`compress` must be"),
        (lambda: Array((4, 4, 3), "float32", "photo"), "is for uint8 images"),
        (lambda: Image(None, 4, compress="photo"), "is for uint8 images"),
        (lambda: Image(4, 4, encoded="psd"), "`encoded` must be"),
        (lambda: Boxes("abcd"), "`format` must be"),
        (lambda: Bytes(3), "`media` must be"),  # type: ignore[arg-type]
        (lambda: Audio(rate=0), "`rate` must be"),
        (lambda: Label(0), "`num_classes` must be"),
        (lambda: Label(True), "`num_classes` must be"),
        (lambda: Label(1000, dtype="int8"), "`num_classes` must be"),
        (lambda: Label(3, dtype="float32"), "`num_classes` must be"),
        (lambda: Label(dtype="uint8"), "`dtype` must be"),
        (lambda: Label(names=["a", "a"]), "`names` must be"),
        (lambda: Label(3, names=["a"]), "`names` must be"),
        (lambda: from_config({"kind": "os"}), "`kind` must be"),
        (lambda: from_config({}), "`kind` must be"),
    ],
)
def test_kinds_that_there_are_not(make: Any, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        make()


def test_dtypes_are_little_endian() -> None:
    assert dtype_of(">i4") == np.dtype("<i4")
    assert dtype_of("bfloat16") == np.dtype(ml_dtypes.bfloat16)
    assert Array((1,), "int32").check(np.array([258], ">i4")).tobytes() == b"\x02\x01\0\0"  # type: ignore[union-attr]
    assert Array((2,), "bfloat16").check([256, 1.0]).tolist() == [256, 1.0]  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="bfloat16 holds exactly, up to 256"):
        Array((1,), "bfloat16").check([257])


def test_files_without_a_size_are_refused(tmp_path: Path) -> None:
    """They would be stored as no bytes at all; a pipe would wait for somebody who writes."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (Path("/dev/zero"), pipe, Path("/proc/self/status"), tmp_path):
        with pytest.raises(ValueError, match="a file that can be read"):
            Bytes().check(path, "`v`")
