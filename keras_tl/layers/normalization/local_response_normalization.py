"""Local response normalisation across channels."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_tl.layers.arguments import integer, number
from keras_tl.layers.normalization.channelwise import channel_axis, check_axis

__all__ = ["LocalResponseNormalization"]


@keras.saving.register_keras_serializable(package="keras_tl")
class LocalResponseNormalization(keras.layers.Layer):
    """Divides each value by a power of the sum of squares over the neighbouring channels.

    `y_c = x_c / (bias + alpha * sum(x_d^2 for |d - c| <= depth_radius))^beta`. Krizhevsky et al.,
    [ImageNet Classification with Deep Convolutional Neural
    Networks](https://papers.nips.cc/paper/4824), section 3.3, where `depth_radius=2, bias=2,
    alpha=1e-4, beta=0.75`. The defaults are TensorLayer's, which are those of
    `tf.nn.local_response_normalization`. `alpha` multiplies the sum; ONNX and torch take a multiple
    of the mean: their `alpha` is this one times the window's size, `2 depth_radius + 1`.

    Args:
        depth_radius: Integer, the channels that count on either side.
        bias: Positive float, added to the sum.
        alpha: Float of at least 0, the factor of the sum.
        beta: Float, the power.
        axis: The axis of the channels, as `keras.layers.BatchNormalization` takes it.
        **kwargs: `name`, `dtype` and `trainable`, as of any Keras layer.

    Input shape: `(batch, ..., channels)`, or with the channels at `axis`; any number of axes.

    Output shape: the same.

    Raises:
        ValueError: For a bad argument.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> from keras_tl.layers import LocalResponseNormalization
    >>> layer = LocalResponseNormalization(depth_radius=1, alpha=2.0, beta=1.0)
    >>> np.round(keras.ops.convert_to_numpy(layer(np.ones((1, 4)))), 3)
    array([[0.2  , 0.143, 0.143, 0.2  ]], dtype=float32)
    """

    def __init__(
        self,
        depth_radius: int = 5,
        bias: float = 1.0,
        alpha: float = 1.0,
        beta: float = 0.5,
        axis: int = -1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.depth_radius = integer("depth_radius", depth_radius, 0)
        self.bias = number("bias", bias, 0.0, exclusive=True)
        self.alpha = number("alpha", alpha, 0.0)
        self.beta = number("beta", beta)
        self.axis = channel_axis(axis)
        self.supports_masking = True

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        check_axis(self, input_shape)

    def call(self, inputs: Any) -> Any:
        x = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        last = self.axis in (-1, len(x.shape) - 1)
        x = x if last else ops.moveaxis(x, self.axis, -1)
        fused = keras.backend.backend() == "tensorflow" and "float32" in str(x.dtype)
        x = self._tensorflow(x) if fused else self._plain(x)
        return ops.cast(x if last else ops.moveaxis(x, -1, self.axis), self.compute_dtype)

    def _plain(self, x: Any) -> Any:
        squares = _window_sums(ops.square(x), self.depth_radius)
        return x * _power(self.bias + self.alpha * squares, -self.beta)

    def _tensorflow(self, x: Any) -> Any:
        """TensorFlow's own operator: without XLA it takes a fraction of the time."""
        import tensorflow as tf

        image = x if len(x.shape) == 4 else tf.reshape(x, (1, 1, -1, tf.shape(x)[-1]))
        y = tf.nn.local_response_normalization(
            image, self.depth_radius, self.bias, self.alpha, self.beta
        )
        return y if len(x.shape) == 4 else tf.reshape(y, tf.shape(x))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "depth_radius": self.depth_radius,
            "bias": self.bias,
            "alpha": self.alpha,
            "beta": self.beta,
            "axis": self.axis,
        }


def _power(x: Any, exponent: float) -> Any:
    """`x ** exponent` of positive `x`, by cheaper means than a general power."""
    if exponent == -0.5:
        return ops.rsqrt(x)
    if exponent == -0.75:
        root = ops.rsqrt(x)
        return root * ops.sqrt(root)
    return ops.exp(exponent * ops.log(x))


def _window_sums(x: Any, radius: int) -> Any:
    """The sum over a window of `2 radius + 1` along the last axis, which ends with the axis."""
    if keras.backend.backend() == "jax" and radius <= 8:
        return _jax_window_sums()(x, radius)
    return _pooled_sums(x, radius)


def _pooled_sums(x: Any, radius: int) -> Any:
    size = 2 * radius + 1
    rows = ops.reshape(x, (-1, ops.shape(x)[-1], 1))
    rows = ops.pad(rows, ((0, 0), (radius, radius), (0, 0)))
    means = ops.average_pool(rows, size, strides=1, data_format="channels_last")
    return ops.reshape(means * size, ops.shape(x))


@functools.cache
def _jax_window_sums() -> Callable[[Any, int], Any]:
    """The same as a sum of slices, which XLA fuses with what comes before and after.

    Its derivative pools: the slices' own would compute what it is multiplied with once for each.
    """
    import jax

    @functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
    def sums(x: Any, radius: int) -> Any:
        length = x.shape[-1]
        x = ops.pad(x, ((0, 0),) * (x.ndim - 1) + ((radius, radius),))
        return sum(x[..., i : i + length] for i in range(2 * radius + 1))

    @sums.defjvp
    def derivative(radius: int, primals: Any, tangents: Any) -> Any:
        (x,), (dx,) = primals, tangents
        return sums(x, radius), _pooled_sums(dx, radius)

    return sums
