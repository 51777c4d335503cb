"""Dense and convolution that are trained for integer arithmetic."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_tl.layers.arguments import choice, fraction
from keras_tl.layers.quantization.base import (
    QuantizedConv2D,
    QuantizedDense,
    QuantizedLayer,
    bit_count,
)
from keras_tl.layers.quantization.quantizers import (
    Quantized,
    affine,
    fake_quantize,
    full_precision,
)

__all__ = ["FakeQuantConv2D", "FakeQuantDense", "FakeQuantLayer"]


class FakeQuantLayer(QuantizedLayer):
    """The mixin of the layers in this file and of those that fold a batch normalisation."""

    def __init__(
        self,
        *args: Any,
        weight_bits: int = 8,
        input_bits: int | None = 8,
        input_range: str = "moving",
        range_momentum: float = 0.99,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.weight_bits = bit_count("weight_bits", weight_bits, 2)
        self.input_bits = None if input_bits is None else bit_count("input_bits", input_bits, 1)
        self.input_range = choice("input_range", input_range, ("moving", "batch"))
        self.range_momentum = fraction("range_momentum", range_momentum)
        self.kernel_bits = self.weight_bits
        self.keeps_range = self.input_bits is not None and self.input_range == "moving"

    def build(self, input_shape: Any) -> None:
        super().build(input_shape)
        if self.keeps_range:
            # Both 0 as long as no input was seen.
            self.input_min, self.input_max = (
                self.add_weight(shape=(), initializer="zeros", trainable=False, name=name)
                for name in ("input_min", "input_max")
            )
            self.more_variables += ("input_min", "input_max")

    def quantize_kernel(self, kernel: Any) -> Quantized:
        # One level fewer: the range of signed integers is symmetric (the paper's section 3.1).
        return fake_quantize(kernel, *_range(kernel), levels=2**self.weight_bits - 2)

    def quantize_inputs(self, inputs: Any, training: bool | None, mask: Any) -> Any:
        if self.input_bits is None:
            return inputs
        x = full_precision(inputs)
        low, high = self.range_of(x, training, mask)
        quantized = fake_quantize(x, low, high, levels=2**self.input_bits - 1)
        values = ops.where(high > low, quantized.forward(), x)
        return ops.cast(values, self.compute_dtype)

    def range_of(self, x: Any, training: bool | None, mask: Any) -> tuple[Any, Any]:
        updates = training and self.trainable
        if self.keeps_range and not updates:
            return full_precision(self.input_min), full_precision(self.input_max)
        # What is masked counts as 0, which every range holds.
        seen = x if mask is None else ops.where(expanded(mask, len(x.shape)), x, 0.0)
        found = _range(seen)
        if not self.keeps_range:
            return found
        kept = [full_precision(self.input_min), full_precision(self.input_max)]
        momentum, known = self.range_momentum, kept[1] > kept[0]
        # One batch with an infinite or NaN value would be in the average for ever.
        counts = ops.logical_and(ops.isfinite(found[0]), ops.isfinite(found[1]))
        low, high = (
            ops.where(counts, ops.where(known, k * momentum + f * (1 - momentum), f), k)
            for k, f in zip(kept, found, strict=True)
        )
        self.input_min.assign(low)
        self.input_max.assign(high)
        return low, high

    def input_entries(self) -> dict[str, Any]:
        if self.input_bits is None or not self.keeps_range:
            return {}
        low, high = full_precision(self.input_min), full_precision(self.input_max)
        scale, zero = affine(low, high, 2**self.input_bits - 1)
        return {"input_bits": self.input_bits, "input_scale": scale, "input_zero": zero}

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "weight_bits": self.weight_bits,
            "input_bits": self.input_bits,
            "input_range": self.input_range,
            "range_momentum": self.range_momentum,
        }


def expanded(mask: Any, rank: int) -> Any:
    """A mask of the first axes, with axes of length 1 for the others of `rank`."""
    return ops.expand_dims(mask, tuple(range(len(mask.shape), rank)))


def _range(x: Any) -> tuple[Any, Any]:
    """The least and the greatest value, and 0 in any case."""
    x = ops.stop_gradient(x)
    return ops.minimum(ops.min(x), 0.0), ops.maximum(ops.max(x), 0.0)


@keras.saving.register_keras_serializable(package="keras_tl")
class FakeQuantDense(FakeQuantLayer, QuantizedDense):
    """`keras.layers.Dense` whose weights and inputs are rounded as integer arithmetic rounds them.

    A range [low, high], which holds 0, is cut into equal steps, `scale = (high - low) / levels` and
    `zero = round(-low / scale)`; a value becomes
    `scale * (clip(round(v / scale + zero), 0, levels) - zero)`. The gradient is taken as 1 inside
    the range and 0 where values are clipped.

    - Weights: the range is that of the whole kernel; levels = 2**weight_bits - 2.
    - Inputs: the range is a moving average of the batches' ranges, updated in training only, and by
      a frozen layer not at all; levels = 2**input_bits - 1. Before any training there is no range,
      and inputs are not rounded. A batch whose range is not finite does not move it.

    The bias stays a float.

    Source: Jacob et al., Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference, arXiv:1712.05877, sections 2.1 and 3.

    TensorLayer's `QuanDense` takes the range of the batch in inference too, has no exact 0, and
    gives NaN for a constant tensor.

    Args:
        *args, **kwargs: Those of `keras.layers.Dense`.
        weight_bits: From 2 to 16.
        input_bits: From 1 to 16; None leaves the inputs as they are.
        input_range: "moving", or "batch" for the range of the batch at hand, in inference too, as
            TensorLayer has it: then an output depends on the rest of its batch.
        range_momentum: How much of the moving range stays in a step, in [0, 1).

    Input shape:
        `(batch, ..., input_dim)`, floats. Masked steps do not count in the range.

    Output shape:
        `(batch, ..., units)`.

    Raises:
        ValueError: For bad arguments, and for a `dtype` with a quantization of Keras'.

    Example:

    >>> import keras, numpy as np
    >>> from keras_tl.layers import FakeQuantDense
    >>> layer = FakeQuantDense(1, kernel_initializer="ones", input_bits=1)
    >>> x = np.array([[0.2, 0.7, 1.0]], "float32")
    >>> keras.ops.convert_to_numpy(layer(x, training=True)).tolist()  # 0 + 1 + 1
    [[2.0]]
    >>> keras.ops.convert_to_numpy(layer(4 * x)).tolist()  # inference keeps the range [0, 1]
    [[3.0]]
    """


@keras.saving.register_keras_serializable(package="keras_tl")
class FakeQuantConv2D(FakeQuantLayer, QuantizedConv2D):
    """`keras.layers.Conv2D` whose weights and inputs are rounded as those of `FakeQuantDense`.

    Args:
        *args, **kwargs: Those of `keras.layers.Conv2D`.
        weight_bits: From 2 to 16.
        input_bits: From 1 to 16; None leaves the inputs as they are.
        input_range: "moving", or "batch" for the range of the batch at hand, in inference too.
        range_momentum: How much of the moving range stays in a step, in [0, 1).

    Input shape:
        `(batch, height, width, channels)`, or channels first by `data_format`.

    Output shape:
        That of `keras.layers.Conv2D`.

    Raises:
        ValueError: For bad arguments.

    Example:

    >>> import numpy as np
    >>> from keras_tl.layers import FakeQuantConv2D
    >>> layer = FakeQuantConv2D(8, 3, weight_bits=4)
    >>> tuple(layer(np.zeros((2, 6, 6, 4), "float32")).shape)
    (2, 4, 4, 8)
    """
