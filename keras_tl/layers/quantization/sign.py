"""The sign of activations, with a gradient."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_tl.layers.quantization.quantizers import binary

__all__ = ["Sign"]


@keras.saving.register_keras_serializable(package="keras_tl")
class Sign(keras.layers.Layer):
    """Activations that are -1 and 1, for binary networks.

    The output is 1 where x >= 0 and -1 elsewhere; the gradient is taken as 1 where |x| <= 1 and 0
    elsewhere (`keras.ops.sign` has none).

    Source: Courbariaux et al., Binarized Neural Networks, arXiv:1602.02830, equations 1 and 4.

    TensorLayer's layer has sign(0) = 0, clips the gradient's values instead of masking it, and in
    its 2.x releases gives no gradient.

    Args:
        **kwargs: Those of `keras.layers.Layer`.

    Input shape:
        Any, floats.

    Output shape:
        That of the input.

    Example:

    >>> import keras, numpy as np
    >>> from keras_tl.layers import Sign
    >>> keras.ops.convert_to_numpy(Sign()(np.array([[-2.0, -0.1, 0.0, 3.0]]))).tolist()
    [[-1.0, -1.0, 1.0, 1.0]]
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs: Any) -> Any:
        return binary(ops.cast(inputs, self.compute_dtype)).forward()

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape
