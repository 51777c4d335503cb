"""Linear-chain conditional random field."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_tl.layers import arguments
from keras_tl.layers.loops import scan

__all__ = ["CRF"]

# The least weight of a tag before it is scored, where the likeliest way to one has 1: neither its
# logarithm nor its inverse is infinite.
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

    The sums over paths are float32 under any policy. The ways to a tag weigh at least 1e-30 of
    what they could with the best transition: so much is left of transitions such as -1e4.

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
        >>> trained.compile(keras.optimizers.Adam(0.1))
        >>> x, y = np.ones((4, 5, 3), "float32"), np.ones((4, 5), "int32")
        >>> history = trained.fit([x, y], epochs=20, verbose=0)
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
        scores, first, valid = _steps(scores, mask)
        transitions, start, end = self._ends()
        total = _log_partition(scores, transitions, start, end, first, valid)
        tags = ops.cast(tags, "int32")
        known = (tags >= 0) & (tags < self.units)
        tags = ops.clip(tags, 0, self.units - 1)
        # Not by a gather: its gradient would be one more array of the scores' size.
        chosen = tags[..., None] == ops.arange(self.units, dtype="int32")
        path = ops.sum(ops.where(chosen, scores, 0), -1)
        before, last = _previous(tags, valid)
        jumps = ops.take(ops.reshape(transitions, (-1,)), before * self.units + tags)
        path = path + ops.where(first, ops.take(start, tags), jumps)
        if valid is not None:
            known, path = known | ~valid, ops.where(valid, path, 0)
        likelihood = ops.sum(path, 1) + ops.take(end, last) - total
        if valid is not None:
            likelihood = ops.where(ops.any(valid, 1), likelihood, 0)
        return ops.where(ops.all(known, 1), likelihood, -float("inf"))

    def decode(self, scores: Any, mask: Any = None) -> tuple[Any, Any]:
        """The tags of the best score, `(batch, steps)`, and that score, `(batch,)`: Viterbi's way.

        `scores` as in `log_likelihood`; no gradient.
        """
        _check(self.units, scores, None, mask)
        scores, first, valid = _steps(scores, mask)
        transitions, start, end = map(ops.stop_gradient, self._ends())
        scores = ops.stop_gradient(scores)
        tags, best = _viterbi(scores, transitions, start, end, first, valid)
        return tags, best if valid is None else ops.where(ops.any(valid, 1), best, 0)

    def _ends(self) -> tuple[Any, Any, Any]:
        return tuple(map(ops.convert_to_tensor, (self.transitions, self.start, self.end)))

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
    if len(shape) != 3 or units not in (None, shape[-1]) or shape[1] == 0:
        raise ValueError(
            f"`scores` must be of shape (batch, steps, {units}), with a step at least. "
            f"Received: shape {shape}"
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


def _steps(scores: Any, mask: Any) -> tuple[Any, Any, Any]:
    """Scores without what is masked, which steps are the first, and which count: None if all."""
    scores = ops.cast(scores, keras.backend.result_type(scores.dtype, "float32"))
    steps = ops.shape(scores)[1]
    place = ops.arange(steps, dtype="int32")[None]
    if mask is None:
        return scores, place == 0, None
    mask = ops.convert_to_tensor(mask)
    first = place == ops.min(ops.where(mask, place, steps), 1, keepdims=True)
    return ops.where(mask[..., None], scores, 0), first, mask  # a product with 0 keeps a NaN


def _ways_in(transitions: Any) -> tuple[Any, Any]:
    """The best way into each tag, and the transitions without it: none of them is above 0."""
    highest = ops.stop_gradient(ops.max(transitions, 0))
    return highest, transitions - highest


def _previous(tags: Any, valid: Any) -> tuple[Any, Any]:
    """Of those that count: the tag before each, of which the first has some; and the last."""
    if valid is None:
        return ops.roll(tags, 1, 1), tags[:, -1]

    def step(before: Any, now: Any) -> Any:
        tag, counts = now
        return ops.where(counts, tag, before), before

    last, before = scan(step, ops.zeros_like(tags[:, 0]), _by_step(tags, valid))
    return ops.transpose(before), last


def _log_partition(
    scores: Any, transitions: Any, start: Any, end: Any, first: Any, valid: Any
) -> Any:
    """The log of the sum over all paths of exp(score), `(batch,)`.

    A step is one product of matrices, where the sums of logarithms take units^2 exponentials. What
    is subtracted before an exponential and added after it is a constant to the gradient.
    """
    highest, transitions = _ways_in(transitions)
    weights = ops.exp(transitions)
    if valid is None:
        (scores,) = _by_step(scores, None)
        total, steps = start + scores[0], (scores[1:],)
    else:  # a path starts anywhere: zeros are before it, and what a step makes of them is taken off
        start = start - ops.log(ops.sum(weights, 0))
        scores = scores + ops.where(first[..., None], start, highest)
        total, steps = ops.zeros_like(scores[:, 0]), _by_step(scores, valid)
        highest = ops.zeros_like(highest)  # it is in the scores

    def step(totals: Any, now: Any) -> Any:
        (total, above), (score, *valid) = totals, now
        most = ops.stop_gradient(ops.max(total, -1, keepdims=True))
        reached = ops.matmul(ops.exp(total - most), weights) + FLOOR
        # Apart from what they have in common: its digits would be missing to their differences.
        new = (ops.log(reached) + highest + score, above + most)
        return (_where(valid, new[0], total), _where(valid, new[1], above)), ()

    (total, above), _ = scan(step, (total, ops.zeros_like(total[:, :1])), steps)
    return ops.logsumexp(total + end, -1) + above[:, 0]


def _viterbi(
    scores: Any, transitions: Any, start: Any, end: Any, first: Any, valid: Any
) -> tuple[Any, Any]:
    """The best path's tags and score.

    On the way there a step keeps the best score of each tag. Where it came from is looked up on
    the way back, for the one tag of the path: units comparisons, where keeping it takes units^2.
    """
    highest, transitions = _ways_in(transitions)
    scores = scores + ops.where(first[..., None], start, highest)
    came = ops.transpose(transitions)

    def forward(best: Any, now: Any) -> Any:
        score, *valid = now
        return _where(valid, ops.max(best[:, None] + came, -1) + score, best), best

    def backward(tag: Any, now: Any) -> Any:
        best, *valid = now
        before = ops.cast(ops.argmax(best + ops.take(came, tag, 0), -1), "int32")
        return _where(valid, before, tag), _where(valid, tag, ops.zeros_like(tag))

    _, *counts = steps = _by_step(scores, valid)
    best, history = scan(forward, ops.zeros_like(scores[:, 0]), steps)
    best = best + end
    tag = ops.cast(ops.argmax(best, -1), "int32")
    _, tags = scan(backward, tag, (history, *counts), reverse=True)
    return ops.transpose(tags), ops.max(best, -1)


def _by_step(values: Any, valid: Any) -> tuple[Any, ...]:
    """Steps first: the values, and which of them count, unless all do."""
    return tuple(ops.swapaxes(x, 0, 1) for x in (values, valid) if x is not None)


def _where(valid: list[Any], new: Any, old: Any) -> Any:
    """`new` of the sequences where this step counts: all of them, if there is no mask."""
    for counts in valid:
        new = ops.where(counts[:, None] if len(new.shape) == 2 else counts, new, old)
    return new
