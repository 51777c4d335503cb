"""Linear-chain conditional random field."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_tl.layers import arguments
from keras_tl.layers.loops import scan

__all__ = ["CRF"]

# The least weight that a step leaves a tag, of a whole of 1; its inverse is a float32 as well.
FLOOR = 1e-30


@keras.saving.register_keras_serializable(package="keras_tl")
class CRF(keras.layers.Layer):
    """Tags a sequence as a whole: a linear-chain conditional random field.

    The score of the tags `y` of a sequence is

    `start[y_1] + sum_t scores[t, y_t] + sum_t transitions[y_(t-1), y_t] + end[y_n]`

    with `scores = inputs @ kernel + bias`, and their probability is the softmax of the scores of
    all sequences of tags: [Lafferty, McCallum and Pereira,
    2001](https://repository.upenn.edu/handle/20.500.14332/6188). `layer(inputs)` gives the most
    likely tags. `layer(inputs, tags)` gives them too, and adds the negative log-likelihood of
    `tags` to the model's loss, as the mean over the sequences: a model is compiled with no loss of
    its own. What is trained so is saved and loaded as any model, and the tags need not be given
    in inference: `keras.Model(features, crf(features))` shares the layer.

    A step that is masked is as if it were not there: wherever it is, whatever it holds, as is a
    sequence with none left. Transitions start at zero, where this is a softmax of each step.

    The sums over paths are float32 under any policy, and lose a tag whose probability within the
    sequence up to it is below 1e-30.

    TensorLayer has no such layer; torchcrf and TensorFlow Addons' demand a mask on the right.

    Args:
        units: int, the number of tags.
        use_bias, kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer,
            kernel_constraint, bias_constraint: of the scores, as in `keras.layers.Dense`.
        transitions_initializer, transitions_regularizer, transitions_constraint: of
            `transitions`, and of `start` and `end` the first two.

    Call arguments:
        inputs: `(batch, steps, features)`.
        tags: integers of `(batch, steps)`. A tag that is not in 0 ... units - 1 has probability
            0, and so a loss that is infinite, if its step counts.
        mask: bool, `(batch, steps)`; default: the mask of `inputs`.

    Output shape: `(batch, steps)`: tags, int32, 0 where masked.

    Attributes:
        scores: the `Dense` layer of the scores.
        transitions, start, end: weights of `(units, units)` (from, to), `(units,)`, `(units,)`.

    Raises:
        ValueError: if an argument, a rank, a shape or the type of `tags` is not as described.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from keras_tl.layers import CRF
        >>> features, tags = keras.Input((None, 3)), keras.Input((None,), dtype="int32")
        >>> crf = CRF(2)
        >>> trained = keras.Model([features, tags], crf(features, tags))
        >>> tagger = keras.Model(features, crf(features))
        >>> trained.compile("adam")
        >>> x, y = np.ones((4, 5, 3), "float32"), np.ones((4, 5), "int32")
        >>> history = trained.fit([x, y], epochs=200, verbose=0)
        >>> print(tagger.predict(x, verbose=0)[0])
        [1 1 1 1 1]
    """

    def __init__(
        self,
        units: int,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        transitions_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        transitions_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        transitions_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.units = arguments.integer("units", units)
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.transitions_initializer = keras.initializers.get(transitions_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.transitions_regularizer = keras.regularizers.get(transitions_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self.transitions_constraint = keras.constraints.get(transitions_constraint)
        self.scores = keras.layers.Dense(
            self.units,
            use_bias=use_bias,
            kernel_initializer=self.kernel_initializer,
            bias_initializer=self.bias_initializer,
            kernel_regularizer=self.kernel_regularizer,
            bias_regularizer=self.bias_regularizer,
            kernel_constraint=self.kernel_constraint,
            bias_constraint=self.bias_constraint,
            dtype=self.dtype_policy,
            name="scores",
        )
        self.input_spec = keras.layers.InputSpec(ndim=3)
        self.supports_masking = True

    def build(self, inputs_shape: Any, tags_shape: Any = None) -> None:
        features = arguments.static(self, inputs_shape, -1, "number of features")
        self.input_spec = keras.layers.InputSpec(ndim=3, axes={-1: features})
        self.scores.build(inputs_shape)
        kinds = {
            "initializer": self.transitions_initializer,
            "regularizer": self.transitions_regularizer,
            "autocast": False,
        }
        self.transitions = self.add_weight(
            name="transitions",
            shape=(self.units, self.units),
            constraint=self.transitions_constraint,
            **kinds,
        )
        self.start = self.add_weight(name="start", shape=(self.units,), **kinds)
        self.end = self.add_weight(name="end", shape=(self.units,), **kinds)

    def call(self, inputs: Any, tags: Any = None, mask: Any = None, inputs_mask: Any = None) -> Any:
        mask = inputs_mask if mask is None else mask  # Keras fills in the second if there are tags
        scores = self.scores(inputs)
        if tags is not None:
            likelihood = self.log_likelihood(scores, tags, mask)
            counts = ops.ones_like(likelihood)
            if mask is not None:
                counts = ops.cast(ops.any(mask, 1), likelihood.dtype)
            self.add_loss(-ops.sum(likelihood) / ops.maximum(ops.sum(counts), 1))
        return self.decode(scores, mask)[0]

    def log_likelihood(self, scores: Any, tags: Any, mask: Any = None) -> Any:
        """Of the `tags` of each sequence, `(batch,)`: 0 if all of it is masked.

        `scores` are of `(batch, steps, units)`, such as `layer.scores(inputs)`.
        """
        _check(self.units, scores, tags, mask)
        transitions = ops.convert_to_tensor(self.transitions)
        scores, valid, first = _chain(scores, mask, self.start, self.end)
        tags = ops.cast(tags, "int32")
        chosen = (tags[..., None] == ops.arange(self.units, dtype="int32")) & valid[..., None]
        known = ops.all(ops.any(chosen, -1) == valid, 1)
        tags = ops.clip(tags, 0, self.units - 1)
        jumps = _previous(tags, None if mask is None else valid) * self.units + tags
        jumps = ops.take(ops.reshape(transitions, (-1,)), jumps)
        jumps = ops.sum(ops.where(valid & ~first, jumps, 0), 1)
        path = ops.sum(ops.where(chosen, scores, 0), (1, 2)) + jumps
        likelihood = path - _log_partition(scores, valid, first, transitions)
        return ops.where(known, likelihood, -float("inf"))

    def decode(self, scores: Any, mask: Any = None) -> tuple[Any, Any]:
        """The tags of the best score, `(batch, steps)`, and that score, `(batch,)`: Viterbi's way.

        `scores` as in `log_likelihood`; no gradient.
        """
        _check(self.units, scores, None, mask)
        chain = _chain(scores, mask, self.start, self.end)
        scores, valid, first = map(ops.stop_gradient, chain)
        return _viterbi(scores, valid, first, ops.stop_gradient(self.transitions))

    def compute_output_shape(self, inputs_shape: Any, tags_shape: Any = None) -> Any:
        return tuple(inputs_shape[:2])

    def compute_output_spec(
        self, inputs: Any, tags: Any = None, mask: Any = None, inputs_mask: Any = None
    ) -> Any:
        _check(None, inputs, tags, mask)
        return keras.KerasTensor(inputs.shape[:2], "int32")

    def get_config(self) -> dict[str, Any]:
        config = {"units": self.units, "use_bias": self.use_bias}
        for name in ("kernel", "bias", "transitions"):
            for kind in ("initializer", "regularizer", "constraint"):
                module = getattr(keras, f"{kind}s")
                config[f"{name}_{kind}"] = module.serialize(getattr(self, f"{name}_{kind}"))
        return {**super().get_config(), **config}


def _check(units: int | None, scores: Any, tags: Any, mask: Any) -> None:
    shape = tuple(scores.shape)
    if len(shape) != 3 or units not in (None, shape[-1]):
        raise ValueError(
            f"`scores` must be of shape (batch, steps, {units}). Received: shape {shape}"
        )
    for name, given in (("tags", tags), ("mask", mask)):
        if given is None:
            continue
        found = tuple(given.shape)
        if len(found) != 2 or any(_differ(*pair) for pair in zip(shape, found, strict=False)):
            raise ValueError(
                f"`{name}` must be of the shape (batch, steps) of the scores, {shape[:2]}. "
                f"Received: shape {found}"
            )
        kind = keras.backend.standardize_dtype(given.dtype)
        if (name == "mask") != (kind == "bool") or "float" in kind:
            wanted = "of type bool" if name == "mask" else "integers"
            raise ValueError(f"`{name}` must be {wanted}. Received: type {kind}")


def _differ(one: Any, other: Any) -> bool:
    return isinstance(one, int) and isinstance(other, int) and one != other


def _chain(scores: Any, mask: Any, start: Any, end: Any) -> tuple[Any, Any, Any]:
    """Scores that hold those of the ends, which steps count, and which of them is the first."""
    scores = ops.cast(scores, keras.backend.result_type(scores.dtype, "float32"))
    place = ops.arange(ops.shape(scores)[1], dtype="int32")
    if mask is None:
        mask = ops.ones(ops.shape(scores)[:2], "bool")
    mask, steps = ops.convert_to_tensor(mask), ops.shape(scores)[1]
    first = place == ops.min(ops.where(mask, place, steps), 1, keepdims=True)
    last = place == ops.max(ops.where(mask, place, -1), 1, keepdims=True)
    scores = ops.where(mask[..., None], scores, 0)  # a constant: a product with 0 keeps a NaN
    for ends, score in ((first, start), (last, end)):
        scores = scores + ops.where(ends[..., None], ops.convert_to_tensor(score), 0)
    return scores, mask, first


def _previous(tags: Any, mask: Any) -> Any:
    """The tag before each, of those that count; 0 before the first."""
    none = ops.zeros_like(tags[:, 0])
    if mask is None:
        return ops.concatenate([none[:, None], tags[:, :-1]], 1)
    _, previous = scan(
        lambda tag, now: (ops.where(now[1], now[0], tag), tag), none, _by_step(tags, mask)
    )
    return ops.transpose(previous)


def _log_partition(scores: Any, valid: Any, first: Any, transitions: Any) -> Any:
    """The log of the sum over all paths of exp(score), `(batch,)`.

    The weights of the paths that end in each tag are kept at a sum of 1 by factors that are
    constants to the gradient, as they cancel: what is left of it is the backward algorithm. They
    are weights, not logarithms, so that a step is one product of matrices.
    """
    highest = ops.stop_gradient(ops.max(transitions, 0))  # of each tag's ways in
    weights = ops.exp(transitions - highest)
    scores = scores + ops.where(first[..., None], 0, highest)
    top = ops.stop_gradient(ops.max(scores, -1, keepdims=True))
    scores = ops.exp(scores - top)

    def step(paths: Any, now: Any) -> Any:
        score, valid, first = now
        reached = ops.maximum(ops.matmul(paths, weights), FLOOR)
        reached = ops.where(first, 1, reached) * score
        total = ops.stop_gradient(ops.sum(reached, -1, keepdims=True))
        return ops.where(valid, reached / total, paths), total

    one = ops.zeros_like(scores[:, 0]) + ops.one_hot(0, scores.shape[-1], dtype=scores.dtype)
    paths, totals = scan(step, one, _by_step(scores, valid[..., None], first[..., None]))
    logs = ops.log(totals[..., 0]) + ops.transpose(top[..., 0])
    return ops.log(ops.sum(paths, -1)) + ops.sum(ops.where(ops.transpose(valid), logs, 0), 0)


def _viterbi(scores: Any, valid: Any, first: Any, transitions: Any) -> tuple[Any, Any]:
    """The best path's tags and score.

    On the way there a step keeps the best score of each tag. Where it came from is looked up on
    the way back, for the one tag of the path: units comparisons, where keeping it takes units^2.
    """
    came = ops.transpose(transitions)

    def forward(best: Any, now: Any) -> Any:
        score, valid, first = now
        reached = ops.max(best[:, None] + came, -1)
        reached = ops.where(first, 0, reached) + score
        return ops.where(valid, reached, best), best

    def backward(tag: Any, now: Any) -> Any:
        best, valid, first = now
        before = ops.argmax(best + ops.take(came, tag, 0), -1)
        return ops.where(valid & ~first, ops.cast(before, "int32"), tag), ops.where(valid, tag, 0)

    steps = _by_step(scores, valid[..., None], first[..., None])
    best, history = scan(forward, ops.zeros_like(scores[:, 0]), steps)
    tag = ops.cast(ops.argmax(best, -1), "int32")
    _, tags = scan(backward, tag, (history, *_by_step(valid, first)), reverse=True)
    return ops.transpose(tags), ops.max(best, -1)


def _by_step(*tensors: Any) -> tuple[Any, ...]:
    return tuple(ops.swapaxes(x, 0, 1) for x in tensors)
