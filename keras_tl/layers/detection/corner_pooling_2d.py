from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from keras_tl.layers import arguments
from keras_tl.layers.detection import regions


@keras.saving.register_keras_serializable(package="keras_tl")
class CornerPooling2D(keras.layers.Layer):
    """Looks from each pixel along its row and its column, for the sides of a box.

    For the top left corner, pixel (i, j) gets `max(vertical[i:, j]) + max(horizontal[i, j:])`:
    the strongest sign of a left side below it and of a top side to its right. For the bottom
    right corner it is `max(vertical[:i + 1, j]) + max(horizontal[i, :j + 1])`.

    Source: Law and Deng, "CornerNet: Detecting Objects as Paired Keypoints", arXiv:1808.01244,
    equations 6 and 7, which takes the two maximums of two maps. TensorLayer's takes both of one:
    `layer([x, x])`.

    Args:
        corner: `"top_left"` or `"bottom_right"`.
        data_format: `"channels_last"` or `"channels_first"`; Keras' setting if None.

    Input shape:
        A list of two maps, [vertical, horizontal], each `(batch, height, width, channels)`, or
        with channels first. Both are of one shape, and height and width are known.

    Output shape:
        That of one map. Integers are computed in the layer's compute dtype.

    Raises:
        ValueError: If an argument is not as described.

    Example:

    >>> import keras, numpy as np
    >>> from keras_tl.layers import CornerPooling2D
    >>> x = np.array([[0, 3, 1], [2, 0, 0]], "float32").reshape(1, 2, 3, 1)
    >>> y = CornerPooling2D("top_left")([x, np.zeros_like(x)])
    >>> print(keras.ops.convert_to_numpy(y)[0, :, :, 0])
    [[2. 3. 1.]
     [2. 0. 0.]]
    """

    def __init__(
        self, corner: str = "top_left", data_format: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.corner = arguments.choice("corner", corner, ("top_left", "bottom_right"))
        self.data_format = arguments.data_format(data_format)

    def build(self, input_shape: Any) -> None:
        shapes = [tuple(shape) for shape in input_shape if not isinstance(shape, int | None)]
        self._check(shapes)
        for axis, name in zip(self._axes, ("height", "width"), strict=True):
            for shape in shapes:
                arguments.static(self, shape, axis, name)

    def _check(self, shapes: Any) -> None:
        if len(shapes) != 2 or len(shapes[0]) != 4 or not regions.agree(*shapes):
            raise ValueError(
                "`CornerPooling2D` takes a list of two maps of 4 axes and of one shape, for the "
                f"vertical and the horizontal maximum. Received: input shapes {shapes}"
            )

    @property
    def _axes(self) -> tuple[int, int]:
        return (1, 2) if self.data_format == "channels_last" else (2, 3)

    def call(self, inputs: Any) -> Any:
        self._check([tuple(x.shape) for x in inputs])
        backwards = self.corner == "top_left"
        vertical, horizontal = (
            _running_maximum(ops.cast(x, self.compute_dtype), axis, backwards)
            for x, axis in zip(inputs, self._axes, strict=True)
        )
        return vertical + horizontal

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        return tuple(input_shape[0])

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "corner": self.corner,
            "data_format": self.data_format,
        }


def _running_maximum(x: Any, axis: int, backwards: bool) -> Any:
    backend = keras.backend.backend()
    if backend == "jax":
        return ops.associative_scan(ops.maximum, x, reverse=backwards, axis=axis)
    # On TensorFlow and torch that takes up to 50 times as long, and XLA refuses TensorFlow's.
    # XLA needs minutes to compile a maximum line by line, so TensorFlow takes it in blocks.
    if backend == "torch":
        return _line_by_line(x, axis, backwards)
    shape = ops.shape(x)
    length = shape[axis]
    size = max(math.isqrt(length), 1)
    number = -(-length // size)
    padding = [(0, number * size - length) if i == axis else (0, 0) for i in range(len(shape))]
    x = ops.pad(x, padding, constant_values=-float("inf"))
    x = ops.reshape(x, (*shape[:axis], number, size, *shape[axis + 1 :]))
    x = _line_by_line(x, axis + 1, backwards)
    # To each block comes the maximum of the blocks before it, none to the first.
    ends = ops.take(x, [0 if backwards else size - 1], axis=axis + 1)
    ends = _line_by_line(ends, axis, backwards)
    padding = [(0, 0)] * len(x.shape)
    padding[axis] = (0, 1) if backwards else (1, 0)
    ends = ops.pad(ends, padding, constant_values=-float("inf"))
    keep = slice(1, None) if backwards else slice(0, number)
    x = ops.maximum(x, ends[(slice(None),) * axis + (keep,)])
    x = ops.reshape(x, (*shape[:axis], number * size, *shape[axis + 1 :]))
    return x[(slice(None),) * axis + (slice(0, length),)]


def _line_by_line(x: Any, axis: int, backwards: bool) -> Any:
    lines = list(ops.unstack(x, axis=axis))
    if backwards:
        lines.reverse()
    found = lines[:1]
    for line in lines[1:]:
        found.append(ops.maximum(found[-1], line))
    if backwards:
        found.reverse()
    return ops.stack(found, axis=axis)
