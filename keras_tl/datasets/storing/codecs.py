"""How a pack keeps a column's bytes: as they are, by zstd, or as photographs."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

_SAMPLE = 16 << 10  # bytes that are tried
_LEVEL = 1
#: Levels by the share of its size that a column must come down to for them: reading what the first
#: one wrote takes half as long again (measured), what the second one wrote a tenth longer.
_AUTO = ((_LEVEL, 0.5), (-3, 0.97))


def encode(data: np.ndarray | bytes, compress: str | None) -> tuple[str, bytes]:
    """The name of the codec that was taken, and the payload.

    Args:
        data: a column: an array whose rows are the samples, or bytes.
        compress: `"auto"`, `"zstd"`, `"photo"` or `None`.

    Raises:
        ImportError: if zstandard is asked for and not installed.
    """
    if compress == "photo" and isinstance(data, np.ndarray):
        return "photo", _compress(_planes(data))
    raw: Any = data
    if isinstance(data, np.ndarray):
        raw = np.ascontiguousarray(data).reshape(-1).view(np.uint8).data  # without a copy
    level = _LEVEL if compress == "zstd" else _paying(raw) if compress == "auto" else None
    return ("raw", bytes(raw)) if level is None else ("zstd", _compress(raw, level))


def decode(codec: str, payload: bytes, shape: tuple[int, ...] | None, size: int) -> Any:
    """The bytes that were encoded; for `"photo"` the uint8 array of `shape`.

    Args:
        codec: the codec's name.
        payload: what it made.
        shape: of the whole column, with the samples first, if that is one array.
        size: bytes of the column.

    Raises:
        ValueError: if the codec is unknown or the payload is damaged.
        ImportError: if zstandard is needed and not installed.
    """
    if codec == "raw":
        return payload
    if codec == "zstd":
        return _decompress(payload, size)
    if codec == "photo" and shape is not None:
        return _pixels(_decompress(payload, size), shape)
    raise ValueError(f"`codec` must be one that keras_tl knows. Received: {codec!r}")


def _paying(raw: bytes | memoryview) -> int | None:
    """The level that pays, tried on a part."""
    if len(raw) < 64 or _zstandard() is None:
        return None
    middle = max(0, len(raw) - _SAMPLE) // 2
    part = raw[middle : middle + _SAMPLE]
    tried = (level for level, share in _AUTO if len(_compress(part, level)) < share * len(part))
    return next(tried, None)


def _planes(images: np.ndarray) -> bytes:
    """Differences between neighbours in a row, a plane a channel, all images one below the other.

    Of several channels the others are kept as differences from the second one, since colours of
    photographs change together. All of it is modulo 256, so that nothing is lost.
    """
    planes = images[..., None] if images.ndim == 3 else images
    planes = planes.transpose(3, 0, 1, 2).copy()  # in C's order: changed below, and not the images
    if len(planes) > 2:
        planes[0] -= planes[1]
        planes[2:] -= planes[1]
    planes[..., 1:] -= planes[..., :-1].copy()
    return planes.tobytes()


def _pixels(raw: bytes, shape: tuple[int, ...]) -> np.ndarray:
    *front, channels = shape if len(shape) == 4 else (*shape, 1)
    planes = np.frombuffer(raw, np.uint8).reshape(channels, *front)
    planes = np.cumsum(planes, axis=-1, dtype=np.uint8)
    if channels > 2:
        planes[0] += planes[1]
        planes[2:] += planes[1]
    return np.ascontiguousarray(planes.transpose(1, 2, 3, 0)).reshape(shape)


@cache
def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError:
        return None
    return zstandard


def _needed() -> Any:
    found = _zstandard()
    if found is None:
        raise ImportError("Compressed fields need zstandard: `pip install 'keras_tl[datasets]'`.")
    return found


def _compress(raw: bytes | memoryview, level: int = _LEVEL) -> bytes:
    # Made anew each time: it cannot be shared between threads, and making it costs microseconds.
    return bytes(_needed().ZstdCompressor(level=level).compress(raw))


def _decompress(payload: bytes, size: int) -> bytes:
    zstandard = _needed()
    try:
        # The size is the one that the pack tells: a damaged header cannot ask for terabytes.
        if zstandard.frame_content_size(payload) != size:
            raise ValueError(f"A payload must hold {size} bytes. Received: another size")
        return bytes(zstandard.ZstdDecompressor().decompress(payload))
    except zstandard.ZstdError as error:
        raise ValueError(f"A payload must be what zstd wrote. Received: {error}") from None
