"""Spectral normalisation, as a wrapper."""

from __future__ import annotations

from typing import Any

import keras
from keras import initializers, ops

from keras_tl.layers.arguments import integer
from keras_tl.layers.normalization.effective_kernel import EffectiveKernelWrapper

__all__ = ["SpectralNormalization"]

FIRST_ITERATIONS = 15


@keras.saving.register_keras_serializable(package="keras_tl")
class SpectralNormalization(EffectiveKernelWrapper):
    """Runs a layer with its kernel divided by the kernel's spectral norm.

    The norm, the largest singular value of the kernel as a matrix whose columns are its last axis,
    is `||kernel u||`, where `u` is a running estimate of the right singular vector by power
    iteration. The last axis is the outputs', but the inputs' in a transposed convolution, as in
    Keras' layer. Miyato et al., [Spectral Normalization for Generative Adversarial
    Networks](https://arxiv.org/abs/1802.05957), algorithm 1 and equation 12.

    It takes what `keras.layers.SpectralNormalization` takes, and its weight files. That layer
    writes the normalised kernel into the layer's own, which on jax is lost in each training step
    and in mixed precision rounds the kernel to half precision, and it leaves the norm out of the
    gradient. This layer computes the kernel for each call, and the gradient goes through the norm.
    A layer is normalised from the first call on, also in inference: `u` begins with 15 iterations.

    Args:
        layer: The layer to wrap: one with a weight `kernel` or `embeddings`.
        power_iterations: Integer, the iterations in each training step.
        **kwargs: `name`, `dtype` and `trainable`, as of any Keras layer.

    Call arguments:
        inputs: What the layer takes.
        training: Whether `u` is improved; passed on to the layer.

    Raises:
        ValueError: For a bad argument, or a layer without a kernel.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> from keras_tl.layers import SpectralNormalization
    >>> dense = keras.layers.Dense(2, kernel_initializer=keras.initializers.Identity(gain=5.0))
    >>> layer = SpectralNormalization(dense)
    >>> np.round(keras.ops.convert_to_numpy(layer(np.array([[3.0, 4.0]]))), 3)
    array([[3., 4.]], dtype=float32)
    """

    def __init__(self, layer: keras.layers.Layer, power_iterations: int = 1, **kwargs: Any) -> None:
        super().__init__(layer, **kwargs)
        self.power_iterations = integer("power_iterations", power_iterations)

    def build(self, input_shape: Any) -> None:
        super().build(input_shape)
        self.vector_u = self.add_weight(
            shape=(1, self.kernel.shape[-1]),
            initializer=self._first_u,
            trainable=False,
            name="vector_u",
            dtype=self.kernel.dtype,
            autocast=False,
        )

    def _matrix(self) -> Any:
        return ops.reshape(self.full_kernel(), (-1, self.kernel.shape[-1]))

    def _first_u(self, shape: Any, dtype: Any = None) -> Any:
        matrix = self._matrix()
        u = initializers.RandomNormal()(shape, dtype=matrix.dtype)
        return ops.cast(_iterated(matrix, u, FIRST_ITERATIONS), dtype)

    def effective_kernel(self, training: bool | None) -> Any:
        matrix, u = self._matrix(), self.vector_u.value
        if training and self.trainable:
            u = ops.cast(u, matrix.dtype)
            u = ops.stop_gradient(_iterated(ops.stop_gradient(matrix), u, self.power_iterations))
            u = ops.cast(u, self.vector_u.dtype)
            self.vector_u.assign(u)
        image = ops.matmul(ops.cast(u, matrix.dtype), ops.transpose(matrix))
        return self.full_kernel() * _inverse_norm(image)

    def load_own_variables(self, store: Any) -> None:
        if set(store.keys()) == {"0", "1"}:  # Keras' layer saves the kernel a second time
            store = {"0": store["1"]}
        super().load_own_variables(store)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "power_iterations": self.power_iterations}


def _inverse_norm(vector: Any) -> Any:
    """1 over its length, and 1 for zeros, so that a kernel of zeros remains one."""
    square = ops.sum(ops.square(vector))
    return ops.rsqrt(ops.where(square > 0, square, 1.0))


def _iterated(matrix: Any, u: Any, iterations: int) -> Any:
    """The row `u` after some power iterations; where they end in zeros, the last that is not."""
    for _ in range(iterations):
        v = ops.matmul(u, ops.transpose(matrix))
        u_next = ops.matmul(v * _inverse_norm(v), matrix)
        u = ops.where(ops.any(u_next != 0), u_next, u)
        u = u * _inverse_norm(u)
    return u
