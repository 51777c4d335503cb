"""Values of fields as pictures: 8-bit pixels, PNG files without a library, a decoder by Pillow."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np

# Pillow's names of what a folder of images holds; nothing else is tried on bytes of strangers.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
_COLOURS = {1: 0, 3: 2, 4: 6}  # channels: PNG's own number for grey, RGB and RGBA


def pixels(value: np.ndarray) -> np.ndarray | None:
    """An array as 8-bit pixels, or `None` if it has not the shape of a picture.

    Args:
        value: shape `(height, width)` or `(height, width, 1 | 3 | 4)`, numbers or bools. Pixels of
            8 bits stay as they are; of other numbers the least becomes black and the greatest
            white, except that values within 0 to 1 keep that range. NaN is black.

    Returns:
        uint8 of the same shape, without an axis of one channel.

    Example:

    >>> pixels(np.array([[0.0, 1.0]]))
    array([[  0, 255]], dtype=uint8)
    """
    value = np.asarray(value)
    if value.ndim == 3 and value.shape[2] == 1:
        value = value[..., 0]
    shaped = value.ndim == 2 or (value.ndim == 3 and value.shape[2] in _COLOURS)
    if not shaped or not value.size:
        return None
    if value.dtype == np.uint8:
        return value
    try:
        numbers = value.astype("float64")
    except (TypeError, ValueError):
        return None
    finite = numbers[np.isfinite(numbers)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if value.dtype.kind == "b" or (value.dtype.kind not in "iu" and 0 <= low and high <= 1):
        low, high = 0.0, 1.0
    scaled = (np.nan_to_num(numbers, nan=low, posinf=high, neginf=low) - low) / ((high - low) or 1)
    return np.round(scaled * 255).astype("uint8")


def thumbnail(image: np.ndarray, size: int) -> np.ndarray:
    """Every n-th pixel, so that neither side is longer than `size`."""
    step = -(-max(image.shape[:2]) // size)
    return image[::step, ::step]


def png(image: np.ndarray) -> bytes:
    """A PNG file.

    Args:
        image: uint8 of shape `(height, width)` (grey) or `(height, width, 3 | 4)` (RGB, RGBA).

    Raises:
        ValueError: if it has another shape or dtype, or no pixels.

    Example:

    >>> png(np.zeros((2, 2), "uint8"))[:8]
    b'\\x89PNG\\r\\n\\x1a\\n'
    """
    image = np.asarray(image)
    channels = image.shape[2] if image.ndim == 3 else 1
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or channels not in _COLOURS:
        raise ValueError(
            "`image` must be uint8 of shape (height, width) or (height, width, 3 or 4). "
            f"Received: {image.dtype} of shape {image.shape}"
        )
    if not image.size:
        raise ValueError(f"`image` must have pixels. Received: shape {image.shape}")
    height, width = image.shape[:2]
    lines = np.zeros((height, 1 + width * channels), "uint8")  # a line begins with its filter: none
    lines[:, 1:] = image.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOURS[channels], 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )


def pillow() -> Any:
    """Pillow's `Image`.

    Raises:
        ImportError: if it is not installed, with what to install.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("Image files need Pillow: `pip install 'keras_tl[datasets]'`.") from error
    return Image


def decode(data: bytes, channels: int = 3, size: tuple[int, int] | None = None) -> np.ndarray:
    """The pixels of an image file, turned as its EXIF says.

    Args:
        data: the file: PNG, JPEG, WebP, BMP, GIF (its first picture) or TIFF.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA).
        size: (height, width) to resize to, bilinear, without keeping the ratio of the sides.

    Returns:
        uint8 of shape `(height, width, channels)`.

    Raises:
        ValueError: if it is none of these, damaged, cut short, or so large that it can only be
            meant to fill the memory (Pillow's limit of 179 megapixels).
        ImportError: without Pillow.
    """
    Image = pillow()
    from PIL import ImageOps

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I"):  # 16 bits, which `convert` would cut off at 255
                image = Image.fromarray((np.asarray(image) >> 8).astype("uint8"))
            image = image.convert({1: "L", 3: "RGB", 4: "RGBA"}[channels])
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise almost anything on damaged files
        raise ValueError(f"not an image that can be read: {error}") from error
    if size is not None:
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(image, "uint8").reshape(image.height, image.width, channels)
