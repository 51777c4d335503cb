"""The channel shuffle of ShuffleNet."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_tl.layers import arguments

__all__ = ["ChannelShuffle"]


@keras.saving.register_keras_serializable(package="keras_tl")
class ChannelShuffle(keras.layers.Layer):
    """Mixes the channels of the groups of a grouped convolution.

    The channels are reshaped to (groups, channels / groups), transposed and flattened, as in
    ShuffleNet (https://arxiv.org/abs/1707.01083, section 3.1): of 8 channels in 2 groups come
    0 4 1 5 2 6 3 7. TensorLayer's `Shuffle(groups)` did the inverse; that is
    `ChannelShuffle(channels // groups)`.

    Args:
        groups: how many groups the channels are in; it divides their number.
        data_format: `"channels_last"` or `"channels_first"`; default: Keras' own setting.
        **kwargs: as for every layer, `name` and `dtype`.

    Input shape: (batch, ..., channels), or (batch, channels, ...) for `"channels_first"`. The
    channels must be known.

    Output shape: the same.

    Raises:
        ValueError: if the channels are unknown or `groups` does not divide them.

    Example:

    >>> import keras, numpy as np
    >>> from keras_tl.layers import ChannelShuffle
    >>> x = np.arange(8.0, dtype="float32").reshape(1, 1, 1, 8)
    >>> layer = ChannelShuffle(2, data_format="channels_last")
    >>> keras.ops.convert_to_numpy(layer(x)).astype(int).ravel().tolist()
    [0, 4, 1, 5, 2, 6, 3, 7]
    """

    def __init__(self, groups: int, data_format: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.groups = arguments.integer("groups", groups)
        self.data_format = arguments.data_format(data_format)

    @property
    def _axis(self) -> int:
        return 1 if self.data_format == "channels_first" else -1

    def build(self, input_shape: Any) -> None:
        channels = arguments.static(self, input_shape, self._axis, "channels")
        if channels % self.groups:
            raise ValueError(
                "`groups` must divide the number of channels. "
                f"Received: groups={self.groups}, input shape {tuple(input_shape)}"
            )

    def call(self, inputs: Any) -> Any:
        shape = list(ops.shape(inputs))
        axis = self._axis % len(shape)
        split = [*shape[:axis], self.groups, shape[axis] // self.groups, *shape[axis + 1 :]]
        x = ops.swapaxes(ops.reshape(inputs, split), axis, axis + 1)
        return ops.reshape(x, shape)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def compute_output_spec(self, inputs: Any) -> Any:
        return keras.KerasTensor(inputs.shape, inputs.dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "groups": self.groups, "data_format": self.data_format}
