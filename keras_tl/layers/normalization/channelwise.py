"""What the normalisations with a scale and an offset a channel have in common."""

from __future__ import annotations

from typing import Any

import keras
from keras import constraints, initializers, ops, regularizers

from keras_tl.layers.arguments import number, static

__all__ = ["ChannelwiseNormalization"]


class ChannelwiseNormalization(keras.layers.Layer):
    """A layer with weights `gamma` and `beta` for each channel, whose statistics are in float32.

    A subclass calls `prepared` for the input and its mask, and `finished` for the output.
    """

    def __init__(
        self,
        axis: int = -1,
        epsilon: float = 1e-5,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.axis = channel_axis(axis)
        self.epsilon = number("epsilon", epsilon, 0.0, exclusive=True)
        self.center = center
        self.scale = scale
        self.beta_initializer = initializers.get(beta_initializer)
        self.gamma_initializer = initializers.get(gamma_initializer)
        self.beta_regularizer = regularizers.get(beta_regularizer)
        self.gamma_regularizer = regularizers.get(gamma_regularizer)
        self.beta_constraint = constraints.get(beta_constraint)
        self.gamma_constraint = constraints.get(gamma_constraint)
        self.supports_masking = True

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        if len(input_shape) < 3:
            raise ValueError(
                f"`{type(self).__name__}` normalises over the axes between batch and channels, so "
                f"its input must have at least 3 axes. Received: input shape {tuple(input_shape)}"
            )
        check_axis(self, input_shape)
        self.channels = static(self, input_shape, self.axis, "channels")
        self.gamma = self.beta = None
        if self.scale:
            self.gamma = self.add_channels(
                "gamma", self.gamma_initializer, self.gamma_regularizer, self.gamma_constraint
            )
        if self.center:
            self.beta = self.add_channels(
                "beta", self.beta_initializer, self.beta_regularizer, self.beta_constraint
            )
        self.input_spec = keras.layers.InputSpec(
            ndim=len(input_shape), axes={self.axis: self.channels}
        )

    def add_channels(
        self,
        name: str,
        initializer: Any,
        regularizer: Any = None,
        constraint: Any = None,
        trainable: bool = True,
    ) -> Any:
        """A weight with a value a channel, which mixed precision leaves in float32."""
        return self.add_weight(
            shape=(self.channels,),
            name=name,
            initializer=initializer,
            regularizer=regularizer,
            constraint=constraint,
            trainable=trainable,
            autocast=False,
        )

    def spatial_axes(self, x: Any) -> tuple[int, ...]:
        """The axes other than batch and channels."""
        rank = len(x.shape)
        return tuple(i for i in range(1, rank) if i != self.axis % rank)

    def prepared(self, inputs: Any, mask: Any) -> tuple[Any, Any]:
        """Input and mask in float32 (or above), the mask with an axis for the channels.

        Of what the mask hides, NaN and infinity become 0.
        """
        x = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        if mask is None:
            return x, None
        if len(mask.shape) != len(x.shape) - 1:
            raise ValueError(
                f"`mask` must have the axes of the input without its channels. Received: mask "
                f"of shape {tuple(mask.shape)}, input of shape {tuple(x.shape)}"
            )
        mask = ops.cast(ops.expand_dims(mask, self.axis), x.dtype)
        # A hidden NaN would come into the gradient of the statistics by way of the output.
        return ops.where((mask > 0) | ops.isfinite(x), x, 0.0), mask

    def by_channel(self, weight: Any, x: Any) -> Any:
        """A weight with a value a channel, for a product with `x`."""
        shape = [1] * len(x.shape)
        shape[self.axis] = self.channels
        return ops.reshape(ops.cast(weight, x.dtype), shape)

    def normalized(self, x: Any, mean: Any, variance: Any) -> Any:
        """`gamma (x - mean) / sqrt(variance + epsilon) + beta`, in the layer's compute dtype."""
        factor = ops.rsqrt(variance + self.epsilon)
        if self.gamma is not None:
            factor = factor * self.by_channel(self.gamma, x)
        offset = -mean * factor
        if self.beta is not None:
            offset = offset + self.by_channel(self.beta, x)
        return ops.cast(x * factor + offset, self.compute_dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "axis": self.axis,
            "epsilon": self.epsilon,
            "center": self.center,
            "scale": self.scale,
            "beta_initializer": initializers.serialize(self.beta_initializer),
            "gamma_initializer": initializers.serialize(self.gamma_initializer),
            "beta_regularizer": regularizers.serialize(self.beta_regularizer),
            "gamma_regularizer": regularizers.serialize(self.gamma_regularizer),
            "beta_constraint": constraints.serialize(self.beta_constraint),
            "gamma_constraint": constraints.serialize(self.gamma_constraint),
        }


def channel_axis(axis: Any) -> int:
    """`axis`, if it may be that of the channels."""
    if not isinstance(axis, int) or isinstance(axis, bool) or axis == 0:
        raise ValueError(
            f"`axis` must be an integer other than 0, the batch axis. Received: axis={axis!r}"
        )
    return axis


def check_axis(layer: Any, input_shape: tuple[int | None, ...]) -> None:
    """Refuse an input that has no such axis, or has it as its batch axis."""
    rank = len(input_shape)
    if not -rank < layer.axis < rank:
        raise ValueError(
            f"`axis` must name an axis of the input other than the batch axis. Received: "
            f"axis={layer.axis} for an input of shape {tuple(input_shape)}"
        )
