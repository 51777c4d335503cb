from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_tl.layers import arguments
from keras_tl.layers.embedding.table import EmbeddingTable

__all__ = ["AverageEmbedding"]


@keras.saving.register_keras_serializable(package="keras_tl")
class AverageEmbedding(EmbeddingTable):
    """The mean of the vectors of a text's words, without those of its padding.

    A text of padding alone is a vector of zeros. `keras.layers.Embedding(mask_zero=True)` and
    `GlobalAveragePooling1D` divide by zero there, and know no other padding than 0.

    Iyyer et al., *Deep Unordered Composition Rivals Syntactic Methods for Text Classification*,
    ACL 2015; Joulin et al., arXiv:1607.01759.

    Args:
        input_dim, output_dim, embeddings_initializer, embeddings_regularizer,
            embeddings_constraint: as in `keras.layers.Embedding`.
        pad_value: the id of padding, which may be outside of the table, as -1.

    Input shape: integers of `(batch, ..., words)`. Output shape: `(batch, ..., output_dim)`.

    Raises:
        ValueError: if an argument is none of these, or an input has no axis of words.

    Example:
        >>> import numpy as np
        >>> layer = AverageEmbedding(3, 1)
        >>> layer.build((None, 4))
        >>> layer.set_weights([np.array([[9], [1], [2]], "float32")])
        >>> texts = np.array([[1, 2, 2, 1], [2, 0, 0, 0], [0, 0, 0, 0]])
        >>> keras.ops.convert_to_numpy(layer(texts)).tolist()
        [[1.5], [2.0], [0.0]]
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        embeddings_initializer: Any = "uniform",
        embeddings_regularizer: Any = None,
        embeddings_constraint: Any = None,
        *,
        pad_value: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            input_dim,
            output_dim,
            embeddings_initializer,
            embeddings_regularizer,
            embeddings_constraint,
            **kwargs,
        )
        self.pad_value = arguments.integer("pad_value", pad_value, -(2**31))

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        if len(input_shape) < 2:
            raise ValueError(
                "The input of `AverageEmbedding` must have an axis of words after the batch. "
                f"Received: input shape {tuple(input_shape)}"
            )
        self.add_table()

    def call(self, inputs: Any) -> Any:
        ids = ops.cast(inputs, "int32")
        counts = ids != self.pad_value
        vectors = self.rows(ops.where(counts, ids, ops.zeros_like(ids)))
        vectors = ops.cast(vectors, keras.backend.result_type(self.compute_dtype, "float32"))
        counts = ops.cast(counts, vectors.dtype)
        total = ops.sum(vectors * counts[..., None], axis=-2)
        number = ops.maximum(ops.sum(counts, axis=-1, keepdims=True), 1)
        return ops.cast(total / number, self.compute_dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (*input_shape[:-1], self.output_dim)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "pad_value": self.pad_value}
