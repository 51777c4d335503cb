"""Switchable normalisation."""

from __future__ import annotations

from typing import Any

import keras
from keras import initializers, ops

from keras_tl.layers.arguments import number
from keras_tl.layers.normalization.channelwise import ChannelwiseNormalization
from keras_tl.layers.normalization.moments import masked_moments, moments

__all__ = ["SwitchNormalization"]


@keras.saving.register_keras_serializable(package="keras_tl")
class SwitchNormalization(ChannelwiseNormalization):
    """Normalises by a learned mix of batch, instance and layer statistics.

    `y = gamma (x - m) / sqrt(v + epsilon) + beta`, where `m` is the mean of the batch, of the
    instance and of the layer, mixed by `softmax(mean_weights)`, and `v` their variances, mixed by
    `softmax(variance_weights)`. Luo et al., [Differentiable Learning-to-Normalize via Switchable
    Normalization](https://arxiv.org/abs/1806.10779), equations 3 to 5.

    In inference the statistics of the batch are their moving averages, as in
    `keras.layers.BatchNormalization`, so that the output for a sample does not depend on the other
    samples; TensorLayer has no moving averages. With `trainable=False` they are used in training,
    too.

    Args:
        axis: The axis of the channels, as `keras.layers.BatchNormalization` takes it.
        momentum: Float in [0, 1], the share of the old value in a new moving average.
        epsilon: Positive float, added to the variance.
        center: Whether to add the offset `beta`.
        scale: Whether to multiply by `gamma`.
        beta_initializer: Initializer of `beta`.
        gamma_initializer: Initializer of `gamma`.
        moving_mean_initializer: Initializer of the moving average of the batch's mean.
        moving_variance_initializer: Initializer of that of the batch's variance.
        beta_regularizer: Optional regularizer of `beta`.
        gamma_regularizer: Optional regularizer of `gamma`.
        beta_constraint: Optional constraint on `beta`.
        gamma_constraint: Optional constraint on `gamma`.
        **kwargs: `name`, `dtype` and `trainable`, as of any Keras layer.

    The weights `mean_weights` and `variance_weights` have three elements, for batch, instance and
    layer in TensorLayer's order, and begin at 1.

    Call arguments:
        inputs: Tensor of at least three axes.
        training: Whether the batch's own statistics are used and their averages moved.
        mask: Optional, the shape of the input without its channels. What it hides does not count
            in the statistics.

    Input shape: `(batch, ..., channels)`, or with the channels at `axis`.

    Output shape: the same.

    Raises:
        ValueError: For a bad argument, or an input of fewer than three axes.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> from keras_tl.layers import SwitchNormalization
    >>> layer = SwitchNormalization()
    >>> x = np.arange(16.0).reshape(2, 4, 2)
    >>> y = layer(x, training=True)
    >>> np.round(keras.ops.convert_to_numpy(y)[0, :, 0], 3)
    array([-1.394, -0.775, -0.155,  0.465], dtype=float32)
    """

    def __init__(
        self,
        axis: int = -1,
        momentum: float = 0.99,
        epsilon: float = 1e-5,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        moving_mean_initializer: Any = "zeros",
        moving_variance_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            axis,
            epsilon,
            center,
            scale,
            beta_initializer,
            gamma_initializer,
            beta_regularizer,
            gamma_regularizer,
            beta_constraint,
            gamma_constraint,
            **kwargs,
        )
        self.momentum = number("momentum", momentum, 0.0)
        if self.momentum > 1:
            raise ValueError(
                f"`momentum` must be a number in [0, 1]. Received: momentum={momentum!r}"
            )
        self.moving_mean_initializer = initializers.get(moving_mean_initializer)
        self.moving_variance_initializer = initializers.get(moving_variance_initializer)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        self.mean_weights = self.add_weight(
            shape=(3,), name="mean_weights", initializer="ones", autocast=False
        )
        self.variance_weights = self.add_weight(
            shape=(3,), name="variance_weights", initializer="ones", autocast=False
        )
        self.moving_mean = self.add_channels(
            "moving_mean", self.moving_mean_initializer, trainable=False
        )
        self.moving_variance = self.add_channels(
            "moving_variance", self.moving_variance_initializer, trainable=False
        )

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        x, mask = self.prepared(inputs, mask)
        axes = self.spatial_axes(x)
        # The statistics of batch and layer follow from those of the instances.
        if mask is None:
            mean, variance = moments(x, axes)
            share = None
        else:
            mean, variance, count = masked_moments(x, axes, mask)
            share = count / ops.maximum(ops.sum(count, axis=0, keepdims=True), 1.0)
        layer_mean, layer_variance = _over(mean, variance, self.axis)
        if training and self.trainable:
            batch_mean, batch_variance = _over(mean, variance, 0, share)
            self._move(self.moving_mean, batch_mean)
            self._move(self.moving_variance, batch_variance)
        else:
            batch_mean = self.by_channel(self.moving_mean, x)
            batch_variance = self.by_channel(self.moving_variance, x)
        mean = _mixed(self.mean_weights, batch_mean, mean, layer_mean)
        variance = _mixed(self.variance_weights, batch_variance, variance, layer_variance)
        return self.normalized(x, mean, variance)

    def _move(self, average: Any, value: Any) -> None:
        value = ops.cast(ops.reshape(value, (self.channels,)), average.dtype)
        average.assign(average * self.momentum + value * (1.0 - self.momentum))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "moving_mean_initializer": initializers.serialize(self.moving_mean_initializer),
            "moving_variance_initializer": initializers.serialize(self.moving_variance_initializer),
        }


def _over(means: Any, variances: Any, axis: int, share: Any = None) -> tuple[Any, Any]:
    """Mean and variance of what has these means and variances along `axis`."""

    def average(x: Any) -> Any:
        if share is None:
            return ops.mean(x, axis=axis, keepdims=True)
        return ops.sum(x * share, axis=axis, keepdims=True)

    mean = average(means)
    return mean, average(variances + ops.square(means - mean))


def _mixed(weights: Any, *statistics: Any) -> Any:
    shares = ops.softmax(ops.cast(weights, statistics[0].dtype))
    return sum(shares[i] * statistic for i, statistic in enumerate(statistics))
