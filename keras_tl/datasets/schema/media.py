"""Images and sounds, as arrays or as the files that they came in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from keras_tl.datasets.schema.fields import Array, Bytes, Column, Field, Value


class _Media(Field):
    """Arrays, or with `encoded` files of a format, which stay encoded."""

    magic: ClassVar[Mapping[str, tuple[bytes, ...]]] = {}

    def __init__(self, shape: Any, dtype: Any, encoded: str | None, compress: str | None) -> None:
        if encoded is not None and encoded != "any" and encoded not in self.magic:
            raise ValueError(
                f"`encoded` must be None, 'any' or one of {', '.join(self.magic)}. "
                f"Received: encoded={encoded!r}"
            )
        self.encoded = encoded
        self._array = Array(shape, dtype, compress)
        self._inner: Field = self._array
        self.compress = compress
        #: Shape and dtype of the decoded array.
        self.decoded_shape, self.decoded_dtype = self._array.shape, self._array.dtype
        if encoded is None:
            self.shape, self.dtype = self._array.shape, self._array.dtype
        else:
            self._inner = files = Bytes()
            files.encoded = encoded
            files.magic = self.magic
            self.compress = None

    def _check(self, value: Any) -> Value:
        return self._inner._check(value)

    def check_column(self, values: Any, where: Callable[[int], str]) -> Column:
        return self._inner.check_column(values, where)

    def examine(self, values: Any, where: Callable[[int], str]) -> None:
        self._inner.examine(values, where)


class Image(_Media):
    """A picture.

    Args:
        height: pixels, `None` if it differs from sample to sample.
        width: pixels, `None` if it differs from sample to sample.
        channels: channels, which come last; `None` if they differ.
        dtype: of an array's numbers.
        encoded: `None` for arrays of shape `(height, width, channels)`; `"png"`, `"jpeg"`,
            `"gif"`, `"bmp"`, `"webp"`, `"tiff"` or `"any"` of these for files that stay encoded,
            given as bytes, paths or open files.
        compress: of arrays: as for `Array`.

    Example:

    >>> Image(32, 32).shape, Image(32, 32).row_bytes
    ((32, 32, 3), 3072)
    """

    magic = {
        "png": (b"\x89PNG\r\n\x1a\n",),
        "jpeg": (b"\xff\xd8\xff",),
        "gif": (b"GIF87a", b"GIF89a"),
        "bmp": (b"BM",),
        "webp": (b"RIFF",),
        "tiff": (b"II*\0", b"MM\0*"),
    }

    def __init__(
        self,
        height: int | None,
        width: int | None,
        channels: int | None = 3,
        dtype: Any = "uint8",
        encoded: str | None = None,
        compress: str | None = "auto",
    ) -> None:
        super().__init__((height, width, channels), dtype, encoded, compress)
        self._given = compress

    def _config(self) -> dict[str, Any]:
        assert self.decoded_shape is not None and self.decoded_dtype is not None
        height, width, channels = self.decoded_shape
        return {
            **{"height": height, "width": width, "channels": channels},
            **{"dtype": self.decoded_dtype.name, "encoded": self.encoded},
            "compress": self._given,
        }


class Audio(_Media):
    """A sound.

    Args:
        samples: values in time, `None` if they differ from sample to sample.
        channels: channels, which come last.
        rate: values a second, in Hz.
        dtype: of an array's numbers.
        encoded: `None` for arrays of shape `(samples, channels)`; `"wav"`, `"flac"`, `"ogg"`,
            `"mp3"` or `"any"` of these for files that stay encoded, given as bytes, paths or open
            files.
    """

    magic = {
        "wav": (b"RIFF",),
        "flac": (b"fLaC",),
        "ogg": (b"OggS",),
        "mp3": (b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2"),
    }

    def __init__(
        self,
        samples: int | None = None,
        channels: int = 1,
        rate: int = 16000,
        dtype: Any = "float32",
        encoded: str | None = None,
    ) -> None:
        if isinstance(rate, bool) or not isinstance(rate, int) or rate < 1:
            raise ValueError(f"`rate` must be 1 Hz or more. Received: rate={rate!r}")
        super().__init__((samples, channels), dtype, encoded, "auto")
        self.rate = rate

    def _config(self) -> dict[str, Any]:
        assert self.decoded_shape is not None and self.decoded_dtype is not None
        samples, channels = self.decoded_shape
        return {
            **{"samples": samples, "channels": channels, "rate": self.rate},
            **{"dtype": self.decoded_dtype.name, "encoded": self.encoded},
        }
