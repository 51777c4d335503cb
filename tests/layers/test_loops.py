"""The loop against a Python loop: its ends, its outputs and its gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from harness import BACKEND, numpy
from keras import ops

from keras_tl.layers.loops import scan


def total(a: Any, xs: Any, reverse: bool) -> tuple[Any, Any, Any]:
    """A carry of two, xs of two, outputs of two: a number of all of it, the carry, the outputs."""

    def step(carry: Any, x: Any) -> Any:
        state, count = carry
        state = ops.tanh(state * a + x["x"])
        return (state, count + x["n"]), {"state": state * x["x"], "before": carry[1]}

    first = (ops.zeros_like(xs["x"][0]), ops.zeros_like(xs["n"][0]))
    carry, ys = scan(step, first, xs, reverse=reverse)
    return ops.sum(carry[0]) + ops.sum(ys["state"] * ys["state"]), carry, ys


def by_hand(a: np.ndarray, xs: dict[str, np.ndarray], reverse: bool) -> Any:
    state, count, steps = np.zeros(a.shape), 0, len(xs["x"])
    states, befores = np.zeros((steps, *a.shape)), np.zeros(steps, int)
    for t in range(steps)[::-1] if reverse else range(steps):
        state, befores[t] = np.tanh(state * a + xs["x"][t]), count
        states[t], count = state * xs["x"][t], count + xs["n"][t]
    return state.sum() + (states**2).sum(), (state, count), {"before": befores, "state": states}


@pytest.mark.parametrize("reverse", [False, True])
def test_it_is_a_python_loop_with_its_gradient(reverse: bool) -> None:
    rng = np.random.default_rng(0)
    a, x = rng.standard_normal(3).astype("float32"), rng.standard_normal((5, 3)).astype("float32")
    n = rng.integers(0, 9, 5).astype("int32")

    def function(a: Any, x: Any) -> Any:
        return total(a, {"x": x, "n": ops.convert_to_tensor(n)}, reverse)

    wanted, carry, ys = by_hand(a.astype("float64"), {"x": x, "n": n}, reverse)
    for found, found_carry, found_ys, gradients in evaluated(function, a, x):
        np.testing.assert_allclose(numpy(found), wanted, rtol=1e-5)
        np.testing.assert_allclose(numpy(found_carry[0]), carry[0], rtol=1e-5)
        assert int(found_carry[1]) == carry[1]
        for name in ys:
            np.testing.assert_allclose(numpy(found_ys[name]), ys[name], rtol=1e-4)
        for i, gradient in enumerate(gradients):
            direction, places = rng.standard_normal(gradient.shape), [a, x]
            ends = []
            for sign in (1, -1):
                places[i] = (a, x)[i] + sign * 1e-5 * direction
                ends.append(by_hand(places[0], {"x": places[1], "n": n}, reverse)[0])
            slope = (ends[0] - ends[1]) / 2e-5
            np.testing.assert_allclose(np.vdot(numpy(gradient), direction), slope, rtol=1e-3)


def evaluated(function: Any, a: np.ndarray, x: np.ndarray) -> Any:
    """Values and gradients: as it is, compiled, and compiled for a length that is not known."""
    if BACKEND == "jax":
        import jax

        def both(a: Any, x: Any) -> Any:
            gradients = jax.grad(lambda a, x: function(a, x)[0], (0, 1))(a, x)
            return *function(a, x), gradients

        yield both(a, x)
        yield jax.jit(both)(a, x)
    elif BACKEND == "tensorflow":
        import tensorflow as tf

        def both(a: Any, x: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch([a, x])
                found = function(a, x)
            return *found, tape.gradient(found[0], [a, x])

        given = tf.constant(a), tf.constant(x)
        specs = [tf.TensorSpec((3,)), tf.TensorSpec((None, 3))]
        yield both(*given)
        for how in ({"jit_compile": True}, {"jit_compile": True, "input_signature": specs}):
            yield tf.function(both, **how)(*given)
        yield tf.function(both, input_signature=specs)(*given)
    else:
        import torch

        given = [torch.tensor(v, requires_grad=True) for v in (a, x)]
        value, carry, ys = function(*given)
        yield value, carry, ys, torch.autograd.grad(value, given)


def test_no_steps_change_nothing() -> None:
    xs = np.zeros((0, 2), "float32")
    carry, ys = scan(lambda c, x: (c + x, (c, x[:1])), ops.ones((2,)), ops.convert_to_tensor(xs))
    np.testing.assert_array_equal(numpy(carry), [1, 1])
    assert [tuple(y.shape) for y in ys] == [(0, 2), (0, 1)]
