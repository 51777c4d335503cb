from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

__all__ = ["Jaccard"]


@keras.saving.register_keras_serializable(package="keras_tl")
class Jaccard(keras.losses.Loss):
    """One minus the soft intersection over union, of each sample by itself.

    `1 - sum(t * p) / (sum(t) + sum(p) - sum(t * p))`, which is 0 for an empty sample that is
    predicted empty. `keras.losses.Dice` counts all samples of a batch together unless told
    otherwise; TensorLayer's `dice_coe(loss_type="jaccard")` is Dice with squares in the
    denominator, and no Jaccard.

    Source: Rahman and Wang, "Optimizing Intersection-Over-Union in Deep Neural Networks for Image
    Segmentation", ISVC 2016, equation 3.

    Args:
        axis: the axes that are summed; `None`: all but the first. What remains is averaged, as
            the classes of one-hot masks with `axis=(1, 2)`.
        reduction, name, dtype: as in `keras.losses.Dice`.

    Input shape: `y_true` and `y_pred` of `(batch, ...)`, both between 0 and 1.

    Example:
        >>> from keras_tl.losses import Jaccard
        >>> print(float(Jaccard()([[1.0, 1.0, 0.0, 0.0]], [[1.0, 0.0, 1.0, 0.0]])))  # 1 - 1 / 3
        0.6666...
    """

    def __init__(
        self,
        axis: int | Sequence[int] | None = None,
        reduction: str | None = "sum_over_batch_size",
        name: str = "jaccard",
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.axis = axis if axis is None or isinstance(axis, int) else tuple(axis)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        y_pred = ops.convert_to_tensor(y_pred)
        y_true = ops.cast(y_true, y_pred.dtype)
        axes = tuple(range(1, len(y_pred.shape))) if self.axis is None else self.axis
        both = ops.sum(y_true * y_pred, axis=axes)
        union = ops.sum(y_true, axis=axes) + ops.sum(y_pred, axis=axes) - both
        empty = union <= 0
        share = both / ops.where(empty, ops.ones_like(union), union)
        return ops.where(empty, ops.zeros_like(share), 1 - share)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "axis": self.axis}
