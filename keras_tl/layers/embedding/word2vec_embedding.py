from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from keras_tl.layers import arguments
from keras_tl.layers.embedding.candidate_losses import nce_loss, sampled_softmax_loss
from keras_tl.layers.embedding.log_uniform import log_uniform_candidates
from keras_tl.layers.embedding.table import EmbeddingTable

__all__ = ["Word2VecEmbedding"]

Shape = tuple[int | None, ...]
LOSSES = {"nce": nce_loss, "sampled_softmax": sampled_softmax_loss}


@keras.saving.register_keras_serializable(package="keras_tl")
class Word2VecEmbedding(EmbeddingTable):
    """Vectors of words that are trained to predict the words around them.

    `layer(words)` are the words' vectors. `layer(words, contexts)` are the same, and add the mean
    loss of predicting each context from its word: a model of both is compiled without a loss.

    The loss looks at the context and `num_sampled` other words, which are drawn for each batch,
    all different, frequent words more often: the probability of id `k` is
    `log((k + 2) / (k + 1)) / log(input_dim + 1)`, so **ids should be in the order of falling
    frequency** (as `keras.layers.TextVectorization` numbers them). The logits are corrected by the
    logarithms of the expected counts. In evaluation the words drawn are always the same, so that
    losses can be compared.

    Mikolov et al., *Distributed Representations of Words and Phrases and their Compositionality*,
    NIPS 2013. TensorLayer's `Word2vecEmbedding` in version 2 raised a `TypeError` with its own
    defaults, and its `normalized_embeddings` never changed in training.

    Args:
        input_dim, output_dim, embeddings_initializer, embeddings_regularizer,
            embeddings_constraint: as in `keras.layers.Embedding`.
        num_sampled: words drawn for each batch, at most `input_dim`.
        loss: "nce" (noise-contrastive estimation, `tf.nn.nce_loss`) or "sampled_softmax"
            (`tf.nn.sampled_softmax_loss`).
        kernel_initializer, bias_initializer: of the weights of `(input_dim, output_dim)` and
            `(input_dim,)` that predict contexts. A bias of None begins at `-log(input_dim)`: NCE
            takes logits for logarithms of probabilities, and so those of untrained words sum to 1.
            Zeros, as TensorFlow's examples have them, make it learn that first.
        seed: of the words drawn.

    Input shape: integers of any shape, the same for words and contexts. Output shape: that of the
    words, and `output_dim`.

    Raises:
        ValueError: if an argument is none of these, or words and contexts differ in shape.

    Example:
        >>> import numpy as np
        >>> words, contexts = np.array([1, 2, 1, 3]), np.array([2, 1, 3, 1])
        >>> inputs = [keras.Input((), dtype="int32"), keras.Input((), dtype="int32")]
        >>> layer = Word2VecEmbedding(100, 8, num_sampled=5)
        >>> model = keras.Model(inputs, layer(*inputs))
        >>> model.compile("adam")
        >>> history = model.fit([words, contexts], epochs=2, verbose=0)
        >>> tuple(layer(words).shape), tuple(layer.normalized_embeddings.shape)
        ((4, 8), (100, 8))
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        embeddings_initializer: Any = "uniform",
        embeddings_regularizer: Any = None,
        embeddings_constraint: Any = None,
        *,
        num_sampled: int = 64,
        loss: str = "nce",
        kernel_initializer: Any = "zeros",
        bias_initializer: Any = None,
        seed: int | None = None,
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
        self.num_sampled = arguments.integer("num_sampled", num_sampled)
        if self.num_sampled > self.input_dim:
            raise ValueError(
                "`num_sampled` must be at most `input_dim`, as no word is drawn twice. "
                f"Received: num_sampled={num_sampled}, input_dim={input_dim}"
            )
        self.loss = arguments.choice("loss", loss, LOSSES)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def build(self, words_shape: Shape, contexts_shape: Shape | None = None) -> None:
        self.add_table()
        self.kernel = self.add_weight(
            shape=(self.input_dim, self.output_dim),
            initializer=self.kernel_initializer,
            name="kernel",
            autocast=False,
        )
        initializer = self.bias_initializer
        if initializer is None:
            initializer = keras.initializers.Constant(-math.log(self.input_dim))
        self.bias = self.add_weight(
            shape=(self.input_dim,),
            initializer=initializer,
            name="bias",
            autocast=False,
        )

    def call(self, words: Any, contexts: Any = None, training: bool = False) -> Any:
        vectors = self.rows(ops.cast(words, "int32"))
        if contexts is not None:
            known = zip(words.shape, contexts.shape, strict=False)
            if len(words.shape) != len(contexts.shape) or any(
                None not in (n, m) and n != m for n, m in known
            ):
                raise ValueError(
                    "`words` and `contexts` must have the same shape. "
                    f"Received: shapes {tuple(words.shape)} and {tuple(contexts.shape)}"
                )
            labels = ops.reshape(ops.cast(contexts, "int32"), (-1,))
            inputs = ops.reshape(vectors, (-1, self.output_dim))
            self.add_loss(self._loss(labels, inputs, training))
        return vectors

    def _loss(self, labels: Any, inputs: Any, training: bool) -> Any:
        seed = self.seed_generator if training else 0
        noise = keras.random.uniform((self.input_dim,), dtype="float32", seed=seed)
        candidates, expected = log_uniform_candidates(noise, self.num_sampled)
        losses = LOSSES[self.loss](
            self.kernel,
            self.bias,
            labels,
            inputs,
            candidates,
            expected(labels),
            expected(candidates),
        )
        return ops.mean(losses)

    @property
    def normalized_embeddings(self) -> Any:
        """The table as it is, each vector divided by its length: products are cosines."""
        return ops.normalize(ops.convert_to_tensor(self.embeddings), axis=-1)

    def compute_output_shape(
        self, words_shape: Shape, contexts_shape: Shape | None = None
    ) -> Shape:
        return (*words_shape, self.output_dim)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_sampled": self.num_sampled,
            "loss": self.loss,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": self.bias_initializer
            and keras.initializers.serialize(self.bias_initializer),
            "seed": self.seed,
        }
