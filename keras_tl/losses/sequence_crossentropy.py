from __future__ import annotations

from typing import Any

import keras
from keras import ops
from keras.src.backend import get_keras_mask  # on jax no tensor has attributes: it is in a table

__all__ = ["SequenceCrossentropy"]


@keras.saving.register_keras_serializable(package="keras_tl")
class SequenceCrossentropy(keras.losses.Loss):
    """Cross-entropy of sequences of classes, averaged over the steps that count.

    A step counts unless its class is `ignore_class`, its `sample_weight` is 0, or the mask that
    the model gives its output is False. What does not count reaches neither the loss nor a
    gradient, whatever it holds, and the sum is divided by the weights of what counts: a batch of
    short sequences has as large a loss as one of long sequences.

    `keras.losses.SparseCategoricalCrossentropy(ignore_class=...)` divides by all steps, padding
    included. TensorLayer's `cross_entropy_seq_with_mask`.

    Args:
        from_logits: whether `y_pred` are logits, and not probabilities.
        ignore_class: the class of padding, which need not be among those of `y_pred`; `None`:
            no class is.
        reduction: "mean_with_sample_weight" is the mean over what counts; "sum"; `None`: a loss
            for each step, 0 where it does not count.
        name, dtype: as in `keras.losses.SparseCategoricalCrossentropy`.

    Input shape: `y_true`: integers of `(batch, steps)`; `y_pred`: `(batch, steps, classes)`;
    `sample_weight`: `(batch,)` or `(batch, steps)`.

    Raises:
        ValueError: if `reduction` is one that divides by steps that do not count.

    Example:
        >>> import numpy as np
        >>> from keras_tl.losses import SequenceCrossentropy
        >>> y_true = np.array([[1, 2, 0, 0]])
        >>> y_pred = np.full((1, 4, 3), 1 / 3, "float32")
        >>> y_pred[0, 3] = np.nan  # does not count
        >>> print(round(float(SequenceCrossentropy(ignore_class=0)(y_true, y_pred)), 4))  # log 3
        1.0986
    """

    def __init__(
        self,
        from_logits: bool = False,
        ignore_class: int | None = None,
        reduction: str | None = "mean_with_sample_weight",
        name: str = "sequence_crossentropy",
        dtype: Any = None,
    ) -> None:
        if reduction not in ("mean_with_sample_weight", "sum", "none", None):
            raise ValueError(
                "`reduction` must be 'mean_with_sample_weight', 'sum' or None. "
                f"Received: reduction={reduction!r}"
            )
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.from_logits = from_logits
        self.ignore_class = ignore_class

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        given = get_keras_mask(y_pred)
        y_true, y_pred = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
        weight = ops.ones(ops.shape(y_true), self.dtype)
        if sample_weight is not None:
            sample_weight = ops.cast(sample_weight, self.dtype)
            if len(sample_weight.shape) == 1:
                sample_weight = sample_weight[:, None]
            weight = weight * sample_weight
        if self.ignore_class is not None:
            weight = ops.where(y_true == self.ignore_class, ops.zeros_like(weight), weight)
        if given is not None:
            weight = ops.where(ops.cast(given, "bool"), weight, ops.zeros_like(weight))
        counts = weight != 0
        y_true = ops.where(counts, y_true, ops.zeros_like(y_true))
        # A constant there, not a product with 0, which a NaN survives.
        y_pred = ops.where(counts[..., None], y_pred, ops.ones_like(y_pred))
        return super().__call__(y_true, y_pred, weight)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        y_true = ops.cast(y_true, "int32")
        return ops.sparse_categorical_crossentropy(y_true, y_pred, from_logits=self.from_logits)

    def get_config(self) -> dict[str, Any]:
        config = {"from_logits": self.from_logits, "ignore_class": self.ignore_class}
        return {**super().get_config(), **config}
