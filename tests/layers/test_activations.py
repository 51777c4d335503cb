"""The activations against NumPy's formulas and Keras' own layers."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from keras_tl.layers import LeakyTwiceReLU6, Maxout, PReLU6, PTReLU6, Scale

X = np.random.default_rng(0).uniform(-10, 20, (4, 5, 3)).astype("float32")
X[0] = [[0, 6, -0.0], [1, -1, 7], [12, 6.5, -6], [5.999, 6.001, 0.001], [20, -10, 3]]


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def test_prelu6_is_that_of_tensorlayer_with_its_slopes() -> None:
    layer = PReLU6(shared_axes=[1])
    layer.build(X.shape)
    raw = np.array([[-1.0, 0.3, 2.0]], "float32")  # TensorLayer's weights
    layer.set_weights([sigmoid(raw)])
    wanted = np.minimum(np.maximum(X, sigmoid(raw) * X), 6)
    np.testing.assert_allclose(ops.convert_to_numpy(layer(X)), wanted, rtol=1e-6)


def test_prelu6_is_keras_prelu_up_to_6() -> None:
    slopes = np.array([-0.5, 0.25, 1.5], "float32")
    ours, keras_own = PReLU6(shared_axes=[1]), keras.layers.PReLU(shared_axes=[1])
    for layer in (ours, keras_own):
        layer.build(X.shape)
        layer.set_weights([slopes[None]])
    wanted = np.minimum(ops.convert_to_numpy(keras_own(X)), 6)
    np.testing.assert_allclose(ops.convert_to_numpy(ours(X)), wanted, rtol=1e-6)
    assert ours.alpha.shape == keras_own.alpha.shape == (1, 3)
    np.testing.assert_array_equal(PReLU6().alpha_initializer((2,)), [0.25, 0.25])


def test_ptrelu6_is_that_of_tensorlayer_with_its_slopes() -> None:
    layer = PTReLU6()
    layer.build(X.shape)
    rng = np.random.default_rng(1)
    low, high = (rng.standard_normal(X.shape[1:]).astype("float32") for _ in range(2))
    layer.set_weights([sigmoid(low), sigmoid(high)])
    low, high = sigmoid(low), sigmoid(high)
    wanted = np.maximum(np.minimum(X, 6 * (1 - high) + high * X), np.minimum(low * X, 0))
    np.testing.assert_allclose(ops.convert_to_numpy(layer(X)), wanted, rtol=1e-5)


def test_leaky_twice_relu6_is_that_of_tensorlayer() -> None:
    wanted = np.maximum(np.minimum(X, 6 * (1 - 0.3) + 0.3 * X), np.minimum(0.1 * X, 0))
    found = ops.convert_to_numpy(LeakyTwiceReLU6(0.1, 0.3)(X))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_ramp_and_leaky_relu6_are_keras_relu() -> None:
    """They are not written; the docstring of LeakyTwiceReLU6 says what to use."""
    relu = keras.layers.ReLU
    np.testing.assert_allclose(
        ops.convert_to_numpy(relu(max_value=6, negative_slope=0.2)(X)),
        np.minimum(np.maximum(X, 0.2 * X), 6),
        rtol=1e-6,
    )
    np.testing.assert_array_equal(ops.convert_to_numpy(relu(max_value=1)(X)), np.clip(X, 0, 1))


def test_scale_multiplies_by_one_number() -> None:
    layer = Scale()
    y = ops.convert_to_numpy(layer(X))
    np.testing.assert_allclose(y, 0.05 * X, rtol=1e-6)
    assert [w.shape for w in layer.trainable_weights] == [(1,)]


@pytest.mark.parametrize("make", [LeakyTwiceReLU6, PReLU6, PTReLU6])
def test_integers_are_as_floats(make: Any) -> None:
    x = np.array([[-4, 2, 8]])
    found = ops.convert_to_numpy(make()(x.astype("int32")))
    np.testing.assert_array_equal(found, ops.convert_to_numpy(make()(x.astype("float32"))))


@pytest.mark.parametrize("axis", [-1, 1, 2])
def test_maxout_is_the_maximum_of_neighbours(axis: int) -> None:
    x = np.random.default_rng(2).standard_normal((2, 6, 12)).astype("float32")
    found = ops.convert_to_numpy(Maxout(3, axis)(x))
    groups = np.split(x, 3, axis=axis)
    wanted = np.concatenate([g.max(axis=axis, keepdims=True) for g in groups], axis=axis)
    np.testing.assert_array_equal(found, wanted)


def test_maxout_of_one_linear_map_each_is_the_layer_of_the_paper() -> None:
    rng = np.random.default_rng(3)
    w, b = rng.standard_normal((5, 4, 3)), rng.standard_normal((4, 3))  # inputs, units, pieces
    x = rng.standard_normal((2, 5))
    wanted = (np.einsum("bi,iuk->buk", x, w) + b).max(-1)
    dense = keras.layers.Dense(12)
    dense.build((None, 5))
    dense.set_weights([w.reshape(5, 12), b.reshape(12)])
    found = Maxout(4)(dense(x.astype("float32")))
    np.testing.assert_allclose(ops.convert_to_numpy(found), wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: LeakyTwiceReLU6(-0.1), r"`negative_slope` must be .* Received: negative_slope="),
        (lambda: LeakyTwiceReLU6(high_slope="a"), r"`high_slope` must be .* Received: high_slope="),
        (lambda: Maxout(0), r"`units` must be .* Received: units=0"),
        (lambda: Maxout(4).build((None, 6)), r"`units` must divide .* Received: units=4"),
        (lambda: Maxout(2, 3).build((None, 6)), r"`axis` must be .* Received: axis=3"),
        (lambda: Maxout(2, "a"), r"`axis` must be an integer.* Received: axis='a'"),
        # Keras' PReLU takes -1 as the axis before the last, and IndexError leaves it for 9.
        (
            lambda: PReLU6(shared_axes=[1, -1]).build((None, 3, 4)),
            r"`shared_axes` must .*\[1, -1\]",
        ),
        (lambda: PReLU6(shared_axes=0).build((None, 3, 4)), r"`shared_axes` must be of 1 ... 2.*"),
        (lambda: PTReLU6(shared_axes=9).build((None, 3, 4)), r"`shared_axes` must be .*=\[9\]"),
        (lambda: PReLU6().build((None, 3, None)), r"`PReLU6` must know .*\(axis 2\)"),
    ],
)
def test_bad_arguments_are_refused(make: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()
