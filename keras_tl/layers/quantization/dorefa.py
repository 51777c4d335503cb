"""Dense and convolution with weights and inputs of a few bits, as DoReFa-Net has them."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_tl.layers.arguments import choice
from keras_tl.layers.quantization.base import (
    QuantizedConv2D,
    QuantizedDense,
    QuantizedLayer,
    bit_count,
)
from keras_tl.layers.quantization.quantizers import (
    Quantized,
    dorefa_inputs,
    dorefa_weights,
    full_precision,
)

__all__ = ["DoReFaConv2D", "DoReFaDense"]


class _DoReFa(QuantizedLayer):
    def __init__(
        self,
        *args: Any,
        weight_bits: int = 1,
        input_bits: int | None = 3,
        variant: str = "paper",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.weight_bits = bit_count("weight_bits", weight_bits, 1)
        self.input_bits = None if input_bits is None else bit_count("input_bits", input_bits, 1)
        self.variant = choice("variant", variant, ("paper", "tensorlayer"))
        self.kernel_bits = self.weight_bits

    def quantize_kernel(self, kernel: Any) -> Quantized:
        return dorefa_weights(kernel, self.weight_bits, self.variant)

    def quantize_inputs(self, inputs: Any, training: bool | None, mask: Any) -> Any:
        if self.input_bits is None:
            return inputs
        values = dorefa_inputs(full_precision(inputs), self.input_bits, self.variant).forward()
        return ops.cast(values, self.compute_dtype)

    def input_entries(self) -> dict[str, Any]:
        if self.input_bits is None:
            return {}
        return {
            "input_bits": self.input_bits,
            "input_scale": 1 / (2**self.input_bits - 1),
            "input_zero": 0.0,
        }

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "weight_bits": self.weight_bits,
            "input_bits": self.input_bits,
            "variant": self.variant,
        }


@keras.saving.register_keras_serializable(package="keras_tl")
class DoReFaDense(_DoReFa, QuantizedDense):
    """`keras.layers.Dense` with weights and inputs of a few bits.

    With n = 2**bits - 1 and q(v) = round(n * v) / n for v in [0, 1]:

    - weights of 1 bit are mean|w| * sign(w), where sign(0) is 1 and the mean is of the whole
      kernel; their gradient is passed on as it is;
    - weights of more bits are 2 * q(tanh(w) / (2 * max|tanh(w)|) + 1/2) - 1;
    - inputs are q(clip(x, 0, 1)), so the layer before should give values in [0, 1]; a network's
      first layer wants `input_bits=None`.

    The gradient of the rounding is taken as 1. Gradients are not quantised (the paper's G is 32).
    The bias stays a float.

    Source: Zhou et al., DoReFa-Net, arXiv:1606.06160, equations 5 to 11.

    TensorLayer's layer has other formulas: see `variant`.

    Args:
        *args, **kwargs: Those of `keras.layers.Dense`.
        weight_bits: From 1 to 16.
        input_bits: From 1 to 16; None leaves the inputs as they are.
        variant: "paper", or "tensorlayer" for weights that were trained with TensorLayer: weights
            of more than one bit are 2 * q(clip(w / 2 + 1/2, 0, 1)) - 1 and inputs are
            q(min(1, |x|)).

    Input shape:
        `(batch, ..., input_dim)`, floats.

    Output shape:
        `(batch, ..., units)`.

    Raises:
        ValueError: For bad arguments, and for a `dtype` with a quantization of Keras'.

    Example:

    >>> import keras, numpy as np
    >>> from keras_tl.layers import DoReFaDense
    >>> layer = DoReFaDense(1, kernel_initializer="ones", weight_bits=2, input_bits=1)
    >>> x = np.array([[0.2, 0.7, 5.0]], "float32")
    >>> keras.ops.convert_to_numpy(layer(x)).tolist()  # 0 + 1 + 1
    [[2.0]]
    """


@keras.saving.register_keras_serializable(package="keras_tl")
class DoReFaConv2D(_DoReFa, QuantizedConv2D):
    """`keras.layers.Conv2D` with weights and inputs of a few bits, as those of `DoReFaDense`.

    Args:
        *args, **kwargs: Those of `keras.layers.Conv2D`.
        weight_bits: From 1 to 16.
        input_bits: From 1 to 16; None leaves the inputs as they are.
        variant: "paper", or "tensorlayer" for weights that were trained with TensorLayer.

    Input shape:
        `(batch, height, width, channels)`, or channels first by `data_format`.

    Output shape:
        That of `keras.layers.Conv2D`.

    Raises:
        ValueError: For bad arguments.

    Example:

    >>> import numpy as np
    >>> from keras_tl.layers import DoReFaConv2D
    >>> layer = DoReFaConv2D(8, 3, weight_bits=2, input_bits=4)
    >>> tuple(layer(np.zeros((2, 6, 6, 4), "float32")).shape)
    (2, 4, 4, 8)
    """
