"""Convolutions that see only what comes before a pixel, row by row."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_tl.layers import arguments
from keras_tl.layers.convolve import convolve

__all__ = ["MaskedConv2D", "MaskedConv3D"]


class _MaskedConv(keras.layers.Layer):
    """What the two have in common, before Keras' layer in the order of classes."""

    def __init__(
        self, filters: int, kernel_size: Any, *args: Any, mask_type: str, **kwargs: Any
    ) -> None:
        super().__init__(filters, kernel_size, *args, **kwargs)
        self.mask_type = arguments.choice("mask_type", mask_type, ("A", "B"))
        if any(size % 2 == 0 for size in self.kernel_size):
            raise ValueError(
                "`kernel_size` must be odd, so that a tap is at the centre. "
                f"Received: kernel_size={kernel_size!r}"
            )

    def call(self, inputs: Any) -> Any:
        sizes = self.kernel_size
        taps = int(np.prod(sizes))
        seen = np.arange(taps) < taps // 2 + (self.mask_type == "B")
        kernel = ops.convert_to_tensor(self.kernel)
        mask = seen.reshape(*sizes, 1, 1).astype("float32")
        outputs = convolve(self, inputs, kernel * ops.convert_to_tensor(mask, kernel.dtype))
        if self.use_bias:
            ones = (1,) * self.rank
            last = self.data_format == "channels_last"
            # Not `ops.add`, as in Keras: TensorFlow's adds to the last axis if the sizes agree.
            outputs = outputs + ops.reshape(self.bias, (*ones, -1) if last else (-1, *ones))
        return self.activation(outputs)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "mask_type": self.mask_type}


@keras.saving.register_keras_serializable(package="keras_tl")
class MaskedConv2D(_MaskedConv, keras.layers.Conv2D):
    """2D convolution that sees the pixels before its own, row by row: PixelCNN's.

    The kernel is multiplied by a mask of zeros and ones: all rows above the centre, what is left
    of the centre in its row and, with `mask_type="B"`, the centre. The first layer of a network is
    of type A, so that no pixel sees itself, the others are of type B. From
    [van den Oord et al., 2016](https://arxiv.org/abs/1601.06759), section 3.4, without its order
    among colours. With `padding="same"` the images keep their size.

    Args:
        filters: int, the number of output channels.
        kernel_size: int or 2 ints, odd.
        *args, **kwargs: the further arguments of `keras.layers.Conv2D`, in its order.
        mask_type: `"A"` (without the centre) or `"B"` (with it).

    Input shape:
        As that of `keras.layers.Conv2D`.

    Output shape:
        As that of `keras.layers.Conv2D`.

    Raises:
        ValueError: if `mask_type` is another, or `kernel_size` is even.

    >>> import keras
    >>> from keras_tl.layers import MaskedConv2D
    >>> layer = MaskedConv2D(1, 3, padding="same", mask_type="A", kernel_initializer="ones")
    >>> image = keras.ops.ones((1, 2, 3, 1))
    >>> keras.ops.convert_to_numpy(layer(image))[0, :, :, 0].astype(int).tolist()
    [[0, 1, 1], [2, 4, 3]]
    """


@keras.saving.register_keras_serializable(package="keras_tl")
class MaskedConv3D(_MaskedConv, keras.layers.Conv3D):
    """3D convolution that sees the voxels before its own, plane by plane and row by row.

    The kernel is multiplied by a mask of zeros and ones: all planes before the centre, in its
    plane all rows above it, in its row what is left of it and, with `mask_type="B"`, the centre.
    From [Nguyen et al., 2021](https://arxiv.org/abs/2104.10643) (VoxelDNN).

    TensorLayerX took half of the kernel's first size as the centre of all axes.

    Args:
        filters: int, the number of output channels.
        kernel_size: int or 3 ints, odd.
        *args, **kwargs: the further arguments of `keras.layers.Conv3D`, in its order.
        mask_type: `"A"` (without the centre) or `"B"` (with it).

    Input shape:
        As that of `keras.layers.Conv3D`.

    Output shape:
        As that of `keras.layers.Conv3D`.

    Raises:
        ValueError: if `mask_type` is another, or `kernel_size` is even.

    >>> import keras
    >>> from keras_tl.layers import MaskedConv3D
    >>> layer = MaskedConv3D(4, 3, padding="same", mask_type="B")
    >>> tuple(layer(keras.ops.ones((2, 4, 5, 6, 1))).shape)
    (2, 4, 5, 6, 4)
    """
