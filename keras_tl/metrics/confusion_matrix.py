from __future__ import annotations

from typing import Any

import keras
from keras import ops

__all__ = ["ConfusionMatrix"]

_NORMALIZE = (None, "true", "pred", "all")


@keras.saving.register_keras_serializable(package="keras_tl")
class ConfusionMatrix(keras.metrics.Metric):
    """How often a class was taken for another: row: the true class, column: the predicted one.

    `result()` is a matrix, which `evaluate(return_dict=True)` hands out and the bar of `fit` shows
    by its mean; what a callback logs may want `evaluate` on its own.

    Args:
        num_classes: number of classes.
        normalize: what adds up to 1: "true": each row, "pred": each column, "all": the matrix;
            `None`: the matrix counts. As in `sklearn.metrics.confusion_matrix`.
        ignore_class: a true class that is not counted.
        name, dtype: as in `keras.metrics.Metric`; counts are kept as float32 or wider, which is
            exact up to 2**24 samples in one cell.

    Raises:
        ValueError: if `num_classes` is less than 2, or `normalize` is none of the four.

    Example:
        >>> from keras_tl.metrics import ConfusionMatrix
        >>> metric = ConfusionMatrix(2)
        >>> metric.update_state([0, 0, 1], [[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]])
        >>> print(*[[float(n) for n in row] for row in metric.result()])
        [1.0, 1.0] [0.0, 1.0]
    """

    def __init__(
        self,
        num_classes: int,
        normalize: str | None = None,
        ignore_class: int | None = None,
        name: str = "confusion_matrix",
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 2:
            raise ValueError(
                "`num_classes` must be an integer of at least 2. "
                f"Received: num_classes={num_classes!r}"
            )
        if normalize not in _NORMALIZE:
            raise ValueError(
                f"`normalize` must be one of {_NORMALIZE}. Received: normalize={normalize!r}"
            )
        self.num_classes = num_classes
        self.normalize = normalize
        self.ignore_class = ignore_class
        self.counts = self.add_variable(
            (num_classes, num_classes), initializer="zeros", name="counts"
        )

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Counts a batch.

        Args:
            y_true: classes, of `(...)` or `(..., 1)`. One that is no class is not counted.
            y_pred: scores of the classes, `(..., num_classes)`.
            sample_weight: of `(batch,)`, or of the shape of the classes.
        """
        n, dtype = self.num_classes, self.counts.dtype
        y_pred = ops.argmax(ops.convert_to_tensor(y_pred), axis=-1)
        y_true = ops.cast(ops.convert_to_tensor(y_true), "int32")
        if len(y_true.shape) == len(y_pred.shape) + 1:
            y_true = ops.squeeze(y_true, -1)
        weight = ops.cast((y_true >= 0) & (y_true < n), dtype)
        if self.ignore_class is not None:
            weight = weight * ops.cast(y_true != self.ignore_class, dtype)
        if sample_weight is not None:
            sample_weight = ops.cast(sample_weight, dtype)
            missing = len(weight.shape) - len(sample_weight.shape)
            weight = weight * ops.reshape(
                sample_weight, (*ops.shape(sample_weight), *(1,) * missing)
            )
        # A product of two matrices of 0 and 1: a scatter is slow on a GPU, and in no fixed order.
        true = ops.one_hot(ops.reshape(y_true, (-1,)), n, dtype=dtype)
        predicted = ops.one_hot(ops.reshape(y_pred, (-1,)), n, dtype=dtype)
        weighted = true * ops.reshape(weight, (-1, 1))
        self.counts.assign_add(ops.matmul(ops.transpose(weighted), predicted))

    def result(self) -> Any:
        """The matrix, of `(num_classes, num_classes)`; what has no sample is 0, not NaN."""
        counts = ops.copy(self.counts)  # a variable that changes would be handed out
        if self.normalize is None:
            return counts
        axis = {"true": 1, "pred": 0, "all": None}[self.normalize]
        whole = ops.sum(counts, axis=axis, keepdims=True)
        return counts / ops.where(whole == 0, ops.ones_like(whole), whole)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "normalize": self.normalize,
            "ignore_class": self.ignore_class,
        }
