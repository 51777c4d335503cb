"""Bilinear interpolation of images at any points, for the layers that sample."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

__all__ = ["bilinear"]


def bilinear(images: Any, y: Any, x: Any, *, zeros: bool = True) -> Any:
    """The images' values at points, each point's of its own group of channels.

    Args:
        images: (batch, height, width, groups, channels).
        y, x: float32 (batch, points, groups), in pixels: 0 is the centre of the first one.
        zeros: whether there are zeros outside the image, or else its nearest pixels.

    Returns:
        (batch, points, groups, channels). At whole coordinates it is the pixel, bit by bit.
    """
    shape = ops.shape(images)
    height, width, groups, channels = shape[1:]
    dtype = keras.backend.standardize_dtype(images.dtype)
    pixels = ops.reshape(images, (-1, height * width * groups, channels))
    # One pixel more than is read, so that no backend's gradient of `clip` matters on the border.
    last = [ops.cast(length - 1, "float32") for length in (height, width)]
    y, x = ops.clip(y, -2, last[0] + 2), ops.clip(x, -2, last[1] + 2)
    top, left = ops.stop_gradient(ops.floor(y)), ops.stop_gradient(ops.floor(x))
    down, right = y - top, x - left
    group = ops.arange(groups, dtype="int32")
    total = 0
    for row, by_row in ((top, 1 - down), (top + 1, down)):
        for column, by_column in ((left, 1 - right), (left + 1, right)):
            weight = by_row * by_column
            if zeros:  # a NaN is not outside: it stays one
                outside = (row < 0) | (row > last[0]) | (column < 0) | (column > last[1])
                weight = ops.where(outside, 0.0, weight)
            # Clipped as integers: what a NaN becomes is still an index.
            place = [ops.cast(row, "int32"), ops.cast(column, "int32")]
            pixel = ops.clip(place[0], 0, height - 1) * width + ops.clip(place[1], 0, width - 1)
            index = ops.reshape(pixel * groups + group, (shape[0], -1))
            weight = ops.cast(ops.reshape(weight, (shape[0], -1, 1)), dtype)
            # One product for each corner: more would be kept for the gradient.
            total = total + _take(pixels, index) * weight
    return ops.reshape(total, (shape[0], -1, groups, channels))


def _take(rows: Any, index: Any) -> Any:
    """Rows (batch, rows, channels) at index (batch, points), as (batch, points, channels)."""
    if keras.backend.backend() == "jax":  # stays where it is if the batch is distributed
        return ops.take_along_axis(rows, index[..., None], axis=1)
    # `take_along_axis` of the others copies the index for each channel.
    batch, count, channels = ops.shape(rows)
    start = ops.arange(batch, dtype="int32") * count
    return ops.take(ops.reshape(rows, (-1, channels)), index + start[:, None], axis=0)
