"""Filter response normalisation with its thresholded linear unit."""

from __future__ import annotations

from typing import Any

import keras
from keras import constraints, initializers, ops, regularizers

from keras_tl.layers.normalization.channelwise import ChannelwiseNormalization

__all__ = ["FilterResponseNormalization"]


@keras.saving.register_keras_serializable(package="keras_tl")
class FilterResponseNormalization(ChannelwiseNormalization):
    """Normalises each channel of each sample by its mean square, then applies a learned threshold.

    `y = max(gamma x / sqrt(mean(x^2) + e) + beta, tau)`, the mean taken over all axes but those of
    batch and channels, `gamma`, `beta` and `tau` learned for each channel. It replaces a batch
    normalisation and the ReLU behind it, and depends on no other sample. Singh and Krishnan,
    [Filter Response Normalization Layer](https://arxiv.org/abs/1911.09737), equations 1 to 3.

    Args:
        axis: The axis of the channels, as `keras.layers.BatchNormalization` takes it.
        epsilon: Positive float, `e` in the formula.
        center: Whether to add the offset `beta`.
        scale: Whether to multiply by `gamma`.
        beta_initializer: Initializer of `beta`.
        gamma_initializer: Initializer of `gamma`.
        beta_regularizer: Optional regularizer of `beta`.
        gamma_regularizer: Optional regularizer of `gamma`.
        beta_constraint: Optional constraint on `beta`.
        gamma_constraint: Optional constraint on `gamma`.
        threshold: Whether the threshold is applied. Without it a nonlinearity has to follow.
        threshold_initializer: Initializer of `tau`. With 0 the layer begins as a ReLU.
        threshold_regularizer: Optional regularizer of `tau`.
        threshold_constraint: Optional constraint on `tau`.
        learned_epsilon: Whether `e` is `epsilon + |w|` with a learned scalar `w`, which begins at
            1e-4. The paper asks for it where the means go over few values, down to one.
        **kwargs: `name`, `dtype` and `trainable`, as of any Keras layer.

    Call arguments:
        inputs: Tensor of at least three axes.
        mask: Optional, the shape of the input without its channels. What it hides does not count
            in the mean square.

    Input shape: `(batch, ..., channels)`, or with the channels at `axis`.

    Output shape: the same.

    Raises:
        ValueError: For a bad argument, or an input of fewer than three axes.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> from keras_tl.layers import FilterResponseNormalization
    >>> x = np.array([-2.0, -1.0, 1.0, 2.0]).reshape(1, 4, 1)
    >>> y = FilterResponseNormalization()(x)
    >>> np.round(keras.ops.convert_to_numpy(y).ravel(), 3)
    array([0.   , 0.   , 0.632, 1.265], dtype=float32)
    """

    def __init__(
        self,
        axis: int = -1,
        epsilon: float = 1e-6,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        threshold: bool = True,
        threshold_initializer: Any = "zeros",
        threshold_regularizer: Any = None,
        threshold_constraint: Any = None,
        learned_epsilon: bool = False,
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
        self.threshold = threshold
        self.threshold_initializer = initializers.get(threshold_initializer)
        self.threshold_regularizer = regularizers.get(threshold_regularizer)
        self.threshold_constraint = constraints.get(threshold_constraint)
        self.learned_epsilon = learned_epsilon

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        self.tau = self.epsilon_weight = None
        if self.threshold:
            self.tau = self.add_channels(
                "tau",
                self.threshold_initializer,
                self.threshold_regularizer,
                self.threshold_constraint,
            )
        if self.learned_epsilon:
            self.epsilon_weight = self.add_weight(
                shape=(),
                name="epsilon_weight",
                initializer=initializers.Constant(1e-4),
                autocast=False,
            )

    def call(self, inputs: Any, mask: Any = None) -> Any:
        x, mask = self.prepared(inputs, mask)
        axes = self.spatial_axes(x)
        if mask is None:
            square = ops.mean(ops.square(x), axis=axes, keepdims=True)
        else:
            count = ops.maximum(ops.sum(mask, axis=axes, keepdims=True), 1.0)
            kept = ops.where(mask > 0, x, 0.0)
            square = ops.sum(ops.square(kept) * mask, axis=axes, keepdims=True) / count
        if self.epsilon_weight is not None:
            square = square + ops.abs(ops.cast(self.epsilon_weight, x.dtype))
        factor = ops.rsqrt(square + self.epsilon)
        if self.gamma is not None:
            factor = factor * self.by_channel(self.gamma, x)
        x = x * factor
        if self.beta is not None:
            x = x + self.by_channel(self.beta, x)
        if self.tau is not None:
            x = ops.maximum(x, self.by_channel(self.tau, x))
        return ops.cast(x, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "threshold": self.threshold,
            "threshold_initializer": initializers.serialize(self.threshold_initializer),
            "threshold_regularizer": regularizers.serialize(self.threshold_regularizer),
            "threshold_constraint": constraints.serialize(self.threshold_constraint),
            "learned_epsilon": self.learned_epsilon,
        }
