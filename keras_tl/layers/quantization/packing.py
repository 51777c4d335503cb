"""Quantised kernels as packed bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_tl.layers.quantization.quantizers import Quantized

__all__ = ["pack", "unpack_weights"]


def pack(quantized: Quantized, bits: int) -> dict[str, np.ndarray]:
    """The kernel's entries of `export_packed()`."""
    codes, scale, zero = (keras.ops.convert_to_numpy(part) for part in quantized[:3])
    planes = codes.astype("uint32").reshape(-1, 1) >> np.arange(bits, dtype="uint32") & 1
    return {
        "kernel": np.packbits(planes.astype("uint8"), bitorder="little"),
        "kernel_shape": np.array(codes.shape, "int64"),
        "kernel_bits": np.array(bits, "int64"),
        "kernel_scale": np.asarray(scale, codes.dtype),
        "kernel_zero": np.asarray(zero, codes.dtype),
    }


def unpack_weights(packed: Mapping[str, Any]) -> list[np.ndarray]:
    """The kernel, and the bias if there is one, that `export_packed()` of a layer packed.

    They are the weights of a plain `keras.layers.Dense` or `keras.layers.Conv2D` that gives the
    layer's outputs, once its inputs are quantised as the `input_` entries say.

    Args:
        packed: What `export_packed()` gave, or what `numpy.load` reads of an `.npz` file of it.

    Returns:
        A list for `set_weights`.

    Example:

    >>> import keras, numpy as np
    >>> from keras_tl.layers import BinaryDense, unpack_weights
    >>> layer = BinaryDense(3)
    >>> x = np.ones((2, 20), "float32")
    >>> y = layer(x)
    >>> packed = layer.export_packed()
    >>> packed["kernel"].nbytes  # 60 bits
    8
    >>> plain = keras.layers.Dense(3)
    >>> plain.build((None, 20))
    >>> plain.set_weights(unpack_weights(packed))
    >>> bool(np.allclose(keras.ops.convert_to_numpy(plain(x)), keras.ops.convert_to_numpy(y)))
    True
    """
    shape, bits = tuple(packed["kernel_shape"]), int(packed["kernel_bits"])
    size = int(np.prod(shape))
    planes = np.unpackbits(np.asarray(packed["kernel"]), count=size * bits, bitorder="little")
    codes = planes.reshape(size, bits) @ (1 << np.arange(bits))
    scale, zero = np.asarray(packed["kernel_scale"]), np.asarray(packed["kernel_zero"])
    kernel = scale * (codes.reshape(shape).astype(zero.dtype) - zero)
    return [kernel, np.asarray(packed["bias"])] if "bias" in packed else [kernel]
