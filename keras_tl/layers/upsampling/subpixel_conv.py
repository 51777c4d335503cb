from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_tl.layers import arguments


class _SubpixelConv(keras.layers.Layer):
    """Each pixel's channels become a block of pixels: reshape, transpose, reshape."""

    rank: int
    orders: tuple[str, ...] = ("depth_to_space", "torch")

    def __init__(
        self,
        scale: int | Sequence[int] = 2,
        order: str = "depth_to_space",
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.scale = arguments.tuple_of("scale", scale, self.rank)
        self.order = arguments.choice("order", order, self.orders)
        self.data_format = arguments.data_format(data_format)
        self.input_spec = keras.layers.InputSpec(ndim=self.rank + 2)

    def build(self, input_shape: Any) -> None:
        channels = arguments.static(self, input_shape, self._channel_axis, "number of channels")
        if channels % math.prod(self.scale):
            raise ValueError(
                f"`{type(self).__name__}` needs a number of channels that {math.prod(self.scale)}, "
                f"the pixels of a block of scale {self.scale}, divides. "
                f"Received: input shape {tuple(input_shape)}"
            )

    @property
    def _channel_axis(self) -> int:
        return 1 if self.data_format == "channels_first" else self.rank + 1

    def call(self, inputs: Any) -> Any:
        shape = ops.shape(inputs)
        channels = shape[self._channel_axis] // math.prod(self.scale)
        # Of what a pixel's channels consist, from slow to fast: axes of the block, and channels.
        block = [f"block {i}" for i in range(self.rank)]
        sizes = dict(zip(block, self.scale, strict=True)) | {"channels": channels}
        space = [f"space {i}" for i in range(self.rank)]
        sizes |= dict(zip(space, self._spatial(shape), strict=True)) | {"batch": shape[0]}
        split = {
            "depth_to_space": [*block, "channels"],
            "torch": ["channels", *block],
            "tensorlayer_1.5": ["channels", *block[::-1]],
        }[self.order]
        woven = [axis for pair in zip(space, block, strict=True) for axis in pair]
        if self.data_format == "channels_first":
            before, after = ["batch", *split, *space], ["batch", "channels", *woven]
        else:
            before, after = ["batch", *space, *split], ["batch", *woven, "channels"]
        x = ops.reshape(inputs, [sizes[axis] for axis in before])
        x = ops.transpose(x, [before.index(axis) for axis in after])
        return ops.reshape(x, self._output(shape))

    def _spatial(self, shape: Any) -> Sequence[Any]:
        axis = self._channel_axis
        return shape[1:axis] if axis > 1 else shape[2:]

    def _output(self, shape: Any) -> tuple[Any, ...]:
        channels = shape[self._channel_axis]
        if channels is not None:
            channels = channels // math.prod(self.scale)
        space = [
            None if length is None else length * scale
            for length, scale in zip(self._spatial(shape), self.scale, strict=True)
        ]
        if self.data_format == "channels_first":
            return (shape[0], channels, *space)
        return (shape[0], *space, channels)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        return self._output(tuple(input_shape))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "scale": self.scale,
            "order": self.order,
            "data_format": self.data_format,
        }


@keras.saving.register_keras_serializable(package="keras_tl")
class SubpixelConv1D(_SubpixelConv):
    """Turns channels into steps: `scale` times as long, with `scale` times fewer channels.

    With the convolution before it, which makes the channels, this is a sub-pixel convolution. It
    has no weights. See `SubpixelConv2D`.

    Args:
        scale: Steps for each step.
        order: Where step i of channel c is taken from, with C channels in the output:
            `"depth_to_space"`: i * C + c, as TensorLayer's; `"torch"`: c * scale + i.
        data_format: `"channels_last"` or `"channels_first"`; Keras' setting if None.

    Input shape:
        `(batch, steps, channels)`, or `(batch, channels, steps)`.

    Output shape:
        `(batch, scale * steps, channels / scale)`, or with channels first.

    Raises:
        ValueError: If an argument is not as described, or `scale` does not divide the channels.

    Example:

    >>> import keras, numpy as np
    >>> from keras_tl.layers import SubpixelConv1D
    >>> x = np.arange(8, dtype="float32").reshape(1, 2, 4)
    >>> print(keras.ops.convert_to_numpy(SubpixelConv1D(scale=2)(x))[0])
    [[0. 1.]
     [2. 3.]
     [4. 5.]
     [6. 7.]]
    """

    rank = 1


@keras.saving.register_keras_serializable(package="keras_tl")
class SubpixelConv2D(_SubpixelConv):
    """Turns channels into pixels: `scale` times as high and wide, with fewer channels.

    With the convolution before it, which makes the channels, this is a sub-pixel convolution. It
    has no weights. `keras_tl.initializers.ICNR` starts the kernel of that convolution without a
    checkerboard.

    Source: Shi et al., "Real-Time Single Image and Video Super-Resolution Using an Efficient
    Sub-Pixel Convolutional Neural Network", arXiv:1609.05158, section 3.2.

    Args:
        scale: Pixels for each pixel along each axis: an integer, or two (height, width).
        order: Where row i and column j of a block of r x r pixels are taken from in the input's
            channels, for channel c of the C in the output:
            `"depth_to_space"`: (i * r + j) * C + c, as `keras.ops.depth_to_space` and TensorLayer
            from 1.6.7 on; `"torch"`: c * r * r + i * r + j, as `torch.nn.PixelShuffle`;
            `"tensorlayer_1.5"`: c * r * r + j * r + i, for weights of TensorLayer up to 1.5.
        data_format: `"channels_last"` or `"channels_first"`; Keras' setting if None.

    Input shape:
        `(batch, height, width, channels)`, or `(batch, channels, height, width)`.

    Output shape:
        `(batch, scale * height, scale * width, channels / scale**2)`, or with channels first.

    Raises:
        ValueError: If an argument is not as described, or the channels cannot be divided.

    Example:

    >>> import keras, numpy as np
    >>> from keras_tl.layers import SubpixelConv2D
    >>> x = np.arange(8, dtype="float32").reshape(1, 1, 2, 4)
    >>> print(keras.ops.convert_to_numpy(SubpixelConv2D(scale=2)(x))[0, :, :, 0])
    [[0. 1. 4. 5.]
     [2. 3. 6. 7.]]
    """

    rank = 2
    orders = ("depth_to_space", "torch", "tensorlayer_1.5")


@keras.saving.register_keras_serializable(package="keras_tl")
class SubpixelConv3D(_SubpixelConv):
    """Turns channels into voxels: `scale` times as large along each axis, with fewer channels.

    With the convolution before it, which makes the channels, this is a sub-pixel convolution. It
    has no weights. See `SubpixelConv2D`. TensorLayer has none for three axes.

    Args:
        scale: Voxels for each voxel along each axis: an integer, or three (depth, height, width),
            such as (1, 2, 2) for the frames of a film.
        order: Whether the place in a block is the slowest part of the channel's number,
            `"depth_to_space"`, or the channel is, `"torch"`.
        data_format: `"channels_last"` or `"channels_first"`; Keras' setting if None.

    Input shape:
        `(batch, depth, height, width, channels)`, or with channels first.

    Output shape:
        `(batch, scale * depth, scale * height, scale * width, channels / scale**3)`, or with
        channels first.

    Raises:
        ValueError: If an argument is not as described, or the channels cannot be divided.

    Example:

    >>> import numpy as np
    >>> from keras_tl.layers import SubpixelConv3D
    >>> tuple(SubpixelConv3D(scale=(1, 2, 2))(np.zeros((1, 5, 8, 8, 12), "float32")).shape)
    (1, 5, 16, 16, 3)
    """

    rank = 3
