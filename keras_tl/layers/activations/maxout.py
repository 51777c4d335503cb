from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_tl.layers import arguments

__all__ = ["Maxout"]


@keras.saving.register_keras_serializable(package="keras_tl")
class Maxout(keras.layers.Layer):
    """The largest of each group of neighbouring channels.

    With `k = channels / units`, output `u` is `max(x[u * k], ..., x[u * k + k - 1])`. The paper's
    maxout layer is this after a `Dense` or `Conv2D` layer of `units * k` outputs.

    Goodfellow et al., *Maxout Networks*, arXiv:1302.4389. TensorLayer's was never written.

    Args:
        units: the number of groups; it divides the number of channels.
        axis: of the channels.

    Input shape: any; the channels must be known. Output shape: the same, with `units` channels.
    A mask is passed on, if the channels are the last axis.

    Raises:
        ValueError: if `units` does not divide the number of channels, or `axis` is none of the
            input's besides the batch.

    Example:
        >>> import numpy as np
        >>> y = Maxout(2)(np.array([[1.0, 5.0, -3.0, -2.0]], "float32"))
        >>> keras.ops.convert_to_numpy(y).tolist()
        [[5.0, -2.0]]
    """

    def __init__(self, units: int, axis: int = -1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = arguments.integer("units", units)
        if not isinstance(axis, int) or isinstance(axis, bool):
            raise ValueError(f"`axis` must be an integer. Received: axis={axis!r}")
        self.axis = axis
        self.supports_masking = axis == -1

    def build(self, input_shape: Any) -> None:
        rank = len(input_shape)
        if not -rank < self.axis < rank or self.axis == 0:
            raise ValueError(
                "`axis` must be one of the axes of the input and not the batch. "
                f"Received: axis={self.axis}, input shape {tuple(input_shape)}"
            )
        channels = arguments.static(self, input_shape, self.axis, "number of channels")
        if channels % self.units:
            raise ValueError(
                "`units` must divide the number of channels. "
                f"Received: units={self.units}, input shape {tuple(input_shape)}"
            )

    def call(self, inputs: Any) -> Any:
        axis = self.axis % len(inputs.shape)
        shape = list(ops.shape(inputs))
        shape[axis : axis + 1] = [self.units, inputs.shape[axis] // self.units]
        return ops.max(ops.reshape(inputs, shape), axis=axis + 1)

    def compute_output_shape(self, input_shape: Any) -> Any:
        shape = list(input_shape)
        shape[self.axis] = self.units
        return tuple(shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units, "axis": self.axis}
