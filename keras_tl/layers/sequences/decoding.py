"""Decoding: loops over a step that gives the log-probabilities of the next id.

A step is a function of ids `(batch, width)` and a list of states `(batch * width, ...)`; it gives
log-probabilities `(batch, width, classes)` and the next states. Class 0 is padding: it is never
chosen before the end, and alone after it. Nothing is drawn within a loop: on jax Keras' seeds
cannot be used there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

__all__ = ["NEVER", "beam_search", "compiled", "drawn", "one_by_one"]

NEVER = -1e9  # the log-probability of what is not chosen: as infinity, but its products are no NaN

Step = Callable[[Any, list[Any]], tuple[Any, list[Any]]]


def one_by_one(
    step: Step, states: list[Any], batch: Any, start: Any, end: Any, length: int, choose: Any
) -> tuple[Any, Any]:
    """Ids `(batch, length)` and the sums of their log-probabilities.

    `choose` gives the ids `(batch,)` of log-probabilities `(batch, classes)` and of the step.
    """

    def body(t: Any, token: Any, ids: Any, total: Any, done: Any, states: Any) -> Any:
        scores, states = step(token[:, None], list(states))
        scores = ops.squeeze(scores, axis=1)
        token = ops.where(done, 0, ops.cast(choose(scores, t), "int32"))
        places = ops.arange(batch, dtype="int32") * scores.shape[-1] + token
        score = ops.take(ops.reshape(scores, (-1,)), places)
        total = total + ops.where(done, 0.0, score)
        ids = _written(ids, t, token)
        return t + 1, token, ids, total, ops.logical_or(done, token == end), tuple(states)

    token = ops.zeros((batch,), "int32") + start
    ids = ops.zeros((batch, length), "int32")
    total, done = ops.zeros((batch,), "float32"), ops.zeros((batch,), "bool")
    _, _, ids, total, _, _ = ops.while_loop(
        lambda t, token, ids, total, done, states: ops.logical_not(ops.all(done)),
        body,
        (ops.zeros((), "int32"), token, ids, total, done, tuple(states)),
        maximum_iterations=length,
    )
    return ids, total


def drawn(scores: Any, k: int | None, uniform: Any) -> Any:
    """Ids of probabilities `softmax(scores)`, of the `k` best only; `uniform`: (batch,)."""
    indices = None
    if k is not None:
        scores, indices = ops.top_k(scores, k)
    # `ops.softmax` warns where k is 1.
    below = ops.cumsum(ops.exp(ops.log_softmax(scores, axis=-1)), axis=-1)
    passed = below <= uniform[:, None] * below[:, -1:]
    place = ops.sum(ops.cast(passed, "int32"), axis=-1)
    place = ops.minimum(place, scores.shape[-1] - 1)
    if indices is None:
        return place
    rows = ops.arange(ops.shape(indices)[0], dtype="int32") * k
    return ops.take(ops.reshape(indices, (-1,)), rows + place)


def beam_search(
    step: Step,
    states: list[Any],
    batch: Any,
    start: Any,
    end: Any,
    length: int,
    width: int,
    penalty: Any,
) -> tuple[Any, Any]:
    """The best sequence found with `width` beams, and its score.

    The score is the sum of the log-probabilities, divided by `((5 + length) / 6) ** penalty`
    (Wu et al., 2016, https://arxiv.org/abs/1609.08144, equation 14, without coverage).
    """

    def ranked(totals: Any, lengths: Any) -> Any:
        return totals / ops.power((5.0 + lengths) / 6.0, penalty)

    samples = ops.arange(batch, dtype="int32")[:, None]

    def body(
        t: Any, token: Any, ids: Any, totals: Any, lengths: Any, done: Any, states: Any
    ) -> Any:
        scores, states = step(token, list(states))
        classes = scores.shape[-1]
        padding = ops.where(ops.arange(classes) == 0, 0.0, NEVER)
        scores = ops.where(done[..., None], padding, scores)
        lengths = lengths + ops.cast(ops.logical_not(done), "float32")
        sums = totals[..., None] + scores
        flat = ops.reshape(ranked(sums, lengths[..., None]), (-1, width * classes))
        best = ops.cast(ops.top_k(flat, width)[1], "int32")
        token = best % classes
        # A flat `take`: `take_along_axis` is ten times slower in a TensorFlow graph.
        totals = ops.take(ops.reshape(sums, (-1,)), samples * (width * classes) + best)
        beams = samples * width + best // classes
        rows = ops.reshape(beams, (-1,))
        states = tuple(ops.take(state, rows, axis=0) for state in states)
        ids = _written(ops.take(ids, rows, axis=0), t, ops.reshape(token, (-1,)))
        lengths = ops.take(ops.reshape(lengths, (-1,)), beams)
        done = ops.logical_or(ops.take(ops.reshape(done, (-1,)), beams), token == end)
        return t + 1, token, ids, totals, lengths, done, states

    zeros = ops.zeros((batch, width), "float32")
    # The beams are equal at first: all but one may not go on.
    totals = zeros + ops.where(ops.arange(width) == 0, 0.0, NEVER)
    token = ops.zeros((batch, width), "int32") + start
    ids = ops.zeros((batch * width, length), "int32")
    done = ops.zeros((batch, width), "bool")
    _, _, ids, totals, lengths, _, _ = ops.while_loop(
        lambda t, token, ids, totals, lengths, done, states: ops.logical_not(ops.all(done)),
        body,
        (ops.zeros((), "int32"), token, ids, totals, zeros, done, tuple(states)),
        maximum_iterations=length,
    )
    return ops.reshape(ids, (-1, width, length))[:, 0], ranked(totals, lengths)[:, 0]


def _written(ids: Any, t: Any, token: Any) -> Any:
    """`ids` with `token` in column `t`."""
    return ops.where(ops.arange(ids.shape[1], dtype="int32") == t, token[:, None], ids)


def compiled(layer: keras.layers.Layer, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of tensors, which reads the layer's variables and assigns none, compiled by XLA.

    On torch it runs as it is, and no gradient is kept.
    """
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        def stateless(values: Any, *given: Any) -> Any:
            with keras.StatelessScope(list(zip(layer.variables, values, strict=True))):
                return function(*given)

        jitted = jax.jit(stateless)
        return lambda *given: jitted([v.value for v in layer.variables], *given)
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=True)
    import torch

    return torch.no_grad()(function)
