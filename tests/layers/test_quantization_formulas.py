"""The quantisers against their papers' formulas in NumPy, values and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from harness import numpy, with_gradients
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_tl.layers import BinaryDense, DoReFaDense, Sign, TernaryDense
from keras_tl.layers.quantization import quantizers

Formula = Callable[[np.ndarray], np.ndarray]
Gradient = Callable[[np.ndarray, np.ndarray], np.ndarray]

EDGES = np.array([0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 1e-30, -1e-30], "float32")


def drawn(seed: int, size: float) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, size, (4, 6)).astype("float32")


def evaluator(quantize: Callable[..., Any]) -> Callable[[np.ndarray], tuple[np.ndarray, ...]]:
    """Of an array: the values, a random upstream gradient and what became of it."""
    run = with_gradients(lambda p: [quantize(p[0]).forward()], seed=5)

    def evaluate(x: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(parts[0] for parts in run([x]))

    return evaluate


def binary(x: np.ndarray) -> np.ndarray:
    return np.where(x >= 0, 1.0, -1.0)


def masked_by_one(x: np.ndarray, g: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) <= 1, g, 0)


def ternary(x: np.ndarray) -> np.ndarray:
    kept = np.abs(x) > 0.7 * np.abs(x).mean()
    return np.where(kept, np.sign(x) * np.abs(x)[kept].mean(), 0)


def identity(x: np.ndarray, g: np.ndarray) -> np.ndarray:
    return g


def dorefa_1(x: np.ndarray) -> np.ndarray:
    return binary(x) * np.abs(x).mean()


def dorefa_3(x: np.ndarray) -> np.ndarray:
    t = np.tanh(x.astype("float64"))
    return 2 * np.round(7 * (t / (2 * np.abs(t).max()) + 0.5)) / 7 - 1


def dorefa_3_gradient(x: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Of tanh(x) / max|tanh(x)|, through the maximum too."""
    t = np.tanh(x.astype("float64"))
    top = np.abs(t).max()
    at_top = np.where(np.abs(t) == top, np.sign(t), 0)
    return (1 - t**2) / top * (g - at_top * np.sum(g * t) / top)


def tensorlayer_3(x: np.ndarray) -> np.ndarray:
    return 2 * np.round(7 * np.clip(x / 2 + 0.5, 0, 1)) / 7 - 1


FORMULAS: dict[str, tuple[Callable[..., Any], Formula, Gradient]] = {
    "binary": (quantizers.binary, binary, masked_by_one),
    "ternary": (quantizers.ternary, ternary, identity),
    "dorefa 1": (lambda x: quantizers.dorefa_weights(x, 1, "paper"), dorefa_1, identity),
    "dorefa 3": (lambda x: quantizers.dorefa_weights(x, 3, "paper"), dorefa_3, dorefa_3_gradient),
    "tensorlayer 3": (
        lambda x: quantizers.dorefa_weights(x, 3, "tensorlayer"),
        tensorlayer_3,
        masked_by_one,
    ),
    "inputs": (
        lambda x: quantizers.dorefa_inputs(x, 2, "paper"),
        lambda x: np.round(3 * np.clip(x, 0, 1)) / 3,
        lambda x, g: np.where((x >= 0) & (x <= 1), g, 0),
    ),
    "tensorlayer inputs": (
        lambda x: quantizers.dorefa_inputs(x, 2, "tensorlayer"),
        lambda x: np.round(3 * np.minimum(np.abs(x), 1)) / 3,
        lambda x, g: np.where(np.abs(x) <= 1, g * np.sign(x), 0),
    ),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_values_and_gradients_are_those_of_the_paper(name: str) -> None:
    quantize, formula, gradient = FORMULAS[name]
    evaluate = evaluator(quantize)

    @settings(max_examples=8)
    @given(st.integers(0, 2**32 - 1), st.floats(0.05, 3))
    def check(seed: int, size: float) -> None:
        x = drawn(seed, size)
        y, upstream, found = evaluate(x)
        np.testing.assert_allclose(y, formula(x), atol=1e-6)
        np.testing.assert_allclose(found, gradient(x, upstream), atol=1e-5)

    check()


@pytest.mark.parametrize("name", ["binary", "tensorlayer 3", "inputs", "tensorlayer inputs"])
def test_bounds_belong_to_the_range(name: str) -> None:
    quantize, formula, gradient = FORMULAS[name]
    y, upstream, found = evaluator(quantize)(EDGES)
    halves = np.isin(np.abs(EDGES), [0.5])  # rounded to either side
    np.testing.assert_allclose(y[~halves], formula(EDGES)[~halves], atol=1e-6)
    np.testing.assert_array_equal(found, gradient(EDGES, upstream).astype("float32"))


def test_values_are_exact() -> None:
    x = drawn(0, 1)
    assert set(np.unique(numpy(quantizers.binary(ops.convert_to_tensor(x)).forward()))) == {-1, 1}
    assert len(np.unique(numpy(quantizers.ternary(ops.convert_to_tensor(x)).forward()))) == 3


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("low, high", [(-1.0, 1.0), (-0.3, 2.1), (0.0, 1.7), (-2.0, 0.0)])
def test_fake_quantize_is_that_of_keras(low: float, high: float, narrow: bool) -> None:
    """On TensorFlow it is TensorFlow's own operator."""
    x, bits = drawn(3, 1.5), 4

    def theirs(primals: Any) -> list[Any]:
        return [
            keras.quantizers.fake_quant_with_min_max_vars(
                primals[0], np.float32(low), np.float32(high), bits, narrow
            )
        ]

    (wanted,), _, (gradient,) = with_gradients(theirs, 5)([x])
    levels = 2**bits - (2 if narrow else 1)
    bounds = ops.convert_to_tensor(low), ops.convert_to_tensor(high)
    y, _, found = evaluator(lambda x: quantizers.fake_quantize(x, *bounds, levels))(x)
    np.testing.assert_allclose(y, wanted, atol=1e-6)
    np.testing.assert_array_equal(found, gradient)
    assert 0 < np.count_nonzero(found) < x.size


@pytest.mark.parametrize("make", [BinaryDense, TernaryDense, DoReFaDense])
def test_the_latent_kernel_gets_its_gradient(make: Any) -> None:
    """TensorLayer 2's is 0 for the first and the last, and doubled for the second."""
    x = np.abs(drawn(1, 0.5))
    layer = make(3)
    layer.build((None, 6))
    kernel = 1.5 * np.random.default_rng(2).standard_normal((6, 3)).astype("float32")
    bias = np.zeros(3, "float32")

    def function(primals: Any) -> list[Any]:
        return [layer.stateless_call([primals[0], ops.convert_to_tensor(bias)], [], x)[0]]

    _, (upstream,), (found,) = with_gradients(function, 5)([kernel])
    seen = numpy(layer.quantize_inputs(ops.convert_to_tensor(x), False, None))
    wanted = seen.T @ upstream
    if make is BinaryDense:
        wanted = masked_by_one(kernel, wanted)
        assert np.count_nonzero(wanted) < wanted.size
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_sign_passes_the_gradient_of_the_paper() -> None:
    """TensorLayer clips its values instead: [1, 1, 1, -1, 0.5, 0.5, 1] for the first, say."""
    x = np.array([-2, -1, -0.5, 0, 0.5, 1, 2], "float32")
    outs, (upstream,), (found,) = with_gradients(lambda p: [Sign()(p[0])], 5)([x])
    np.testing.assert_array_equal(outs[0], [-1, -1, -1, 1, 1, 1, 1])
    np.testing.assert_array_equal(found, [0, *upstream[1:6], 0])


@pytest.mark.parametrize("name", FORMULAS)
def test_a_tensor_of_zeros_gives_no_nan(name: str) -> None:
    y, _, found = evaluator(FORMULAS[name][0])(np.zeros((2, 3), "float32"))
    assert np.all(np.isfinite(y)) and np.all(np.isfinite(found))
