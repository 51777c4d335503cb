from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_tl.layers import arguments
from keras_tl.layers.convolve import convolve
from keras_tl.layers.regularization.noise import dropped

__all__ = ["DropConnectConv2D"]


@keras.saving.register_keras_serializable(package="keras_tl")
class DropConnectConv2D(keras.layers.Conv2D):
    """A `Conv2D` layer that drops weights in training.

    In training the kernel is `m * kernel / (1 - rate)`, where the elements of `m` are 0 with
    probability `rate`, else 1, and are drawn anew for each batch. In inference it is `Conv2D`.
    The bias is not masked.

    After Wan et al., *Regularization of Neural Networks using DropConnect*, ICML 2013, whose masks
    are those of one sample (`per_sample=True`).

    Args:
        filters, kernel_size, strides, padding, data_format, dilation_rate, groups, activation,
            use_bias, kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer,
            activity_regularizer, kernel_constraint, bias_constraint: as in `keras.layers.Conv2D`.
        rate: the part of the weights that is dropped, 0 <= rate < 1.
        per_sample: whether each sample has a mask of its own. It needs memory for `batch` kernels.
        seed: of the masks.

    Input shape: `(batch, height, width, channels)`, or `(batch, channels, height, width)` for
    "channels_first". Output shape: that of `keras.layers.Conv2D`.

    Raises:
        ValueError: if `rate` is not in [0, 1).

    Example:
        >>> import numpy as np
        >>> layer = DropConnectConv2D(4, 3, padding="same", rate=0.2)
        >>> tuple(layer(np.ones((2, 8, 8, 3), "float32"), training=True).shape)
        (2, 8, 8, 4)
    """

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = (1, 1),
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: Any = (1, 1),
        groups: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        *,
        rate: float = 0.5,
        per_sample: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            filters,
            kernel_size,
            strides=strides,
            padding=padding,
            data_format=data_format,
            dilation_rate=dilation_rate,
            groups=groups,
            activation=activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            **kwargs,
        )
        self.rate = arguments.fraction("rate", rate)
        self.per_sample = per_sample
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    @property
    def channels_axis(self) -> int:
        return -1 if self.data_format == "channels_last" else 1

    def build(self, input_shape: Any) -> None:
        arguments.static(self, input_shape, self.channels_axis, "number of channels")
        if self.per_sample and self.padding == "same" and self.strides != (1, 1):
            first = 1 if self.data_format == "channels_last" else 2
            for axis, name in ((first, "height"), (first + 1, "width")):
                arguments.static(self, input_shape, axis, name)
        super().build(input_shape)

    def call(self, inputs: Any, training: bool = False) -> Any:
        inputs = ops.cast(inputs, self.compute_dtype)
        kernel = ops.convert_to_tensor(self.kernel)
        shape, rate, seed = tuple(kernel.shape), self.rate, self.seed_generator
        if not training or not rate:
            y = convolve(self, inputs, kernel)
        elif not self.per_sample:
            y = convolve(self, inputs, dropped(kernel, shape, rate, seed))
        else:
            kernels = dropped(kernel, (ops.shape(inputs)[0], *shape), rate, seed)
            y = self._convolve_each(inputs, kernels)
        if self.bias is not None:
            bias = ops.convert_to_tensor(self.bias)
            y = y + (bias if self.channels_axis == -1 else bias[:, None, None])
        return y if self.activation is None else self.activation(y)

    def _convolve_each(self, x: Any, kernels: Any) -> Any:
        """Each sample with its own kernel, a row of the kernel at a time.

        As one convolution with a group for each sample, XLA's gradient took 60 times as long.
        """
        last = self.data_format == "channels_last"
        x = x if last else ops.transpose(x, (0, 2, 3, 1))
        if self.padding == "same":
            height, width = (self._pads(n, i) for i, n in enumerate(x.shape[1:3]))
            x = ops.pad(x, [(0, 0), height, width, (0, 0)])
        channels, filters, groups = x.shape[-1], self.filters, self.groups
        x = ops.reshape(x, (*ops.shape(x)[:-1], groups, channels // groups))
        row = ops.concatenate(
            [x[:, :, self._tap(j, 1)] for j in range(self.kernel_size[1])], axis=-1
        )
        y = 0
        for i in range(self.kernel_size[0]):
            kernel = ops.reshape(kernels[:, i], (-1, row.shape[-1], groups, filters // groups))
            y = y + ops.einsum("bhwgc,bcgf->bhwgf", row[:, self._tap(i, 0)], kernel)
        y = ops.reshape(y, (*ops.shape(y)[:-2], filters))
        return y if last else ops.transpose(y, (0, 3, 1, 2))

    def _pads(self, length: int, i: int) -> tuple[int, int]:
        """What "same" adds before and after: the odd one after."""
        if self.strides == (1, 1):
            total = (self.kernel_size[i] - 1) * self.dilation_rate[i]
        else:
            stride, extent = self.strides[i], (self.kernel_size[i] - 1) * self.dilation_rate[i] + 1
            total = max((-(-length // stride) - 1) * stride + extent - length, 0)
        return total // 2, total - total // 2

    def _tap(self, k: int, i: int) -> slice:
        """What the k-th element of the kernel meets along a spatial axis."""
        after = (self.kernel_size[i] - 1 - k) * self.dilation_rate[i]
        return slice(k * self.dilation_rate[i], -after or None, self.strides[i])

    def get_config(self) -> dict[str, Any]:
        own = {"rate": self.rate, "per_sample": self.per_sample, "seed": self.seed}
        return {**super().get_config(), **own}
