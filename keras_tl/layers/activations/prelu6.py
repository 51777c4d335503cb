from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_tl.layers import arguments
from keras_tl.layers.activations.pieces import pieces

__all__ = ["PReLU6", "PTReLU6"]


@keras.saving.register_keras_serializable(package="keras_tl")
class PReLU6(keras.layers.PReLU):
    """`keras.layers.PReLU`, at most 6: `min(alpha * x if x < 0 else x, 6)`; `alpha` is learned.

    He et al., arXiv:1502.01852 (PReLU, `alpha` at first 0.25); Krizhevsky, *Convolutional Deep
    Belief Networks on CIFAR-10*, 2010 (the 6).
    TensorLayer's slope is `sigmoid(alpha)`: give its old weights as `sigmoid(alpha)`. One slope
    a channel, as there by default, is `shared_axes=[1, 2]` for images; none is `[1, 2, 3]`.

    Args:
        alpha_initializer: of the slopes. None: 0.25.
        alpha_regularizer, alpha_constraint: for the slopes.
        shared_axes: the axes along which a slope is shared; the batch is axis 0.

    Input shape: any; the axes that are not shared must be known. Output shape: the same. A mask is
    passed on.

    Raises:
        ValueError: if an axis that is not shared is unknown, or one of `shared_axes` is not of the
            input; they are counted from 1, not from the end.

    Example:
        >>> import numpy as np
        >>> y = PReLU6()(np.array([[-4.0, 2.0, 8.0]], "float32"))
        >>> keras.ops.convert_to_numpy(y).tolist()
        [[-1.0, 2.0, 6.0]]
    """

    def __init__(
        self,
        alpha_initializer: Any = None,
        alpha_regularizer: Any = None,
        alpha_constraint: Any = None,
        shared_axes: int | Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            keras.initializers.Constant(0.25) if alpha_initializer is None else alpha_initializer,
            alpha_regularizer=alpha_regularizer,
            alpha_constraint=alpha_constraint,
            shared_axes=shared_axes,
            **kwargs,
        )

    def build(self, input_shape: Any) -> None:
        axes = range(1, len(input_shape))
        if any(axis not in axes for axis in self.shared_axes or ()):
            raise ValueError(
                f"`shared_axes` must be of 1 ... {len(input_shape) - 1}, the axes of the input "
                f"without the batch. Received: shared_axes={self.shared_axes}, input shape "
                f"{tuple(input_shape)}"
            )
        for axis in axes:
            if axis not in (self.shared_axes or ()):
                arguments.static(self, input_shape, axis, "length of each axis that is not shared")
        super().build(input_shape)

    def call(self, inputs: Any) -> Any:
        return ops.minimum(pieces(inputs, self.alpha), 6)


@keras.saving.register_keras_serializable(package="keras_tl")
class PTReLU6(PReLU6):
    """Two learned slopes: `alpha * x` below 0, `6 + alpha_high * (x - 6)` above 6, `x` between.

    TensorLayer's, whose slopes are `sigmoid(alpha)`, see `PReLU6`.

    Args:
        alpha_initializer, alpha_regularizer, alpha_constraint, shared_axes: as in `PReLU6`, for
            both slopes.

    Input shape, output shape and masks are those of `PReLU6`.

    Raises:
        ValueError: if an axis that is not shared is unknown, or one of `shared_axes` is not of the
            input; they are counted from 1, not from the end.

    Example:
        >>> import numpy as np
        >>> y = PTReLU6()(np.array([[-4.0, 2.0, 8.0]], "float32"))
        >>> keras.ops.convert_to_numpy(y).tolist()
        [[-1.0, 2.0, 6.5]]
    """

    def build(self, input_shape: Any) -> None:
        super().build(input_shape)
        self.alpha_high = self.add_weight(
            shape=self.alpha.shape,
            name="alpha_high",
            initializer=keras.initializers.get(self.alpha_initializer),
            regularizer=self.alpha_regularizer,
            constraint=self.alpha_constraint,
        )

    def call(self, inputs: Any) -> Any:
        return pieces(inputs, self.alpha, self.alpha_high)
