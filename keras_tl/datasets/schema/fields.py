"""Kinds of fields: what a sample's values must be, and how a pack holds them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from keras_tl.datasets.schema.casting import Refused, as_array, cast, dtype_of
from keras_tl.storage.files import FileContent

#: A value over so many bytes becomes a blob in GridFS.
BLOB_BYTES = 1 << 20

#: A value as a pack takes it.
Value = np.ndarray | bytes | FileContent
#: A column as a pack takes it: rows of one shape, or one after the other.
Column = np.ndarray | list[Any]

_COMPRESS = ("auto", None, "zstd", "photo")


class Field:
    """What the kinds have in common.

    Attributes:
        dtype: of a row's array; `None` where rows are bytes or text.
        shape: of a row's array, with `None` where it varies; `None` where rows are bytes or text.
        row_bytes: bytes of a row, `None` if they vary.
        mutable: whether values can be changed: those of labels, which may also be missing.
        compress: the codec that was asked for.
    """

    mutable: ClassVar[bool] = False
    dtype: np.dtype[Any] | None = None
    shape: tuple[int | None, ...] | None = None
    compress: str | None = "auto"

    @property
    def row_bytes(self) -> int | None:
        if self.dtype is None or self.shape is None:
            return None
        sizes = [size for size in self.shape if size is not None]
        fixed = len(sizes) == len(self.shape)
        return math.prod(sizes) * self.dtype.itemsize if fixed else None

    def config(self) -> dict[str, Any]:
        """What `from_config` makes it of again: JSON, with the kind's name as `kind`."""
        return {"kind": type(self).__name__, **self._config()}

    def _config(self) -> dict[str, Any]:
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Field) and self.config() == other.config()

    def __hash__(self) -> int:
        return hash(repr(self.config()))

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self._config().items())
        return f"{type(self).__name__}({given})"

    def check(self, value: Any, where: str = "`value`") -> Value:
        """One value as a pack takes it.

        Args:
            value: what was given for a sample.
            where: which sample and field, for errors.

        Raises:
            ValueError: if it does not fit.
        """
        try:
            return self._check(value)
        except Refused as error:
            raise ValueError(f"{where} {error}") from None

    def check_column(self, values: Any, where: Callable[[int], str]) -> Column:
        """Values of several samples as a pack takes them; an array that fits is not copied.

        Args:
            values: an array with a row a sample, or a list.
            where: tells of a row which sample and field it is, for errors.

        Raises:
            ValueError: if one does not fit.
        """
        return [self.check(value, where(row)) for row, value in enumerate(values)]

    def examine(self, values: Any, where: Callable[[int], str]) -> None:
        """Checks a column as `check_column` does, but for the content of files.

        Raises:
            ValueError: if a value does not fit.
        """
        self.check_column(values, where)

    def _check(self, value: Any) -> Value:
        raise NotImplementedError


class Array(Field):
    """Numbers of one dtype.

    Args:
        shape: of a sample's array; `None` in it where the size differs from sample to sample.
        dtype: of its numbers: booleans, integers, floats (also `"bfloat16"`), `"complex64"`.
        compress: `"auto"` (zstd where that pays, tried on each pack), `"zstd"`,
            `"photo"` (uint8 images of one size: a third smaller, slower to read), or `None`.

    Example:

    >>> Array((None, 3), "float32").check([[1, 2, 3]]).shape
    (1, 3)
    """

    def __init__(
        self, shape: Sequence[int | None], dtype: Any = "float32", compress: str | None = "auto"
    ) -> None:
        if isinstance(shape, (int, np.integer)):
            shape = (int(shape),)
        self.shape = tuple(size if size is None else _size(size) for size in shape)
        self.dtype = dtype_of(dtype)
        self.compress = compress
        if compress not in _COMPRESS:
            raise ValueError(
                f"`compress` must be 'auto', 'zstd', 'photo' or None. Received: {compress!r}"
            )
        if compress == "photo" and (
            self.dtype != np.uint8 or len(self.shape) not in (2, 3) or self.row_bytes is None
        ):
            raise ValueError(
                "`compress='photo'` is for uint8 images of one size. Received: "
                f"shape={self.shape}, dtype={self.dtype.name}"
            )

    def _config(self) -> dict[str, Any]:
        assert self.shape is not None and self.dtype is not None
        return {
            "shape": list(self.shape),
            "dtype": self.dtype.name,
            "compress": self.compress,
        }

    def _check(self, value: Any) -> np.ndarray:
        assert self.shape is not None and self.dtype is not None
        array = as_array(value)
        if not array.size and array.ndim < len(self.shape) and None in self.shape:
            # An empty list does not tell the sizes inside it: no boxes are (0, 4).
            array = np.empty([size or 0 for size in self.shape], self.dtype)
        elif not array.size and isinstance(value, (list, tuple)):
            array = array.astype(self.dtype)  # nor the dtype
        if not self._fits(array.shape):
            raise Refused(f"of shape {self.shape}", f"shape={array.shape}")
        return np.ascontiguousarray(cast(array, self.dtype)).reshape(array.shape)

    def _fits(self, shape: tuple[int, ...]) -> bool:
        assert self.shape is not None
        return len(shape) == len(self.shape) and all(
            mine is None or mine == size for mine, size in zip(self.shape, shape, strict=True)
        )

    def check_column(self, values: Any, where: Callable[[int], str]) -> Column:
        assert self.shape is not None and self.dtype is not None
        if not isinstance(values, np.ndarray):
            # Lists of numbers and of arrays of one shape become one array; others row by row,
            # which also finds the row that does not fit.
            if self.row_bytes is None:
                return super().check_column(values, where)
            rows = [self.check(value, where(row)) for row, value in enumerate(values)]
            return np.stack(rows) if rows else np.empty((0, *self.shape), self.dtype)  # type: ignore[arg-type]
        if values.dtype == object:
            return self.check_column(values.tolist(), where)
        try:
            column = as_array(values)
            if not self._fits(column.shape[1:]):
                raise Refused(f"of shape {self.shape}", f"shape={column.shape[1:]}")
            column = cast(column, self.dtype)
        except Refused as error:
            raise ValueError(f"{where(error.row)} {error}") from None
        if self.row_bytes is not None:
            return np.ascontiguousarray(column)
        return [np.ascontiguousarray(row) for row in column]


class Mask(Array):
    """A class of each pixel of an image.

    Args:
        height: pixels, `None` if it differs from sample to sample.
        width: pixels, `None` if it differs from sample to sample.
        dtype: of the classes.
    """

    def __init__(self, height: int | None, width: int | None, dtype: Any = "uint8") -> None:
        super().__init__((height, width), dtype)

    def _config(self) -> dict[str, Any]:
        assert self.shape is not None and self.dtype is not None
        return {"height": self.shape[0], "width": self.shape[1], "dtype": self.dtype.name}


#: Formats of bounding boxes, as in Keras.
BOX_FORMATS = (
    *("xyxy", "yxyx", "xywh", "center_xywh", "center_yxhw"),
    *("rel_xyxy", "rel_yxyx", "rel_xywh", "rel_center_xywh"),
)


class Boxes(Array):
    """Bounding boxes, as many as a sample has: float32 of shape `(n, 4)`.

    Args:
        format: what the four numbers are, in Keras' words: `"xyxy"`, `"rel_xyxy"`, `"xywh"`, ...
    """

    def __init__(self, format: str = "xyxy") -> None:
        if format not in BOX_FORMATS:
            raise ValueError(f"`format` must be one of {BOX_FORMATS}. Received: {format!r}")
        super().__init__((None, 4), "float32")
        self.format = format

    def _config(self) -> dict[str, Any]:
        return {"format": self.format}


class Bytes(Field):
    """Bytes as they are; a path (`pathlib.Path`) or an open file may be given instead of them.

    Of an open file it is the whole one, wherever it stands.

    Args:
        media: what they are, for people and players, as `"video/mp4"`.
    """

    def __init__(self, media: str | None = None) -> None:
        if media is not None and not isinstance(media, str):
            raise ValueError(f"`media` must be text or None. Received: media={media!r}")
        self.media = media
        #: A format that files must have, `"any"` of those in `magic`, or `None`.
        self.encoded: str | None = None
        #: How the files of formats begin.
        self.magic: Mapping[str, tuple[bytes, ...]] = {}

    def _config(self) -> dict[str, Any]:
        return {"media": self.media}

    def examine(self, values: Any, where: Callable[[int], str]) -> None:
        for row, value in enumerate(values):
            if not _is_file(value):
                self.check(value, where(row))

    def _check(self, value: Any) -> bytes | FileContent:
        data = _content(value)
        if self.encoded is not None:
            head = bytes(data.piece(0, 16) if isinstance(data, FileContent) else data[:16])
            formats = self.magic if self.encoded == "any" else (self.encoded,)
            if not any(head.startswith(magic) for name in formats for magic in self.magic[name]):
                raise Refused(f"a file of the format {self.encoded!r}", f"bytes {head!r}...")
        return data


class Text(Field):
    """Text of any length."""

    def _config(self) -> dict[str, Any]:
        return {}

    def _check(self, value: Any) -> bytes:
        if not isinstance(value, str):
            raise Refused("text", f"{value!r} of type {type(value).__name__}")
        try:
            return value.encode()
        except UnicodeEncodeError:
            raise Refused("text of Unicode", repr(value)) from None


def _content(value: Any) -> bytes | FileContent:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if not _is_file(value):
        raise Refused(
            "bytes, a `pathlib.Path` or an open file", f"{value!r} of type {type(value).__name__}"
        )
    try:
        file = FileContent(value)
    except (OSError, ValueError) as error:
        raise Refused("a file that can be read", str(error)) from None
    if len(file) > BLOB_BYTES:
        return file
    data = file.piece(0, len(file)) if len(file) else b""
    file.close()
    return data


def _is_file(value: Any) -> bool:
    return isinstance(value, os.PathLike) or hasattr(value, "fileno")


def _size(size: Any) -> int:
    if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 0:
        raise ValueError(f"`shape` must have sizes of 0 or more, or None. Received: {size!r}")
    return int(size)


def from_config(config: Mapping[str, Any]) -> Field:
    """The field of a `Field.config()`.

    Raises:
        ValueError: if there is no such kind.
    """
    from keras_tl.datasets.schema import labels, media

    known: dict[str, Callable[..., Field]] = {
        kind.__name__: kind
        for kind in (Array, Mask, Boxes, Bytes, Text, labels.Label, media.Image, media.Audio)
    }
    given = dict(config)
    kind = given.pop("kind", None)
    if kind not in known:
        raise ValueError(f"`kind` must be one of {', '.join(known)}. Received: kind={kind!r}")
    return known[kind](**given)
