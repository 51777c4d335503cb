from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

ORDERS = ("depth_to_space", "torch", "tensorlayer_1.5")


@keras.saving.register_keras_serializable(package="keras_tl")
class ICNR(keras.initializers.Initializer):
    """Starts the convolution before a sub-pixel layer without a checkerboard.

    All channels that become one block of pixels start with the same kernel, so that the two
    together are at first a convolution and a nearest-neighbour enlargement.

    Source: Aitken et al., "Checkerboard artifact free sub-pixel convolution", arXiv:1707.02937.
    TensorLayer has none.

    Args:
        initializer: What makes the kernel of a block: an initializer, its name or its config. It
            sees the shape with as many output channels as there are blocks.
        scale: The scale of the sub-pixel layer: an integer, or one for each axis.
        order: The order of the sub-pixel layer: `"depth_to_space"`, `"torch"` or
            `"tensorlayer_1.5"`.

    Raises:
        ValueError: If an argument is not as described; in use, if the number of output channels,
            the last axis of the kernel, is not divided by the number of pixels of a block.

    Example:

    >>> import keras, numpy as np
    >>> from keras_tl.initializers import ICNR
    >>> from keras_tl.layers import SubpixelConv2D
    >>> kernel = ICNR(keras.initializers.GlorotUniform(seed=0), scale=2)
    >>> enlarge = keras.Sequential(
    ...     [keras.layers.Conv2D(12, 1, kernel_initializer=kernel), SubpixelConv2D(scale=2)]
    ... )
    >>> y = keras.ops.convert_to_numpy(enlarge(np.ones((1, 1, 1, 3), "float32")))
    >>> y.shape, bool(np.ptp(y, axis=(1, 2)).max() == 0)
    ((1, 2, 2, 3), True)
    """

    def __init__(
        self,
        initializer: Any = "glorot_uniform",
        scale: int | Sequence[int] = 2,
        order: str = "depth_to_space",
    ) -> None:
        scales = [scale] if isinstance(scale, int) else list(scale)
        if not scales or any(type(n) is not int or n < 1 for n in scales):
            raise ValueError(
                "`scale` must be an integer of at least 1, or one for each axis. "
                f"Received: scale={scale!r}"
            )
        if order not in ORDERS:
            raise ValueError(
                f"`order` must be one of {', '.join(map(repr, ORDERS))}. Received: order={order!r}"
            )
        self.initializer = keras.initializers.get(initializer)
        self.scale = scale if isinstance(scale, int) else tuple(scale)
        self.order = order

    def __call__(self, shape: Sequence[int], dtype: Any = None) -> Any:
        rank = len(shape) - 2
        scale = (self.scale,) * rank if isinstance(self.scale, int) else self.scale
        block = math.prod(scale)
        if len(scale) != rank or shape[-1] % block:
            raise ValueError(
                "`ICNR` makes the kernel of a convolution over as many axes as `scale` has, with a "
                f"number of output channels that the {block} pixels of a block divide. "
                f"Received: shape={tuple(shape)}, scale={self.scale!r}"
            )
        kernel = self.initializer((*shape[:-1], shape[-1] // block), dtype)
        if self.order == "depth_to_space":
            return ops.tile(kernel, (1,) * (len(shape) - 1) + (block,))
        return ops.repeat(kernel, block, axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {
            "initializer": keras.initializers.serialize(self.initializer),
            "scale": self.scale,
            "order": self.order,
        }
