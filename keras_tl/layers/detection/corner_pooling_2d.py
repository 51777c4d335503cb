from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_tl.layers import arguments


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
        with channels first. Height and width are known.

    Output shape:
        That of one map.

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
        if len(shapes) != 2 or len(shapes[0]) != 4 or len(shapes[1]) != 4:
            raise ValueError(
                "`CornerPooling2D` takes a list of two maps of 4 axes, for the vertical and the "
                f"horizontal maximum. Received: input shapes {input_shape}"
            )
        for axis, name in zip(self._axes, ("height", "width"), strict=True):
            for shape in shapes:
                arguments.static(self, shape, axis, name)

    @property
    def _axes(self) -> tuple[int, int]:
        return (1, 2) if self.data_format == "channels_last" else (2, 3)

    def call(self, inputs: Any) -> Any:
        backwards = self.corner == "top_left"
        vertical, horizontal = (
            _running_maximum(x, axis, backwards) for x, axis in zip(inputs, self._axes, strict=True)
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
    if keras.backend.backend() == "jax":
        return ops.associative_scan(ops.maximum, x, reverse=backwards, axis=axis)
    # Line by line. XLA would take minutes to compile this on jax, where a scan is as fast; on
    # TensorFlow and torch a scan takes up to 50 times as long, and XLA refuses TensorFlow's.
    lines = list(ops.unstack(x, axis=axis))
    if backwards:
        lines.reverse()
    found = lines[:1]
    for line in lines[1:]:
        found.append(ops.maximum(found[-1], line))
    if backwards:
        found.reverse()
    return ops.stack(found, axis=axis)
