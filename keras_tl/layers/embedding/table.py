"""What the layers have in common that look vectors up."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_tl.layers import arguments

__all__ = ["EmbeddingTable"]


class EmbeddingTable(keras.layers.Layer):
    """A table `embeddings` of `(input_dim, output_dim)`.

    Not `keras.layers.Embedding`, which saves its embeddings and no other weight of a subclass.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        embeddings_initializer: Any = "uniform",
        embeddings_regularizer: Any = None,
        embeddings_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.input_dim = arguments.integer("input_dim", input_dim)
        self.output_dim = arguments.integer("output_dim", output_dim)
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self.embeddings_regularizer = keras.regularizers.get(embeddings_regularizer)
        self.embeddings_constraint = keras.constraints.get(embeddings_constraint)
        self.autocast = False  # ids that are floats would lose digits

    def add_table(self) -> None:
        self.embeddings = self.add_weight(
            shape=(self.input_dim, self.output_dim),
            initializer=self.embeddings_initializer,
            regularizer=self.embeddings_regularizer,
            constraint=self.embeddings_constraint,
            name="embeddings",
            autocast=False,  # rows are cast after the look-up, and not the table before it
        )

    def rows(self, ids: Any) -> Any:
        """The vectors of integers, in the dtype that the layer computes in."""
        return ops.cast(ops.take(self.embeddings, ids, axis=0), self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "input_dim": self.input_dim,
            "output_dim": self.output_dim,
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
            "embeddings_regularizer": keras.regularizers.serialize(self.embeddings_regularizer),
            "embeddings_constraint": keras.constraints.serialize(self.embeddings_constraint),
        }
