"""Dense and convolution with a batch normalisation folded into the rounded weights."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_tl.layers.arguments import fraction, number
from keras_tl.layers.normalization.moments import masked_moments, moments
from keras_tl.layers.quantization.base import QuantizedConv2D, QuantizedDense
from keras_tl.layers.quantization.fake_quant import FakeQuantLayer, expanded
from keras_tl.layers.quantization.quantizers import full_precision

__all__ = ["FakeQuantConv2DWithBatchNorm", "FakeQuantDenseWithBatchNorm"]


class _Folded(FakeQuantLayer):
    def __init__(
        self,
        *args: Any,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        scale: bool = True,
        gamma_initializer: Any = "ones",
        gamma_regularizer: Any = None,
        gamma_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.momentum = fraction("momentum", momentum)
        self.epsilon = number("epsilon", epsilon, 0, exclusive=True)
        self.scale = bool(scale)
        self.gamma_initializer = keras.initializers.get(gamma_initializer)
        self.gamma_regularizer = keras.regularizers.get(gamma_regularizer)
        self.gamma_constraint = keras.constraints.get(gamma_constraint)

    def build(self, input_shape: Any) -> None:
        super().build(input_shape)
        shape = self.kernel.shape[-1:]
        self.gamma = None
        if self.scale:
            self.gamma = self.add_weight(
                name="gamma",
                shape=shape,
                initializer=self.gamma_initializer,
                regularizer=self.gamma_regularizer,
                constraint=self.gamma_constraint,
            )
            self.more_variables += ("gamma",)
        self.moving_mean = self.add_weight(
            name="moving_mean", shape=shape, initializer="zeros", trainable=False
        )
        self.moving_variance = self.add_weight(
            name="moving_variance", shape=shape, initializer="ones", trainable=False
        )
        self.more_variables += ("moving_mean", "moving_variance")

    def latent_weights(self, inputs: Any, training: bool | None, mask: Any) -> tuple[Any, Any]:
        kernel, beta = super().latent_weights(inputs, training, mask)
        mean, variance = full_precision(self.moving_mean), full_precision(self.moving_variance)
        if training and self.trainable:
            found = self.statistics(inputs, kernel, mask)
            for moving, kept, new in (
                (self.moving_mean, mean, found[0]),
                (self.moving_variance, variance, found[1]),
            ):
                new = ops.stop_gradient(new)
                moving.assign(kept * self.momentum + new * (1 - self.momentum))
            mean, variance = found
        factor = ops.rsqrt(variance + self.epsilon)
        if self.gamma is not None:
            factor = factor * full_precision(self.gamma)
        shift = -mean * factor
        return kernel * factor, shift if beta is None else beta + shift

    def statistics(self, inputs: Any, kernel: Any, mask: Any) -> tuple[Any, Any]:
        """Mean and variance, by channel, of the product with the kernel before it is rounded."""
        product = full_precision(self.product(inputs, ops.cast(kernel, self.compute_dtype)))
        rank = len(product.shape)
        axes = tuple(a for a in range(rank) if a != self.channel_axis % rank)
        if mask is None:
            mean, variance = moments(product, axes)
        else:
            weights = ops.cast(expanded(mask, rank), product.dtype)
            # A value for each product, so that `masked_moments` counts all that it sums.
            weights = ops.broadcast_to(weights, (*ops.shape(product)[:-1], 1))
            mean, variance, _ = masked_moments(product, axes, weights)
        return ops.reshape(mean, (-1,)), ops.reshape(variance, (-1,))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "scale": self.scale,
            "gamma_initializer": keras.initializers.serialize(self.gamma_initializer),
            "gamma_regularizer": keras.regularizers.serialize(self.gamma_regularizer),
            "gamma_constraint": keras.constraints.serialize(self.gamma_constraint),
        }


@keras.saving.register_keras_serializable(package="keras_tl")
class FakeQuantDenseWithBatchNorm(_Folded, QuantizedDense):
    """`FakeQuantDense` and the batch normalisation after it as one layer with folded weights.

    The kernel that is rounded is `kernel * gamma / sqrt(variance + epsilon)`, the bias that is
    added is `beta - mean * gamma / sqrt(variance + epsilon)`, so that inference is one product. In
    training, mean and variance are those of the batch, of the rounded inputs' product with the
    kernel before it is rounded, and the moving ones follow. In inference, and where the layer is
    frozen, they are the moving ones.

    `bias` is beta: `use_bias`, `bias_initializer` and so on are beta's.

    Source: Jacob et al., arXiv:1712.05877, section 3.2, equation 14.

    TensorLayer's `QuanDenseWithBN` starts with a moving mean of 1, updates the moving statistics in
    inference too, and has epsilon = 1e-5 and momentum = 0.9.

    Args:
        *args, **kwargs: Those of `FakeQuantDense`.
        momentum: How much of the moving statistics stays in a step, in [0, 1).
        epsilon: Added to the variance, above 0.
        scale: Whether there is a gamma.
        gamma_initializer, gamma_regularizer, gamma_constraint: As in
            `keras.layers.BatchNormalization`.

    Input shape:
        `(batch, ..., input_dim)`, floats. Masked steps do not count in the statistics.

    Output shape:
        `(batch, ..., units)`.

    Raises:
        ValueError: For bad arguments, and for a `dtype` with a quantization of Keras'.

    Example:

    >>> import keras, numpy as np
    >>> from keras_tl.layers import FakeQuantDenseWithBatchNorm
    >>> layer = FakeQuantDenseWithBatchNorm(1, kernel_initializer="ones", input_bits=None)
    >>> y = layer(np.array([[1.0, 2.0], [3.0, 4.0]], "float32"), training=True)
    >>> keras.ops.convert_to_numpy(y).round(2).tolist()
    [[-1.0], [1.0]]
    """


@keras.saving.register_keras_serializable(package="keras_tl")
class FakeQuantConv2DWithBatchNorm(_Folded, QuantizedConv2D):
    """`FakeQuantConv2D` and the batch normalisation after it, as `FakeQuantDenseWithBatchNorm`.

    Args:
        *args, **kwargs: Those of `FakeQuantConv2D`.
        momentum: How much of the moving statistics stays in a step, in [0, 1).
        epsilon: Added to the variance, above 0.
        scale: Whether there is a gamma.
        gamma_initializer, gamma_regularizer, gamma_constraint: As in
            `keras.layers.BatchNormalization`.

    Input shape:
        `(batch, height, width, channels)`, or channels first by `data_format`.

    Output shape:
        That of `keras.layers.Conv2D`.

    Raises:
        ValueError: For bad arguments.

    Example:

    >>> import numpy as np
    >>> from keras_tl.layers import FakeQuantConv2DWithBatchNorm
    >>> layer = FakeQuantConv2DWithBatchNorm(8, 3, padding="same")
    >>> tuple(layer(np.zeros((2, 6, 6, 4), "float32")).shape)
    (2, 6, 6, 8)
    """
