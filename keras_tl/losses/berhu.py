from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

__all__ = ["BerHu"]


@keras.saving.register_keras_serializable(package="keras_tl")
class BerHu(keras.losses.Loss):
    """The reverse Huber loss: absolute for small errors, quadratic for large ones.

    `|e|` where `|e| <= c`, else `(e**2 + c**2) / (2 * c)`, averaged over the last axis. By default
    `c` is a fifth of the largest `|e|` of the batch, and has no gradient.

    Source: Laina et al., "Deeper Depth Prediction with Fully Convolutional Residual Networks",
    arXiv:1606.00373, equation 1. TensorLayer's `huber_loss(reverse=True)`.

    Args:
        delta: `c`; `None`: a part of the largest error of the batch.
        fraction: the part, where `delta` is None.
        reduction, name, dtype: as in `keras.losses.Huber`.

    Input shape: `y_true` and `y_pred` of `(batch, ..., n)`.

    Raises:
        ValueError: if `delta` or `fraction` is not a finite number above 0.

    Example:
        >>> from keras_tl.losses import BerHu
        >>> print(float(BerHu(delta=1.0)([[0.0, 0.0]], [[0.5, 3.0]])))  # (0.5 + (9 + 1) / 2) / 2
        2.75
    """

    def __init__(
        self,
        delta: float | None = None,
        fraction: float = 0.2,
        reduction: str | None = "sum_over_batch_size",
        name: str = "berhu",
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        _check("fraction", fraction)
        if delta is not None:
            _check("delta", delta)
        self.delta = delta
        self.fraction = fraction

    def call(self, y_true: Any, y_pred: Any) -> Any:
        y_pred = ops.convert_to_tensor(y_pred)
        error = ops.abs(y_pred - ops.cast(y_true, y_pred.dtype))
        if self.delta is None:
            delta = ops.stop_gradient(self.fraction * ops.max(error))
            delta = ops.where(delta > 0, delta, ops.ones_like(delta))  # all errors are 0
        else:
            delta = ops.cast(self.delta, error.dtype)
        # Of a large error and a tiny delta the square overflows in half precision.
        large = error * (error / (2 * delta)) + delta / 2
        return ops.mean(ops.where(error <= delta, error, large), axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "delta": self.delta, "fraction": self.fraction}


def _check(name: str, value: Any) -> None:
    real = isinstance(value, int | float) and not isinstance(value, bool)
    if not real or not math.isfinite(value) or value <= 0:
        raise ValueError(f"`{name}` must be a finite number above 0. Received: {name}={value!r}")
