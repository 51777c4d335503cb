from __future__ import annotations

from typing import Any

import keras
from keras import ops

__all__ = ["NormalizedMeanSquaredError"]


@keras.saving.register_keras_serializable(package="keras_tl")
class NormalizedMeanSquaredError(keras.losses.Loss):
    """Squared error of a sample as a part of the squares of its targets.

    `sum((y_true - y_pred)**2) / sum(y_true**2)` over all axes but the first. A sample whose targets
    are all 0 has the sum of its squared errors.

    TensorLayer's `normalized_mean_square_error` is its square root (`root=True`), the relative
    error in the 2-norm that the compressed sensing of MR images is judged by.

    Args:
        root: whether to take the square root of each sample's quotient.
        reduction, name, dtype: as in `keras.losses.MeanSquaredError`.

    Input shape: `y_true` and `y_pred` of `(batch, ...)`.

    Example:
        >>> from keras_tl.losses import NormalizedMeanSquaredError
        >>> print(float(NormalizedMeanSquaredError()([[3.0, 4.0]], [[3.0, 9.0]])))
        1.0
    """

    def __init__(
        self,
        root: bool = False,
        reduction: str | None = "sum_over_batch_size",
        name: str = "normalized_mean_squared_error",
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.root = root

    def call(self, y_true: Any, y_pred: Any) -> Any:
        y_pred = ops.convert_to_tensor(y_pred)
        y_true = ops.cast(y_true, y_pred.dtype)
        axes = tuple(range(1, len(y_pred.shape)))
        errors = ops.sum(ops.square(y_true - y_pred), axis=axes)
        targets = ops.sum(ops.square(y_true), axis=axes)
        quotient = errors / ops.where(targets > 0, targets, ops.ones_like(targets))
        if not self.root:
            return quotient
        # The root has no slope at 0, and `where` passes on a NaN of the side that it does not take.
        positive = quotient > 0
        root = ops.sqrt(ops.where(positive, quotient, ops.ones_like(quotient)))
        return ops.where(positive, root, ops.zeros_like(root))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "root": self.root}
