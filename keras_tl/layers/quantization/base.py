"""What all layers with a quantised kernel share."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_tl.layers.arguments import integer, static
from keras_tl.layers.convolve import convolve
from keras_tl.layers.quantization.packing import pack
from keras_tl.layers.quantization.quantizers import Quantized, full_precision

__all__ = ["QuantizedConv2D", "QuantizedDense", "QuantizedLayer", "bit_count"]


class QuantizedLayer(keras.layers.Layer):
    """A mixin before `keras.layers.Dense` or `Conv2D`.

    `kernel` is the latent weight, which is trained and saved. `call` multiplies with what
    `quantize_kernel` makes of it.

    Keras' own `quantize()` is for layers that were trained in floating point: Keras refuses it for
    subclasses, and this class a dtype policy that asks for it. `enable_lora()` adapts the latent
    kernel, before it is quantised.
    """

    kernel_bits: int
    channel_axis: int = -1
    more_variables: tuple[str, ...] = ()  # besides kernel and bias, by their attributes' names

    def quantize_kernel(self, kernel: Any) -> Quantized:
        raise NotImplementedError

    def quantize_inputs(self, inputs: Any, training: bool | None, mask: Any) -> Any:
        return inputs

    def latent_weights(self, inputs: Any, training: bool | None, mask: Any) -> tuple[Any, Any]:
        """The kernel as it is quantised, and the bias or None; both in full precision."""
        bias = None if self.bias is None else full_precision(self.bias)
        return full_precision(self.kernel), bias

    def input_entries(self) -> dict[str, Any]:
        """What `export_packed` says of the inputs."""
        return {}

    def product(self, inputs: Any, kernel: Any) -> Any:
        raise NotImplementedError

    def add_weight(self, *args: Any, **kwargs: Any) -> Any:
        # Half precision would move weights over a threshold before they are quantised.
        return super().add_weight(*args, **{"autocast": False, **kwargs})

    def build(self, input_shape: Any) -> None:
        if self.quantization_mode is not None:
            raise ValueError(
                f"`dtype` of `{type(self).__name__}` must not ask for a quantization of Keras'. "
                f"Received: dtype={self.dtype_policy.name!r}"
            )
        static(self, input_shape, self.channel_axis, "channels")
        super().build(input_shape)

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        # A convolution passes no mask on, so that one is of no use to it either.
        mask = mask if self.supports_masking else None
        inputs = self.quantize_inputs(inputs, training, mask)
        kernel, bias = self.latent_weights(inputs, training, mask)
        kernel = ops.cast(self.quantize_kernel(kernel).forward(), self.compute_dtype)
        outputs = self.product(inputs, kernel)
        if bias is not None:
            bias = ops.cast(bias, self.compute_dtype)
            if self.channel_axis == 1:
                bias = ops.reshape(bias, (-1, 1, 1))
            outputs = outputs + bias  # `ops.add` is wrong on TensorFlow for channels_first
        return outputs if self.activation is None else self.activation(outputs)

    def export_packed(self) -> dict[str, np.ndarray]:
        """The weights of inference as NumPy arrays, the quantised kernel as packed bits.

        All entries are arrays: `numpy.savez(path, **layer.export_packed())` stores them, and
        `unpack_weights` reads them.

        Returns:
            A dict with these entries:
            "kernel": uint8, the kernel's codes in C order, `kernel_bits` bits each, least
            significant bit first.
            "kernel_shape", "kernel_bits".
            "kernel_scale", "kernel_zero": a weight is `scale * (code - zero)`.
            "bias": if there is one; with folded batch normalisation, the folded one.
            "input_scale", "input_zero", "input_bits": where inputs are quantised with a range that
            does not depend on the batch: they become
            `scale * (clip(round(x / scale + zero), 0, 2**bits - 1) - zero)`.
        """
        if not self.built:
            raise ValueError(
                f"`{type(self).__name__}` has no weights to export before it is built. "
                f"Received: name={self.name!r}"
            )
        kernel, bias = self.latent_weights(None, False, None)
        entries = {} if bias is None else {"bias": bias}
        entries.update(self.input_entries())
        packed = pack(self.quantize_kernel(kernel), self.kernel_bits)
        return packed | {k: np.asarray(ops.convert_to_numpy(v)) for k, v in entries.items()}

    # Keras' Dense and Conv2D store no more than kernel and bias.

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        for name in self.more_variables if self.built else ():
            store[name] = getattr(self, name)

    def load_own_variables(self, store: Any) -> None:
        super().load_own_variables(store)
        for name in self.more_variables:
            getattr(self, name).assign(store[name])


class QuantizedDense(QuantizedLayer, keras.layers.Dense):
    """`keras.layers.Dense` with a quantised kernel."""

    def product(self, inputs: Any, kernel: Any) -> Any:
        return ops.matmul(inputs, kernel)


class QuantizedConv2D(QuantizedLayer, keras.layers.Conv2D):
    """`keras.layers.Conv2D` with a quantised kernel."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.channel_axis = 1 if self.data_format == "channels_first" else -1

    def product(self, inputs: Any, kernel: Any) -> Any:
        return convolve(self, inputs, kernel)


def bit_count(name: str, value: Any, minimum: int) -> int:
    """`value` as a number of bits. Codes of more than 16 are not exact in float32 arithmetic."""
    if integer(name, value, minimum) > 16:
        raise ValueError(f"`{name}` must be at most 16. Received: {name}={value!r}")
    return int(value)
