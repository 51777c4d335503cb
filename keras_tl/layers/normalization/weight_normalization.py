"""Weight normalisation, as a wrapper."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_tl.layers.normalization.effective_kernel import EffectiveKernelWrapper

__all__ = ["WeightNormalization"]

TRANSPOSED = (
    *(keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose),
)
DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)


@keras.saving.register_keras_serializable(package="keras_tl")
class WeightNormalization(EffectiveKernelWrapper):
    """Runs a layer with the kernel `gain * kernel / ||kernel||`.

    The length of the weight vector of each output, `gain`, and its direction are trained apart.
    Salimans and Kingma, [Weight Normalization](https://arxiv.org/abs/1602.07868), equation 2.
    `gain` begins as the lengths in the layer's kernel, so that wrapping a layer, trained or not,
    does not change what it computes. A regularizer or constraint of the layer's kernel acts on the
    direction, before it is normalised.

    TensorLayer had this on a branch that was never merged.

    Args:
        layer: The layer to wrap: one with a weight `kernel` or `embeddings`.
        axis: The axis or axes of the kernel along which the lengths differ; the norm is taken over
            the others. None: the axis of the outputs, which is the last but one for a transposed
            convolution, the last two for a depthwise one, and the last for any other layer.
        **kwargs: `name`, `dtype` and `trainable`, as of any Keras layer.

    Call arguments:
        inputs: What the layer takes.
        training: Passed on to the layer.

    Raises:
        ValueError: For a layer without a kernel, or an axis that the kernel lacks.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> from keras_tl.layers import WeightNormalization
    >>> dense = keras.layers.Dense(1, kernel_initializer=keras.initializers.Constant(2.0))
    >>> layer = WeightNormalization(dense)
    >>> y = layer(np.ones((1, 4)))
    >>> keras.ops.convert_to_numpy(y), keras.ops.convert_to_numpy(layer.gain)
    (array([[8.]], dtype=float32), array([4.], dtype=float32))
    """

    def __init__(
        self, layer: keras.layers.Layer, axis: int | tuple[int, ...] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(layer, **kwargs)
        axes = axis if isinstance(axis, tuple | list) else (axis or 0,)
        if not all(isinstance(a, int) and not isinstance(a, bool) for a in axes):
            raise ValueError(f"`axis` must be None, an integer or integers. Received: axis={axis}")
        self.axis = axis if axis is None or isinstance(axis, int) else list(axis)

    def build(self, input_shape: Any) -> None:
        super().build(input_shape)
        rank = len(self.kernel.shape)
        kept = {axis % rank for axis in self._axes() if -rank <= axis < rank}
        if len(kept) != len(self._axes()) or len(kept) == rank:
            raise ValueError(
                f"`axis` must name axes of the kernel, but not all. Received: axis={self.axis} for "
                f"a kernel of shape {tuple(self.kernel.shape)}"
            )
        self.reduced = tuple(axis for axis in range(rank) if axis not in kept)
        self.gain = self.add_weight(
            shape=tuple(self.kernel.shape[axis] for axis in sorted(kept)),
            name="gain",
            initializer=self._lengths,
            dtype=self.kernel.dtype,
            autocast=False,
        )

    def _axes(self) -> tuple[int, ...]:
        if isinstance(self.axis, int):
            return (self.axis,)
        if self.axis is not None:
            return tuple(self.axis)
        if isinstance(self.layer, TRANSPOSED):
            return (-2,)
        return (-2, -1) if isinstance(self.layer, DEPTHWISE) else (-1,)

    def _lengths(self, shape: Any, dtype: Any = None) -> Any:
        square = ops.sum(ops.square(self.full_kernel()), axis=self.reduced)
        return ops.cast(ops.sqrt(square), dtype)

    def effective_kernel(self, training: bool | None) -> Any:
        kernel = self.full_kernel()
        gain = ops.cast(self.gain.value, kernel.dtype)
        for axis in self.reduced:
            gain = ops.expand_dims(gain, axis)
        square = ops.sum(ops.square(kernel), axis=self.reduced, keepdims=True)
        return kernel * (gain * ops.rsqrt(ops.maximum(square, 1e-24)))  # finite for zeros

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "axis": self.axis}
