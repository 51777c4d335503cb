from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_tl.layers import arguments

__all__ = ["DropBlock2D"]


@keras.saving.register_keras_serializable(package="keras_tl")
class DropBlock2D(keras.layers.Layer):
    """Drops square blocks of each channel in training.

    In training blocks of `block_size` x `block_size`, all of them within the image, start with
    probability `gamma = rate / block_size^2 * height * width / ((height - block_size + 1) *
    (width - block_size + 1))` at each place of each channel and are zero; the rest is multiplied
    by the number of all elements over the number of those kept. In inference the input is
    unchanged. About `rate` of the elements are dropped, fewer where blocks overlap.

    Ghiasi et al., *DropBlock*, arXiv:1810.12890, equation 1 and algorithm 1. The paper raises
    `rate` from 0 during training.

    Args:
        rate: the part of the elements that is dropped, 0 <= rate < 1.
        block_size: the side of a block.
        data_format: "channels_last" or "channels_first".
        seed: of the blocks.

    Input shape: `(batch, height, width, channels)`, or `(batch, channels, height, width)` for
    "channels_first". Output shape: the same.

    Raises:
        ValueError: if `rate` is not in [0, 1), or the image is smaller than a block.

    Example:
        >>> import numpy as np
        >>> layer = DropBlock2D(0.3, block_size=3, seed=0)
        >>> y = layer(np.ones((1, 8, 8, 2), "float32"), training=True)
        >>> y = keras.ops.convert_to_numpy(y)
        >>> bool(0 in y), round(float(y.mean()), 4)
        (True, 1.0)
    """

    def __init__(
        self,
        rate: float,
        block_size: int = 7,
        data_format: str | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.rate = arguments.fraction("rate", rate)
        self.block_size = arguments.integer("block_size", block_size)
        self.data_format = arguments.data_format(data_format)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.input_spec = keras.InputSpec(ndim=4)

    def build(self, input_shape: Any) -> None:
        sides = input_shape[1:3] if self.data_format == "channels_last" else input_shape[2:]
        if any(side is not None and side < self.block_size for side in sides):
            raise ValueError(
                "`block_size` must not exceed the height or width of the input. "
                f"Received: block_size={self.block_size}, input shape {tuple(input_shape)}"
            )

    def call(self, inputs: Any, training: bool = False) -> Any:
        inputs = ops.cast(inputs, self.compute_dtype)
        if not training or not self.rate:
            return inputs
        last = self.data_format == "channels_last"
        shape = ops.shape(inputs)
        batch, height, width, channels = shape if last else (shape[0], *shape[2:], shape[1])
        starts = self._starts((batch, height, width, channels))
        # A start drops what follows it: the maximum of the starts before each place.
        before = self.block_size - 1
        starts = ops.pad(starts, [(0, 0), (before, before), (before, before), (0, 0)])
        keep = 1 - ops.max_pool(starts, self.block_size, strides=1, padding="valid")
        keep = keep if last else ops.transpose(keep, (0, 3, 1, 2))
        scale = 1 / ops.maximum(ops.mean(keep), keras.config.epsilon())
        return inputs * ops.cast(keep * scale, inputs.dtype)

    def _starts(self, shape: Any) -> Any:
        """Ones where a block starts, over the places where it is within the image."""
        batch, height, width, channels = shape
        rows, columns = height - self.block_size + 1, width - self.block_size + 1
        area, places = (
            ops.cast(a, "float32") * ops.cast(b, "float32")
            for a, b in ((height, width), (rows, columns))
        )
        gamma = self.rate / self.block_size**2 * area / places
        draws = keras.random.uniform(
            (batch, rows, columns, channels), dtype="float32", seed=self.seed_generator
        )
        return ops.cast(draws < gamma, "float32")

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        own = {
            "rate": self.rate,
            "block_size": self.block_size,
            "data_format": self.data_format,
            "seed": self.seed,
        }
        return {**super().get_config(), **own}
