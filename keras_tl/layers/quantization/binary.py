"""Dense and convolution with weights of one bit."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_tl.layers.quantization.base import QuantizedConv2D, QuantizedDense, QuantizedLayer
from keras_tl.layers.quantization.quantizers import Quantized, binary

__all__ = ["BinaryConv2D", "BinaryDense", "UnitClip"]


@keras.saving.register_keras_serializable(package="keras_tl")
class UnitClip(keras.constraints.Constraint):
    """Clips weights to [-1, 1]: outside, a binary weight has no gradient that brings it back."""

    def __call__(self, w: Any) -> Any:
        return ops.clip(w, -1, 1)


class _Binary(QuantizedLayer):
    kernel_bits = 1
    kernel_constraint: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.kernel_constraint is None:
            self.kernel_constraint = UnitClip()

    def quantize_kernel(self, kernel: Any) -> Quantized:
        return binary(kernel)


@keras.saving.register_keras_serializable(package="keras_tl")
class BinaryDense(_Binary, QuantizedDense):
    """`keras.layers.Dense` whose weights are -1 and 1.

    `outputs = activation(inputs @ sign(kernel) + bias)`, where sign(0) is 1. The latent kernel is
    trained by the straight-through gradient, that of sign(w) taken as 1 where |w| <= 1 and 0
    elsewhere, and is clipped to [-1, 1] after each step. The inputs stay as they are: put a `Sign`
    layer before for a binary network. The bias stays a float.

    Source: Courbariaux et al., Binarized Neural Networks, arXiv:1602.02830, equations 1 and 4,
    algorithm 1.

    TensorLayer's layer has sign(0) = 0, clips gradients instead of weights, and in its 2.x releases
    its kernel gets no gradient at all.

    Args:
        *args, **kwargs: Those of `keras.layers.Dense`. A `kernel_constraint` of None clips the
            latent kernel to [-1, 1].

    Input shape:
        `(batch, ..., input_dim)`, floats.

    Output shape:
        `(batch, ..., units)`.

    Raises:
        ValueError: For bad arguments, and for a `dtype` with a quantization of Keras'.

    Example:

    >>> import keras, numpy as np
    >>> from keras_tl.layers import BinaryDense
    >>> layer = BinaryDense(2, kernel_initializer=keras.initializers.Constant(0.3))
    >>> keras.ops.convert_to_numpy(layer(np.ones((1, 5), "float32"))).tolist()
    [[5.0, 5.0]]
    """


@keras.saving.register_keras_serializable(package="keras_tl")
class BinaryConv2D(_Binary, QuantizedConv2D):
    """`keras.layers.Conv2D` whose weights are -1 and 1, trained as those of `BinaryDense`.

    Args:
        *args, **kwargs: Those of `keras.layers.Conv2D`. A `kernel_constraint` of None clips the
            latent kernel to [-1, 1].

    Input shape:
        `(batch, height, width, channels)`, or channels first by `data_format`.

    Output shape:
        That of `keras.layers.Conv2D`.

    Raises:
        ValueError: For bad arguments.

    Example:

    >>> import keras, numpy as np
    >>> from keras_tl.layers import BinaryConv2D
    >>> layer = BinaryConv2D(2, 3, kernel_initializer=keras.initializers.Constant(-0.3))
    >>> y = layer(np.ones((1, 3, 3, 1), "float32"))
    >>> keras.ops.convert_to_numpy(y).tolist()
    [[[[-9.0, -9.0]]]]
    """
