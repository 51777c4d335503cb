from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_tl.layers import arguments
from keras_tl.layers.activations.pieces import pieces

__all__ = ["LeakyTwiceReLU6"]


@keras.saving.register_keras_serializable(package="keras_tl")
class LeakyTwiceReLU6(keras.layers.Layer):
    """Leaky on both sides of [0, 6], with constant slopes.

    `negative_slope * x` below 0, `6 + high_slope * (x - 6)` above 6, `x` between: TensorLayer's
    `leaky_twice_relu6`. `PTReLU6` learns the slopes. Its `ramp` and `leaky_relu6` are
    `keras.layers.ReLU(max_value, threshold)` and `ReLU(max_value=6, negative_slope)`.

    Args:
        negative_slope: below 0, at least 0.
        high_slope: above 6, at least 0.

    Input shape: any. Output shape: the same. A mask is passed on.

    Raises:
        ValueError: if a slope is negative.

    Example:
        >>> import numpy as np
        >>> y = LeakyTwiceReLU6(0.25, 0.5)(np.array([-4.0, 2.0, 8.0], "float32"))
        >>> keras.ops.convert_to_numpy(y).tolist()
        [-1.0, 2.0, 7.0]
    """

    def __init__(self, negative_slope: float = 0.2, high_slope: float = 0.2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.negative_slope = arguments.number("negative_slope", negative_slope, 0)
        self.high_slope = arguments.number("high_slope", high_slope, 0)
        self.supports_masking = True

    def call(self, inputs: Any) -> Any:
        return pieces(ops.cast(inputs, self.compute_dtype), self.negative_slope, self.high_slope)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        own = {"negative_slope": self.negative_slope, "high_slope": self.high_slope}
        return {**super().get_config(), **own}
