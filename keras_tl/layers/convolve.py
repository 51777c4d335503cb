"""A convolution that every backend has."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

__all__ = ["convolve"]


def convolve(layer: keras.layers.Conv2D | keras.layers.Conv3D, x: Any, kernel: Any) -> Any:
    """What `layer.convolution_op` gives, for "channels_first" on TensorFlow as well.

    There it has no kernel on a CPU in half precision, and without oneDNN none at all; XLA and the
    layout optimizer of a GPU take the transpositions away again.
    """
    if layer.data_format == "channels_last" or keras.config.backend() != "tensorflow":
        return layer.convolution_op(x, kernel)
    y = ops.conv(
        ops.moveaxis(x, 1, -1),
        kernel,
        strides=list(layer.strides),
        padding=layer.padding,
        dilation_rate=layer.dilation_rate,
        data_format="channels_last",
    )
    return ops.moveaxis(y, -1, 1)
