from __future__ import annotations

from typing import Any

import keras
from keras import ops

__all__ = ["BLEU"]


@keras.saving.register_keras_serializable(package="keras_tl")
class BLEU(keras.metrics.Metric):
    """The BLEU score of all sequences seen, as one corpus, between 0 and 1.

    The geometric mean of the parts of n-grams, n = 1 to `max_order`, that stand in a reference
    too, each counted as often as there at most, times `exp(1 - r / c)` where the c words of the
    predictions are fewer than the r of the references. It runs on classes, inside `fit`; for text
    and its tokenisation take `sacrebleu`, whose `corpus_bleu(...).score / 100` this is for the
    same words.

    Source: Papineni et al., "BLEU: a Method for Automatic Evaluation of Machine Translation",
    ACL 2002, section 2.3; smoothing: Chen and Cherry, WMT 2014, method 3.

    Args:
        max_order: the longest n-grams.
        smoothing: `None`: an order without a match makes the score 0; "exp": the k-th such order
            counts `1 / 2**k` matches.
        end_class: the class that ends a sequence: it and what follows are not counted.
        ignore_class: the class of padding, which is not counted wherever it stands.
        name, dtype: as in `keras.metrics.Metric`.

    Raises:
        ValueError: if `max_order` is less than 1, or `smoothing` is none of the two.

    Example:
        >>> from keras_tl.metrics import BLEU
        >>> metric = BLEU(max_order=2, ignore_class=0)
        >>> metric.update_state([[4, 2, 7, 5, 0]], [[4, 2, 7, 9, 0]])
        >>> print(round(float(metric.result()), 4))  # the root of 3 / 4 * 2 / 3
        0.7071
    """

    def __init__(
        self,
        max_order: int = 4,
        smoothing: str | None = None,
        end_class: int | None = None,
        ignore_class: int | None = None,
        name: str = "bleu",
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        if isinstance(max_order, bool) or not isinstance(max_order, int) or max_order < 1:
            raise ValueError(
                f"`max_order` must be an integer of at least 1. Received: max_order={max_order!r}"
            )
        if smoothing not in (None, "exp"):
            raise ValueError(
                f"`smoothing` must be None or 'exp'. Received: smoothing={smoothing!r}"
            )
        self.max_order = max_order
        self.smoothing = smoothing
        self.end_class = end_class
        self.ignore_class = ignore_class
        zeros = {"initializer": "zeros"}
        self.matches = self.add_variable((max_order,), name="matches", **zeros)
        self.totals = self.add_variable((max_order,), name="totals", **zeros)
        self.lengths = self.add_variable((2,), name="lengths", **zeros)  # predicted, referred to

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Counts a batch.

        Args:
            y_true: classes, of `(batch, steps)`, or of `(batch, references, steps)`.
            y_pred: classes, of `(batch, other steps)`, or their scores, with one axis more and of
                a float type.
            sample_weight: must be `None`: words of a corpus have no weights.
        """
        if sample_weight is not None:
            raise ValueError("`sample_weight` must be None: a corpus has none. Received: a weight")
        y_true, y_pred = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
        if len(y_pred.shape) == 3:
            y_pred = ops.argmax(y_pred, axis=-1)
        y_true, y_pred = ops.cast(y_true, "int32"), ops.cast(y_pred, "int32")
        if len(y_true.shape) == 2:
            y_true = y_true[:, None]
        y_pred = y_pred[:, None]  # as one reference, so that both have the same axes
        (true, lengths), (pred, length) = self._words(y_true), self._words(y_pred)
        # The length nearest to the prediction's, of two equally near the shorter one.
        distance = 2 * ops.abs(lengths - length) + ops.cast(lengths > length, "int32")
        nearest = ops.take_along_axis(lengths, ops.argmin(distance, axis=1)[:, None], axis=1)
        dtype = self.lengths.dtype
        sums = [ops.sum(ops.cast(n, dtype)) for n in (length, nearest)]
        self.lengths.assign_add(ops.stack(sums))
        counts = [self._order(true, pred, n) for n in range(1, self.max_order + 1)]
        self.matches.assign_add(ops.stack([matches for matches, _ in counts]))
        self.totals.assign_add(ops.stack([total for _, total in counts]))

    def _words(self, words: Any) -> tuple[Any, Any]:
        """The words that count, moved to the front, -1 behind them; and how many they are."""
        counts = ops.ones_like(words)
        if self.end_class is not None:
            ended = ops.cumsum(ops.cast(words == self.end_class, "int32"), axis=-1)
            counts = counts * ops.cast(ended == 0, "int32")
        if self.ignore_class is not None:
            counts = counts * ops.cast(words != self.ignore_class, "int32")
        steps = ops.shape(words)[-1]
        place = ops.where(counts > 0, ops.arange(steps), steps)  # padding within goes to the end
        order = ops.argsort(place, axis=-1)
        words = ops.take_along_axis(ops.where(counts > 0, words, -1), order, axis=-1)
        return words, ops.sum(counts, axis=-1)

    def _order(self, true: Any, pred: Any, n: int) -> tuple[Any, Any]:
        """The n-grams of the predictions that stand in a reference, and all of them."""
        dtype = self.matches.dtype
        if true.shape[-1] is not None and min(true.shape[-1], pred.shape[-1]) < n:
            missing = max(0, n - min(true.shape[-1], pred.shape[-1]))
            pads = [(0, 0), (0, 0), (0, missing)]
            true = ops.pad(true, pads, constant_values=-1)
            pred = ops.pad(pred, pads, constant_values=-1)
        same_true = self._equal(pred, true, n)  # (batch, references, grams, grams)
        same_pred = self._equal(pred, pred, n)
        here = ops.max(ops.sum(same_true, axis=-1), axis=1)  # in the reference that has most
        own = ops.sum(same_pred, axis=-1)[:, 0]
        # Each of the k equal n-grams counts min(k, here) / k.
        share = ops.minimum(here, own) / ops.maximum(own, 1)
        matches = ops.round(ops.sum(ops.cast(share, dtype)))
        return matches, ops.sum(ops.cast(own > 0, dtype))

    def _equal(self, pred: Any, other: Any, n: int) -> Any:
        """Which n-grams of predictions are which others, as 0 and 1."""
        equal = None
        grams = [ops.shape(words)[-1] - n + 1 for words in (pred, other)]
        for i in range(n):
            one = pred[:, :, i : i + grams[0], None]
            two = other[:, :, None, i : i + grams[1]]
            same = (one == two) & (one >= 0)
            equal = same if equal is None else equal & same
        return ops.cast(equal, "float32")

    def result(self) -> Any:
        """The score, a scalar; 0 before there is any prediction."""
        matches, totals = ops.convert_to_tensor(self.matches), ops.convert_to_tensor(self.totals)
        if self.smoothing == "exp":
            none = ops.cast((matches == 0) & (totals > 0), matches.dtype)
            matches = ops.where(none > 0, ops.exp2(-ops.cumsum(none)), matches)
        precisions = matches / ops.maximum(totals, 1)
        some = ops.all(precisions > 0)
        logs = ops.log(ops.where(precisions > 0, precisions, ops.ones_like(precisions)))
        length, wanted = self.lengths[0], self.lengths[1]
        brevity = ops.minimum(0.0, 1 - wanted / ops.maximum(length, 1))
        score = ops.exp(ops.mean(logs) + brevity)
        return ops.where(some, score, ops.zeros_like(score))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "max_order": self.max_order,
            "smoothing": self.smoothing,
            "end_class": self.end_class,
            "ignore_class": self.ignore_class,
        }
