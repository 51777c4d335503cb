from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_tl.layers import arguments
from keras_tl.layers.regularization.noise import dropped

__all__ = ["StochasticDepth"]


@keras.saving.register_keras_serializable(package="keras_tl")
class StochasticDepth(keras.layers.Layer):
    """Drops the whole branch of a residual block in training.

    In training a sample of the branch is zero with probability `rate`, else divided by
    `1 - rate`; in inference it is as it is. Put it on the branch: `x + StochasticDepth(0.2)(f(x))`.

    Huang et al., *Deep Networks with Stochastic Depth*, arXiv:1603.09382. The paper draws once for
    the batch (`per_sample=False`) and scales in inference, not in training.

    Args:
        rate: the probability that a sample is dropped, 0 <= rate < 1.
        per_sample: whether each sample is dropped by itself, not the batch as a whole.
        seed: of what is dropped.

    Input shape: any, with the batch first. Output shape: the same. A mask is passed on.

    Raises:
        ValueError: if `rate` is not in [0, 1).

    Example:
        >>> import numpy as np
        >>> y = StochasticDepth(0.5, seed=0)(np.ones((8, 2), "float32"), training=True)
        >>> y = keras.ops.convert_to_numpy(y)
        >>> set(y.flat) <= {0.0, 2.0} and bool((y[:, 0] == y[:, 1]).all())
        True
    """

    def __init__(
        self, rate: float, per_sample: bool = True, seed: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.rate = arguments.fraction("rate", rate)
        self.per_sample = per_sample
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.supports_masking = True

    def call(self, inputs: Any, training: bool = False) -> Any:
        inputs = ops.cast(inputs, self.compute_dtype)
        if not training or not self.rate:
            return inputs
        samples = ops.shape(inputs)[0] if self.per_sample else 1
        shape = (samples, *(1 for _ in inputs.shape[1:]))
        return dropped(inputs, shape, self.rate, self.seed_generator)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        own = {"rate": self.rate, "per_sample": self.per_sample, "seed": self.seed}
        return {**super().get_config(), **own}
