"""Squeeze and excitation."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_tl.layers import arguments

__all__ = ["SqueezeExcite2D"]

Shape = tuple[int | None, ...]


@keras.saving.register_keras_serializable(package="keras_tl")
class SqueezeExcite2D(keras.layers.Layer):
    """Scales each channel by a factor that all channels' means decide.

    `y = x * excite_activation(W2 squeeze_activation(W1 mean(x) + b1) + b2)`, where the mean is
    over height and width, `W1` has `channels // ratio` outputs (at least 1) and `W2` has
    `channels`. From [Hu et al., 2017](https://arxiv.org/abs/1709.01507), equations 2 to 4.

    Args:
        ratio: int, by how much the inner layer is smaller.
        squeeze_activation: activation of the inner layer.
        excite_activation: activation that makes the factors.
        data_format: `"channels_last"` or `"channels_first"`; default: Keras' setting.

    Input shape:
        `(batch, height, width, channels)`, or channels first.

    Output shape:
        That of the input.

    Raises:
        ValueError: if an argument is wrong, or the number of channels is not known.

    >>> import keras
    >>> from keras_tl.layers import SqueezeExcite2D
    >>> layer = SqueezeExcite2D(ratio=4)
    >>> tuple(layer(keras.ops.ones((2, 8, 8, 16))).shape)
    (2, 8, 8, 16)
    >>> layer.squeeze.units
    4
    """

    def __init__(
        self,
        ratio: int = 16,
        squeeze_activation: Any = "relu",
        excite_activation: Any = "sigmoid",
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.ratio = arguments.integer("ratio", ratio)
        self.squeeze_activation = keras.activations.get(squeeze_activation)
        self.excite_activation = keras.activations.get(excite_activation)
        self.data_format = arguments.data_format(data_format)
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def build(self, input_shape: Shape) -> None:
        axis = 3 if self.data_format == "channels_last" else 1
        channels = arguments.static(self, input_shape, axis, "channels")
        self.squeeze = keras.layers.Dense(
            max(1, channels // self.ratio),
            activation=self.squeeze_activation,
            dtype=self.dtype_policy,
            name="squeeze",
        )
        self.excite = keras.layers.Dense(
            channels, activation=self.excite_activation, dtype=self.dtype_policy, name="excite"
        )
        self.squeeze.build((input_shape[0], channels))
        self.excite.build((input_shape[0], self.squeeze.units))
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={axis: channels})

    def call(self, inputs: Any) -> Any:
        last = self.data_format == "channels_last"
        axes = (1, 2) if last else (2, 3)
        means = ops.mean(ops.cast(inputs, "float32"), axis=axes)
        factors = self.excite(self.squeeze(ops.cast(means, self.compute_dtype)))
        return inputs * (factors[:, None, None, :] if last else factors[:, :, None, None])

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "ratio": self.ratio,
            "squeeze_activation": keras.activations.serialize(self.squeeze_activation),
            "excite_activation": keras.activations.serialize(self.excite_activation),
            "data_format": self.data_format,
        }
