from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np


@keras.saving.register_keras_serializable(package="keras_tl")
class BilinearUpsampling(keras.initializers.Initializer):
    """Starts a transposed convolution as linear interpolation, channel by channel.

    A kernel axis of n taps has the weights `1 - |i - c| / f` with `f = (n + 1) // 2`, and the
    centre c at f - 1 for odd n, f - 0.5 for even n; several axes multiply. The channels do not
    mix. To enlarge f times take `kernel_size = 2 * f - f % 2`, `strides = f` and "same" padding:
    away from the edges that is the usual bilinear resize.

    Source: Long et al., "Fully Convolutional Networks for Semantic Segmentation",
    arXiv:1605.06211, section 3.3. TensorLayer's `deconv2d_bilinear_upsampling_initializer`, for
    one, two and three axes and kernels that are not square.

    Raises:
        ValueError: In use, if the kernel is not of shape (*spatial, channels, channels), as that
            of `keras.layers.Conv2DTranspose`.

    Example:

    >>> import keras, numpy as np
    >>> from keras_tl.initializers import BilinearUpsampling
    >>> kernel = keras.ops.convert_to_numpy(BilinearUpsampling()((4, 4, 1, 1)))
    >>> print(kernel[0, :, 0, 0], kernel[1, :, 0, 0])
    [0.0625 0.1875 0.1875 0.0625] [0.1875 0.5625 0.5625 0.1875]
    """

    def __call__(self, shape: Sequence[int], dtype: Any = None) -> Any:
        *space, outputs, inputs = shape
        if not space or outputs != inputs:
            raise ValueError(
                "`BilinearUpsampling` makes a kernel of shape (*spatial, channels, channels), with "
                f"as many channels out as in. Received: shape={tuple(shape)}"
            )
        kernel = np.ones(())
        for size in space:
            half = (size + 1) // 2
            centre = half - 1 if size % 2 else half - 0.5
            taps = 1 - np.abs(np.arange(size) - centre) / half
            kernel = kernel[..., None] * taps
        kernel = kernel[..., None, None] * np.eye(outputs)
        dtype = dtype or keras.config.floatx()
        return keras.ops.convert_to_tensor(kernel.astype("float32"), dtype)
