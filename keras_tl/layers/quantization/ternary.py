"""Dense and convolution with weights of three values."""

from __future__ import annotations

from typing import Any

import keras

from keras_tl.layers.quantization.base import QuantizedConv2D, QuantizedDense, QuantizedLayer
from keras_tl.layers.quantization.quantizers import Quantized, ternary

__all__ = ["TernaryConv2D", "TernaryDense"]


class _Ternary(QuantizedLayer):
    kernel_bits = 2

    def quantize_kernel(self, kernel: Any) -> Quantized:
        return ternary(kernel)


@keras.saving.register_keras_serializable(package="keras_tl")
class TernaryDense(_Ternary, QuantizedDense):
    """`keras.layers.Dense` whose weights are -alpha, 0 and alpha.

    A weight is 0 where |w| <= t, with t = 0.7 * mean|w|, and alpha * sign(w) elsewhere; alpha is
    the mean of |w| over the weights that are not 0. Both are of the whole kernel. The gradient of
    the ternary kernel is passed to the latent one as it is. The bias stays a float.

    Source: Li et al., Ternary Weight Networks, arXiv:1605.04711, equations 3 to 6.

    TensorLayer's layer passes on twice the gradient, and gives NaN for a kernel of zeros.

    Args:
        *args, **kwargs: Those of `keras.layers.Dense`.

    Input shape:
        `(batch, ..., input_dim)`, floats.

    Output shape:
        `(batch, ..., units)`.

    Raises:
        ValueError: For bad arguments, and for a `dtype` with a quantization of Keras'.

    Example:

    >>> import keras, numpy as np
    >>> from keras_tl.layers import TernaryDense, unpack_weights
    >>> layer = TernaryDense(1)
    >>> layer.build((None, 4))
    >>> layer.set_weights([np.array([[0.5], [-1.5], [0.1], [0.2]]), np.zeros(1)])
    >>> unpack_weights(layer.export_packed())[0].ravel().tolist()  # t = 0.4025, alpha = 1
    [1.0, -1.0, 0.0, 0.0]
    """


@keras.saving.register_keras_serializable(package="keras_tl")
class TernaryConv2D(_Ternary, QuantizedConv2D):
    """`keras.layers.Conv2D` whose weights are -alpha, 0 and alpha, as those of `TernaryDense`.

    Args:
        *args, **kwargs: Those of `keras.layers.Conv2D`.

    Input shape:
        `(batch, height, width, channels)`, or channels first by `data_format`.

    Output shape:
        That of `keras.layers.Conv2D`.

    Raises:
        ValueError: For bad arguments.

    Example:

    >>> import numpy as np
    >>> from keras_tl.layers import TernaryConv2D
    >>> layer = TernaryConv2D(8, 3, padding="same")
    >>> tuple(layer(np.zeros((2, 6, 6, 4), "float32")).shape)
    (2, 6, 6, 8)
    >>> layer.export_packed()["kernel"].nbytes  # 3 * 3 * 4 * 8 weights of 2 bits
    72
    """
