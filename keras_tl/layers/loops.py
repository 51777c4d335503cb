"""A loop that is trained through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops, tree

__all__ = ["scan"]

Step = Callable[[Any, Any], tuple[Any, Any]]


def scan(step: Step, carry: Any, xs: Any, reverse: bool = False) -> tuple[Any, Any]:
    """`jax.lax.scan`: `carry, y = step(carry, x)` for each `x` along the first axis of `xs`.

    `carry`, `x` and `y` are tensors or nests of them. The length of the first axis may be unknown,
    and 0. Gives the last `carry` and the `y` of all steps, stacked.

    It has a gradient on every backend, compiled or not, which no loop of `keras.ops` has: in what
    XLA compiles for TensorFlow `scan` and `fori_loop` have none, on jax `while_loop` never.
    """
    if keras.backend.backend() == "tensorflow":
        return _tensorflow(step, carry, xs, reverse)
    if keras.backend.backend() == "torch":
        return _torch(step, carry, xs, reverse)
    return ops.scan(step, carry, xs, reverse=reverse)


def _tensorflow(step: Step, carry: Any, xs: Any, reverse: bool) -> tuple[Any, Any]:
    """`while_loop` has a gradient under XLA if the number of its iterations is bounded."""
    import tensorflow as tf

    flat = tree.flatten(xs)
    count = tf.shape(flat[0])[0] if flat[0].shape[0] is None else flat[0].shape[0]

    def like_one(x: Any) -> Any:
        return tf.ensure_shape(tf.zeros(tf.shape(x)[1:], x.dtype), x.shape[1:])

    _, y = step(carry, tree.map_structure(like_one, xs))  # for the types: in a graph it is pruned
    # A read of an array adds to the gradient of one step, a slice of a tensor to that of all.
    given = [tf.TensorArray(x.dtype, count, element_shape=x.shape[1:]).unstack(x) for x in flat]
    taken = [tf.TensorArray(x.dtype, count, element_shape=x.shape) for x in tree.flatten(y)]

    def body(i: Any, carry: Any, taken: Any) -> Any:
        place = count - 1 - i if reverse else i
        x = tree.pack_sequence_as(xs, [array.read(place) for array in given])
        carry, y = step(carry, x)
        taken = [array.write(place, v) for array, v in zip(taken, tree.flatten(y), strict=True)]
        return i + 1, carry, taken

    _, carry, taken = tf.while_loop(
        lambda i, *_: i < count, body, (0, carry, taken), maximum_iterations=count
    )
    return carry, tree.pack_sequence_as(y, [array.stack() for array in taken])


def _torch(step: Step, carry: Any, xs: Any, reverse: bool) -> tuple[Any, Any]:
    steps = list(zip(*(x.unbind() for x in tree.flatten(xs)), strict=True))
    if not steps:
        _, y = step(carry, tree.map_structure(lambda x: x.new_zeros(x.shape[1:]), xs))
        return carry, tree.map_structure(lambda y: y.new_zeros((0, *y.shape)), y)
    ys = []
    for x in reversed(steps) if reverse else steps:
        carry, y = step(carry, tree.pack_sequence_as(xs, x))
        ys.append(y)
    ys = ys[::-1] if reverse else ys
    return carry, tree.map_structure(lambda *of_steps: ops.stack(of_steps), *ys)
