from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_tl.layers import arguments
from keras_tl.layers.regularization.noise import dropped

__all__ = ["DropConnectDense"]


@keras.saving.register_keras_serializable(package="keras_tl")
class DropConnectDense(keras.layers.Dense):
    """A `Dense` layer that drops weights, not activations, in training.

    In training `y = activation(x @ (m * kernel) / (1 - rate) + bias)`, where the elements of `m`
    are 0 with probability `rate`, else 1, and are drawn anew for each batch. In inference it is
    `Dense`: the mean of the masked weights, as with dropout. The bias is not masked.

    Wan et al., *Regularization of Neural Networks using DropConnect*, ICML 2013. The paper draws a
    mask for each sample (`per_sample=True`) and approximates inference by a Gaussian; TensorLayer
    draws one for the batch, in version 2 in inference as well.

    Args:
        units, activation, use_bias, kernel_initializer, bias_initializer, kernel_regularizer,
            bias_regularizer, activity_regularizer, kernel_constraint, bias_constraint: as in
            `keras.layers.Dense`.
        rate: the part of the weights that is dropped, 0 <= rate < 1.
        per_sample: whether each sample has a mask of its own. It needs memory for `batch` kernels.
        seed: of the masks.

    Input shape: `(batch, ..., features)`. Output shape: `(batch, ..., units)`.

    Raises:
        ValueError: if `rate` is not in [0, 1).

    Example:
        >>> import numpy as np
        >>> layer = DropConnectDense(2, kernel_initializer="ones", rate=0.5, seed=1)
        >>> x = np.ones((1, 3), "float32")
        >>> keras.ops.convert_to_numpy(layer(x)).tolist()
        [[3.0, 3.0]]
        >>> y = keras.ops.convert_to_numpy(layer(x, training=True))
        >>> set(y.flat) <= {0.0, 2.0, 4.0, 6.0}
        True
    """

    def __init__(
        self,
        units: int,
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
            arguments.integer("units", units),
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

    def build(self, input_shape: Any) -> None:
        arguments.static(self, input_shape, -1, "number of features")
        super().build(input_shape)

    def call(self, inputs: Any, training: bool = False) -> Any:
        if not training or not self.rate:
            return super().call(inputs)
        x, kernel = inputs, ops.convert_to_tensor(self.kernel)
        shape = tuple(kernel.shape)
        if not self.per_sample:
            x = ops.matmul(x, dropped(kernel, shape, self.rate, self.seed_generator))
        else:
            kernels = dropped(kernel, (ops.shape(x)[0], *shape), self.rate, self.seed_generator)
            if len(x.shape) == 2:
                x = ops.squeeze(ops.matmul(x[:, None], kernels), axis=1)
            else:
                between = (1,) * (len(x.shape) - 3)
                kernels = ops.reshape(kernels, (-1, *between, *shape))
                x = ops.matmul(x, kernels)
        if self.bias is not None:
            x = x + ops.convert_to_tensor(self.bias)
        return x if self.activation is None else self.activation(x)

    def get_config(self) -> dict[str, Any]:
        own = {"rate": self.rate, "per_sample": self.per_sample, "seed": self.seed}
        return {**super().get_config(), **own}
