"""Max pooling that says where the maxima were."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_tl.layers.windows import windows

__all__ = ["MaxPooling2DWithArgmax"]

Shape = tuple[int | None, ...]


@keras.saving.register_keras_serializable(package="keras_tl")
class MaxPooling2DWithArgmax(keras.layers.MaxPooling2D):
    """`keras.layers.MaxPooling2D` that also gives the place of each maximum.

    The place is `row * width + column` in the channel's plane of the input, as torch's
    `max_pool2d(return_indices=True)` gives it: in both data formats, and for each image anew.
    (`tf.nn.max_pool_with_argmax` gives `place * channels + channel`.) Of several equal maxima the
    first counts, and it alone has the gradient; NaN is greater than all numbers.

    Args:
        pool_size: int or 2 ints, the window.
        strides: int or 2 ints; default: `pool_size`.
        padding: `"valid"` or `"same"`; what is padded is never a maximum.
        data_format: `"channels_last"` or `"channels_first"`; default: Keras' setting.

    Input shape:
        `(batch, height, width, channels)`, or channels first.

    Output shape:
        Two tensors `(batch, pooled_height, pooled_width, channels)`, or channels first: the
        maxima, and their places as int32, which `MaxUnpooling2D` takes.

    Raises:
        ValueError: if an argument is wrong, or no window fits into the image.

    >>> import keras
    >>> from keras_tl.layers import MaxPooling2DWithArgmax
    >>> image = keras.ops.reshape(keras.ops.arange(8.0), (1, 2, 4, 1))
    >>> maxima, places = MaxPooling2DWithArgmax(2)(image)
    >>> keras.ops.convert_to_numpy(places)[0, :, :, 0].tolist()
    [[5, 7]]
    """

    def build(self, input_shape: Shape) -> None:
        sides = input_shape[2:] if self.data_format == "channels_first" else input_shape[1:3]
        fits = all(n is None or n >= k for n, k in zip(sides, self.pool_size, strict=True))
        if self.padding == "valid" and not fits:
            raise ValueError(
                "`pool_size` must not exceed the height or width of the input. "
                f"Received: pool_size={self.pool_size}, input shape {tuple(input_shape)}"
            )

    def call(self, inputs: Any) -> tuple[Any, Any]:
        inputs = ops.cast(inputs, self.compute_dtype)  # -inf is no integer
        first = self.data_format == "channels_first"
        height, width = ops.shape(inputs)[2:] if first else ops.shape(inputs)[1:3]
        (rows, top, bottom), (columns, left, right) = (
            windows(*axis, self.padding)
            for axis in zip((height, width), self.pool_size, self.strides, strict=True)
        )
        if self.padding == "same":
            pads = [(top, bottom), (left, right)]
            pads = [(0, 0), (0, 0), *pads] if first else [(0, 0), *pads, (0, 0)]
            inputs = ops.pad(inputs, pads, constant_values=float("-inf"))

        row = ops.reshape(ops.arange(rows, dtype="int32") * self.strides[0] - top, (-1, 1, 1))
        column = ops.reshape(ops.arange(columns, dtype="int32") * self.strides[1] - left, (-1, 1))
        if first:
            row, column = row[..., 0], column[..., 0]
        # One tap of the window after the other: no copy of all windows, one loop under XLA.
        best = place = None
        for i in range(self.pool_size[0]):
            for j in range(self.pool_size[1]):
                down = slice(i, i + (rows - 1) * self.strides[0] + 1, self.strides[0])
                across = slice(j, j + (columns - 1) * self.strides[1] + 1, self.strides[1])
                value = inputs[:, :, down, across] if first else inputs[:, down, across]
                if best is None:
                    best = value
                    # What is padded has no place; its pixel on the border is in the window.
                    here = ops.maximum(row, 0) * width + ops.maximum(column, 0)
                    place = here + ops.zeros(ops.shape(value), dtype="int32")
                    continue
                better = (value > best) | (value != value)  # the latter for NaN
                best = ops.where(better, value, best)
                place = ops.where(better, (row + i) * width + column + j, place)
        return best, place

    def compute_output_shape(self, input_shape: Shape) -> tuple[Shape, Shape]:
        shape = super().compute_output_shape(input_shape)
        return shape, shape

    def compute_output_spec(self, inputs: Any) -> tuple[Any, Any]:
        shape, _ = self.compute_output_shape(inputs.shape)
        return keras.KerasTensor(shape, self.compute_dtype), keras.KerasTensor(shape, "int32")
