from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_tl.layers import arguments

__all__ = ["GaussianNoise"]


@keras.saving.register_keras_serializable(package="keras_tl")
class GaussianNoise(keras.layers.GaussianNoise):
    """Adds normal noise: `keras.layers.GaussianNoise` with a mean, and in inference if wanted.

    Args:
        stddev: of the noise, at least 0. Keras allows 1 at most.
        seed: of the noise.
        mean: of the noise.
        always: whether noise is added in inference as well (TensorLayer 2's `is_always`).

    Input shape: any. Output shape: the same. A mask is passed on.

    Raises:
        ValueError: if `stddev` is negative, or `mean` is not finite.

    Example:
        >>> import numpy as np
        >>> x = np.zeros((2, 500), "float32")
        >>> y = GaussianNoise(0.1, mean=2.0, always=True, seed=0)(x)
        >>> round(float(keras.ops.mean(y)), 1), round(float(keras.ops.std(y)), 1)
        (2.0, 0.1)
    """

    def __init__(
        self,
        stddev: float,
        seed: int | None = None,
        *,
        mean: float = 0.0,
        always: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(1.0, seed=seed, **kwargs)  # it makes the seeds of a positive stddev only
        self.stddev = arguments.number("stddev", stddev, 0)
        self.mean = arguments.number("mean", mean)
        self.always = always

    def call(self, inputs: Any, training: bool = False) -> Any:
        inputs = ops.cast(inputs, self.compute_dtype)
        if not training and not self.always:
            return inputs
        noise = keras.random.normal(
            ops.shape(inputs), self.mean, self.stddev, inputs.dtype, self.seed_generator
        )
        return inputs + noise

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "mean": self.mean, "always": self.always}
