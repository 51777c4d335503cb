from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_tl.layers import arguments
from keras_tl.layers.regularization.noise import dropped
from keras_tl.layers.sequences import decoding
from keras_tl.layers.sequences.attention import KINDS, LookBack

__all__ = ["Seq2Seq"]

METHODS = ("greedy", "top_k", "sample", "beam")


@keras.saving.register_keras_serializable(package="keras_tl")
class Seq2Seq(keras.layers.Layer):
    """A sequence made from another: LSTM encoder and decoder with attention, and decoding.

    `layer(source, target)` is teacher forcing: it gives the logits of the id after each id of the
    target, which begins with an id that means "start". To train it:

        model = keras.Model([source, target], layer(source, target))
        loss = keras_tl.losses.SequenceCrossentropy(from_logits=True, ignore_class=0)
        model.compile("adam", loss)
        model.fit([sources, targets[:, :-1]], targets[:, 1:])

    `layer.generate(source, ...)` then writes a target by itself.

    Id 0 is padding. It may stand anywhere in a source; what it is embedded as changes nothing. A
    target is padded on the right, and the logits there mean nothing.

    The encoder runs in both directions with half of the units each; the states it ends with are
    those that the decoder starts with (Sutskever et al., 2014, https://arxiv.org/abs/1409.3215).
    The decoder's output `h` looks back at the encoder's outputs `m`: `tanh(W [context; h])`, the
    context being the mean of `m` by the softmax of a score, "luong": `h . (W m)` (Luong et al.,
    2015, https://arxiv.org/abs/1508.04025, "general"), or "bahdanau":
    `v . tanh(W m + U h)` (Bahdanau et al., 2015, https://arxiv.org/abs/1409.0473). What was looked
    at is not fed to the next step, as it is in both papers: so training needs no attention within
    the loop, but one product for all steps.

    TensorLayer's `Seq2Seq` handed the states over as well, but had no attention and no decoding;
    its model with attention compared strings with `is`, and decoded greedily alone.

    Args:
        input_dim, output_dim: the numbers of ids of sources and targets, 0 included.
        units: of the encoder and of the decoder, in each layer; even.
        embedding_dim: the length of the vectors of ids; default: `units`.
        num_layers: of LSTMs, in the encoder and in the decoder.
        attention: "luong", "bahdanau", or `None`: the decoder has only the states.
        dropout: the part that is dropped, in training, of each LSTM's inputs and of what the
            logits are made of.
        embeddings_initializer, kernel_initializer, recurrent_initializer: of the weights.
        seed: of the dropout, and of `generate` where it has no seed of its own.

    Input shape: integers `(batch, source steps)` and `(batch, target steps)`. Output shape:
    `(batch, target steps, output_dim)`.

    Raises:
        ValueError: if `units` is odd, another argument is out of its range, or ids are no
            integers of two axes.

    Example:
        >>> import numpy as np
        >>> layer = Seq2Seq(input_dim=10, output_dim=8, units=4)
        >>> source, target = np.array([[5, 6, 7, 0]]), np.array([[1, 3, 4]])
        >>> tuple(layer(source, target).shape)
        (1, 3, 8)
        >>> ids, scores = layer.generate(source, start_id=1, end_id=2, max_length=5)
        >>> tuple(ids.shape), tuple(scores.shape)
        ((1, 5), (1,))
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        units: int,
        embedding_dim: int | None = None,
        num_layers: int = 1,
        attention: str | None = "luong",
        dropout: float = 0.0,
        *,
        embeddings_initializer: Any = "uniform",
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.input_dim = arguments.integer("input_dim", input_dim, 2)
        self.output_dim = arguments.integer("output_dim", output_dim, 2)
        self.units = arguments.integer("units", units, 2)
        if self.units % 2:
            raise ValueError(
                "`units` must be even: the encoder has half of them in each direction. "
                f"Received: units={units}"
            )
        self.embedding_dim = self.units
        if embedding_dim is not None:
            self.embedding_dim = arguments.integer("embedding_dim", embedding_dim)
        self.num_layers = arguments.integer("num_layers", num_layers)
        self.attention = (
            None if attention is None else arguments.choice("attention", attention, KINDS)
        )
        self.dropout = arguments.fraction("dropout", dropout)
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.recurrent_initializer = keras.initializers.get(recurrent_initializer)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self._make_layers()
        self._decoders: dict[tuple[Any, ...], Any] = {}
        self._decoded: tuple[Any, ...] = ()  # the variables that those read

    def _make_layers(self) -> None:
        def embedding(size: int, name: str) -> Any:
            return keras.layers.Embedding(
                size,
                self.embedding_dim,
                embeddings_initializer=_fresh(self.embeddings_initializer),
                dtype=self.dtype_policy,
                name=name,
            )

        def recurrent(units: int, name: str) -> Any:
            # Not `LSTM`: on a GPU its fused loop refuses masks that are not padding on the right.
            cell = keras.layers.LSTMCell(
                units,
                kernel_initializer=_fresh(self.kernel_initializer),
                recurrent_initializer=_fresh(self.recurrent_initializer),
                dtype=self.dtype_policy,
                name="cell",
            )
            return keras.layers.RNN(
                cell, return_sequences=True, return_state=True, dtype=self.dtype_policy, name=name
            )

        def encoder(name: str) -> Any:
            forward = recurrent(self.units // 2, name)
            return keras.layers.Bidirectional(forward, dtype=self.dtype_policy, name=name)

        self.source_embedding = embedding(self.input_dim, "source_embedding")
        self.target_embedding = embedding(self.output_dim, "target_embedding")
        self.encoder_layers = [encoder(f"encoder_{i}") for i in range(self.num_layers)]
        self.decoder_layers = [
            recurrent(self.units, f"decoder_{i}") for i in range(self.num_layers)
        ]
        self.look_back = None
        if self.attention is not None:
            self.look_back = LookBack(
                self.units,
                self.attention,
                self.kernel_initializer,
                dtype=self.dtype_policy,
                name="look_back",
            )
        self.logits = keras.layers.Dense(
            self.output_dim,
            kernel_initializer=_fresh(self.kernel_initializer),
            dtype=self.dtype_policy,
            name="logits",
        )

    def build(self, source_shape: Any, target_shape: Any = None) -> None:
        self.source_embedding.build((None, None))
        self.target_embedding.build((None, None))
        for i in range(self.num_layers):
            shape = (None, None, self.units if i else self.embedding_dim)
            self.encoder_layers[i].build(shape)
            self.decoder_layers[i].build(shape)
        if self.look_back is not None:
            self.look_back.build()
        self.logits.build((None, None, self.units))

    def call(self, source: Any, target: Any, training: bool = False) -> Any:
        source, target = _ids("source", source), _ids("target", target)
        memory, states = self._encoded(source, training)
        x = self.target_embedding(target)
        for i, layer in enumerate(self.decoder_layers):
            x = self._dropped(x, training)
            x, _, _ = layer(x, initial_state=states[2 * i : 2 * i + 2])
        return self._logits(x, memory, training)

    def _encoded(self, source: Any, training: bool) -> tuple[list[Any], list[Any]]:
        """What the decoder looks back at, and the states that it starts with."""
        valid = source != 0
        x = self.source_embedding(source)
        states = []
        for layer in self.encoder_layers:
            x, *ends = layer(self._dropped(x, training), mask=valid)
            # h and c of the one direction, then of the other
            states += [ops.concatenate([ends[i], ends[i + 2]], axis=-1) for i in range(2)]
        keys = [] if self.look_back is None else [self.look_back.keys(x)]
        return [x, valid, *keys], states

    def _logits(self, x: Any, memory: list[Any], training: bool = False) -> Any:
        if self.look_back is not None:
            outputs, valid, keys = memory
            x = self.look_back(x, outputs, keys, valid)
        return self.logits(self._dropped(x, training))

    def _dropped(self, x: Any, training: bool) -> Any:
        if not training or not self.dropout:
            return x
        return dropped(x, ops.shape(x), self.dropout, self.seed_generator)

    def generate(
        self,
        source: Any,
        start_id: int,
        end_id: int,
        max_length: int,
        method: str = "greedy",
        *,
        top_k: int = 10,
        temperature: float = 1.0,
        num_beams: int = 4,
        length_penalty: float = 0.0,
        seed: int | None = None,
    ) -> tuple[Any, Any]:
        """Writes a target for each source, in one compiled loop that stops when all have ended.

        Args:
            source: integers `(batch, source steps)`. Each new shape is compiled anew, and so is
                all after a change of the layer's variables in number or type (LoRA, int8).
            start_id: what a target begins with; it is not among the ids that come back.
            end_id: what it ends with.
            max_length: of the targets, the end included.
            method: "greedy": the most probable id at each step. "sample": an id by its
                probability. "top_k": the same among the `top_k` most probable. "beam": beam search.
            top_k: of method "top_k".
            temperature: of methods "top_k" and "sample": what logits are divided by.
            num_beams: of method "beam".
            length_penalty: of method "beam": scores are divided by
                `((5 + length) / 6) ** length_penalty`, so that 0 prefers short targets.
            seed: of methods "top_k" and "sample"; `None`: other ids in each call.

        Returns:
            ids: int32 `(batch, max_length)`, 0 after the end. Id 0 is never chosen before it.
            scores: float32 `(batch,)`, the sums of the ids' log-probabilities (at temperature 1);
                for "beam" divided as said.

        Raises:
            ValueError: if an argument is out of its range.
        """
        classes = self.output_dim - 1
        method = arguments.choice("method", method, METHODS)
        length = arguments.integer("max_length", max_length)
        ids = [self._id("start_id", start_id), self._id("end_id", end_id)]
        width = arguments.integer("num_beams", num_beams) if method == "beam" else 1
        k = arguments.integer("top_k", top_k) if method == "top_k" else None
        if k is not None and k > classes:
            raise ValueError(f"`top_k` must be at most {classes}. Received: top_k={top_k}")
        temperature = arguments.number("temperature", temperature, 0, exclusive=True)
        length_penalty = arguments.number("length_penalty", length_penalty, 0)
        if seed is not None:
            seed = arguments.integer("seed", seed, 0)
        if not ops.is_tensor(source):
            self._check(source := np.asarray(source))
        source = _ids("source", ops.convert_to_tensor(source))
        if not self.built:
            self.build(source.shape)

        given = [source, *(ops.convert_to_tensor(i, "int32") for i in ids)]
        if method == "beam":
            given.append(ops.convert_to_tensor(length_penalty, "float32"))
        elif method != "greedy":
            draw = self.seed_generator if seed is None else seed
            uniform = keras.random.uniform((length, source.shape[0]), seed=draw)
            given += [uniform, ops.convert_to_tensor(temperature, "float32")]
        key = (method, length, width, k)
        # TensorFlow's functions keep the variables that were there: LoRA and int8 bring others.
        variables = tuple((v.path, v.dtype) for v in self.variables)
        if variables != self._decoded:
            self._decoders, self._decoded = {}, variables
        if key not in self._decoders:
            self._decoders[key] = decoding.compiled(self, self._decoder(*key))
        return self._decoders[key](*given)

    def _check(self, source: Any) -> None:
        """The backends embed an id that is out of range as NaN, as another, or not at all."""
        if source.size and (source.min() < 0 or source.max() >= self.input_dim):
            raise ValueError(
                f"`source` must have ids from 0 to {self.input_dim - 1}. "
                f"Received: ids from {source.min()} to {source.max()}"
            )

    def _id(self, name: str, value: int) -> int:
        if arguments.integer(name, value) >= self.output_dim:
            raise ValueError(f"`{name}` must be below {self.output_dim}. Received: {name}={value}")
        return int(value)

    def _decoder(self, method: str, length: int, width: int, k: int | None) -> Any:
        def decode(source: Any, start: Any, end: Any, *how: Any) -> tuple[Any, Any]:
            memory, states = self._encoded(source, training=False)
            batch = ops.shape(source)[0]

            def step(ids: Any, states: list[Any]) -> tuple[Any, list[Any]]:
                return self._step(ids, states, memory)

            if method == "beam":
                states = [ops.repeat(state, width, axis=0) for state in states]
                return decoding.beam_search(step, states, batch, start, end, length, width, *how)

            def choose(scores: Any, t: Any) -> Any:
                if method == "greedy":
                    return ops.argmax(scores, axis=-1)
                uniform, temperature = how
                return decoding.drawn(scores / temperature, k, ops.take(uniform, t, axis=0))

            return decoding.one_by_one(step, states, batch, start, end, length, choose)

        return decode

    def _step(self, ids: Any, states: list[Any], memory: list[Any]) -> tuple[Any, list[Any]]:
        """Log-probabilities of the ids after these `(batch, width)`, and the next states."""
        x = self.target_embedding(ops.reshape(ids, (-1,)))
        after = []
        for i, layer in enumerate(self.decoder_layers):
            x, new = layer.cell(x, states[2 * i : 2 * i + 2])
            after += new
        # The beams look back as the steps of a target do: nothing of the source is repeated.
        logits = self._logits(ops.reshape(x, (-1, ids.shape[1], self.units)), memory)
        padding = ops.arange(self.output_dim) == 0
        logits = ops.where(padding, decoding.NEVER, ops.cast(logits, "float32"))
        return ops.log_softmax(logits, axis=-1), after

    def compute_output_shape(self, source_shape: Any, target_shape: Any) -> tuple[int | None, ...]:
        return (*target_shape, self.output_dim)

    def get_config(self) -> dict[str, Any]:
        initializers = {
            name: keras.initializers.serialize(getattr(self, name))
            for name in ("embeddings_initializer", "kernel_initializer", "recurrent_initializer")
        }
        names = ("input_dim", "output_dim", "units", "embedding_dim", "num_layers", "attention")
        own = {name: getattr(self, name) for name in (*names, "dropout", "seed")}
        return {**super().get_config(), **own, **initializers}


def _fresh(initializer: Any) -> Any:
    """An equal initializer: the same one gives two weights of one shape the same values."""
    return keras.initializers.get(keras.initializers.serialize(initializer))


def _ids(name: str, ids: Any) -> Any:
    kind = keras.backend.standardize_dtype(ids.dtype)
    shape = tuple(ids.shape)
    if len(shape) != 2 or 0 in shape or not keras.backend.is_int_dtype(kind):
        raise ValueError(
            f"`{name}` must be integers of (batch, steps), at least 1 of each. "
            f"Received: {kind} of shape {shape}"
        )
    return ids
