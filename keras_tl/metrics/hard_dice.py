from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

__all__ = ["HardDice", "HardIoU"]


class _Overlap(keras.metrics.Mean):
    """The mean over samples of how much two masks overlap after a threshold."""

    def __init__(
        self,
        threshold: float = 0.5,
        axis: int | Sequence[int] | None = None,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.threshold = threshold
        self.axis = axis if axis is None or isinstance(axis, int) else tuple(axis)

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Counts a batch.

        Args:
            y_true: masks of `(batch, ...)`, numbers or booleans.
            y_pred: as `y_true`, usually probabilities.
            sample_weight: `(batch,)`, or the shape of the axes that are not summed.
        """
        # Booleans as numbers: TensorFlow compares none with a threshold.
        both_sides = (
            ops.cast(ops.convert_to_tensor(y), self.dtype) > self.threshold
            for y in (y_true, y_pred)
        )
        true, predicted = (ops.cast(y, self.dtype) for y in both_sides)
        axes = tuple(range(1, len(true.shape))) if self.axis is None else self.axis
        both = ops.sum(true * predicted, axis=axes)
        shares = self._shares(both, ops.sum(true, axis=axes), ops.sum(predicted, axis=axes))
        super().update_state(shares, sample_weight)

    def _shares(self, both: Any, true: Any, predicted: Any) -> Any:
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "threshold": self.threshold, "axis": self.axis}


def _share(part: Any, whole: Any) -> Any:
    """A quotient; 1 where there is nothing on either side."""
    empty = whole == 0
    return ops.where(empty, ops.ones_like(part), part / ops.where(empty, 1.0, whole))


@keras.saving.register_keras_serializable(package="keras_tl")
class HardDice(_Overlap):
    """The Dice coefficient of each sample after a threshold, averaged over the samples.

    `2 * |A and B| / (|A| + |B|)`, which is 1 where both are empty: the F1 score of the sample's
    pixels. TensorLayer's `dice_hard_coe`.

    Args:
        threshold: what is above it belongs to a mask, on either side.
        axis: the axes that are summed; `None`: all but the first. `(1, 2)` counts the channels of
            `(batch, height, width, channels)` as samples of their own.
        name, dtype: as in `keras.metrics.Mean`.

    Example:
        >>> from keras_tl.metrics import HardDice
        >>> metric = HardDice()
        >>> metric.update_state([[1, 1, 0, 0], [0, 0, 0, 0]], [[0.9, 0.2, 0.1, 0.3], [0.0] * 4])
        >>> print(round(float(metric.result()), 4))  # the mean of 2 / 3 and 1
        0.8333
    """

    def __init__(
        self,
        threshold: float = 0.5,
        axis: int | Sequence[int] | None = None,
        name: str | None = "hard_dice",
        dtype: Any = None,
    ) -> None:
        super().__init__(threshold, axis, name, dtype)

    def _shares(self, both: Any, true: Any, predicted: Any) -> Any:
        return _share(2 * both, true + predicted)


@keras.saving.register_keras_serializable(package="keras_tl")
class HardIoU(_Overlap):
    """The intersection over union of each sample after a threshold, averaged over the samples.

    `|A and B| / |A or B|`, which is 1 where both are empty: the Jaccard score of the sample's
    pixels. `keras.metrics.BinaryIoU` counts all samples together. TensorLayer's `iou_coe`.

    Args:
        threshold: what is above it belongs to a mask, on either side.
        axis: the axes that are summed; `None`: all but the first. `(1, 2)` counts the channels of
            `(batch, height, width, channels)` as samples of their own.
        name, dtype: as in `keras.metrics.Mean`.

    Example:
        >>> from keras_tl.metrics import HardIoU
        >>> metric = HardIoU()
        >>> metric.update_state([[1, 1, 0, 0], [0, 0, 0, 0]], [[0.9, 0.2, 0.1, 0.3], [0.0] * 4])
        >>> print(float(metric.result()))  # the mean of 1 / 2 and 1
        0.75
    """

    def __init__(
        self,
        threshold: float = 0.5,
        axis: int | Sequence[int] | None = None,
        name: str | None = "hard_iou",
        dtype: Any = None,
    ) -> None:
        super().__init__(threshold, axis, name, dtype)

    def _shares(self, both: Any, true: Any, predicted: Any) -> Any:
        return _share(both, true + predicted - both)
