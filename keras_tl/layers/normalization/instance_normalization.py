"""Instance normalisation."""

from __future__ import annotations

from typing import Any

import keras

from keras_tl.layers.normalization.channelwise import ChannelwiseNormalization
from keras_tl.layers.normalization.moments import masked_moments, moments

__all__ = ["InstanceNormalization"]


@keras.saving.register_keras_serializable(package="keras_tl")
class InstanceNormalization(ChannelwiseNormalization):
    """Normalises each channel of each sample by its own mean and variance.

    `y = gamma (x - mean) / sqrt(variance + epsilon) + beta`, the mean and the variance taken over
    all axes but those of batch and channels. Training and inference are the same. Ulyanov et al.,
    [Instance Normalization](https://arxiv.org/abs/1607.08022).

    `keras.layers.GroupNormalization(groups=-1)` gives the same numbers (with its `epsilon` of
    1e-3). This layer leaves masked positions out of the statistics, keeps its config as it was
    given, and needs less time.

    Args:
        axis: The axis of the channels, as `keras.layers.BatchNormalization` takes it.
        epsilon: Positive float, added to the variance.
        center: Whether to add the offset `beta`.
        scale: Whether to multiply by `gamma`.
        beta_initializer: Initializer of `beta`. TensorLayer's is `"zeros"` as well.
        gamma_initializer: Initializer of `gamma`. TensorLayer draws it from a normal distribution
            around 1 with a standard deviation of 0.02 (0.002 in 2.x).
        beta_regularizer: Optional regularizer of `beta`.
        gamma_regularizer: Optional regularizer of `gamma`.
        beta_constraint: Optional constraint on `beta`.
        gamma_constraint: Optional constraint on `gamma`.
        **kwargs: `name`, `dtype` and `trainable`, as of any Keras layer.

    Call arguments:
        inputs: Tensor of at least three axes.
        mask: Optional, the shape of the input without its channels. What it hides does not count
            in the statistics.

    Input shape: `(batch, ..., channels)`, or with the channels at `axis`.

    Output shape: the same.

    Raises:
        ValueError: For a bad argument, or an input of fewer than three axes.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> from keras_tl.layers import InstanceNormalization
    >>> x = np.arange(8.0).reshape(1, 4, 2)
    >>> y = InstanceNormalization()(x)
    >>> np.round(keras.ops.convert_to_numpy(y)[0, :, 0], 3)
    array([-1.342, -0.447,  0.447,  1.342], dtype=float32)
    """

    def call(self, inputs: Any, mask: Any = None) -> Any:
        x, mask = self.prepared(inputs, mask)
        axes = self.spatial_axes(x)
        if mask is None:
            mean, variance = moments(x, axes)
        else:
            mean, variance, _ = masked_moments(x, axes, mask)
        return self.normalized(x, mean, variance)
