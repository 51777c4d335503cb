"""How the decoder of `Seq2Seq` looks back at the source."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

__all__ = ["KINDS", "LookBack"]

KINDS = ("luong", "bahdanau")


class LookBack(keras.layers.Layer):
    """Attention of all queries at once: `tanh(W [context; query])`.

    "luong": the score is `query . (W memory)` (https://arxiv.org/abs/1508.04025, "general").
    "bahdanau": it is `v . tanh(W memory + U query)` (https://arxiv.org/abs/1409.0473).
    """

    def __init__(self, units: int, kind: str, kernel_initializer: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.kind = kind

        def dense(name: str, size: int, **more: Any) -> Any:
            return keras.layers.Dense(
                size,
                use_bias=False,
                kernel_initializer=kernel_initializer,
                dtype=self.dtype_policy,
                name=name,
                **more,
            )

        self.to_keys = dense("keys", units)
        self.to_queries: Any = dense("queries", units) if kind == "bahdanau" else None
        self.to_score: Any = dense("score", 1) if kind == "bahdanau" else None
        self.combine = dense("combine", units, activation="tanh")

    def build(self, *shapes: Any) -> None:
        self.combine.build((None, None, 2 * self.units))
        for layer in (self.to_keys, self.to_queries, self.to_score):
            if layer is not None:
                layer.build((None, None, self.units))

    def keys(self, memory: Any) -> Any:
        """What of the memory does not depend on a query, to be made once."""
        return self.to_keys(memory)

    def call(self, queries: Any, memory: Any, keys: Any, valid: Any) -> Any:
        if self.to_queries is None:
            scores = ops.matmul(queries, ops.transpose(keys, (0, 2, 1)))
        else:
            pairs = self.to_queries(queries)[:, :, None] + keys[:, None]
            scores = ops.squeeze(self.to_score(ops.tanh(pairs)), axis=-1)
        # Not infinite: where nothing is left to look at, the weights are equal, and not NaN.
        scores = ops.where(valid[:, None], ops.cast(scores, "float32"), -1e9)
        # `ops.softmax` warns where there is one step.
        weights = ops.cast(ops.exp(ops.log_softmax(scores, axis=-1)), memory.dtype)
        return self.combine(ops.concatenate([ops.matmul(weights, memory), queries], axis=-1))
