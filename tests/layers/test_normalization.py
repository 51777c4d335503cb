"""Normalisations of activations against ONNX, Keras, and the papers' formulas in NumPy."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from harness import BACKEND, numpy, with_gradients
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_tl.layers import (
    FilterResponseNormalization,
    InstanceNormalization,
    LocalResponseNormalization,
    SwitchNormalization,
)
from keras_tl.layers.normalization.local_response_normalization import _pooled_sums, _window_sums
from keras_tl.layers.normalization.moments import _plain_moments, moments

rng = np.random.default_rng(0)
X = rng.normal(2.0, 3.0, (3, 4, 5, 6)).astype("float32")
ALL = (InstanceNormalization, SwitchNormalization, FilterResponseNormalization)


def weighted(layer: Any, x: np.ndarray = X) -> Any:
    """Built, with weights of its own."""
    layer.build(x.shape)
    for w in layer.weights:
        w.assign(np.random.default_rng(len(w.path)).uniform(0.5, 2.0, w.shape))
    return layer


def out(layer: Any, x: np.ndarray = X, **kwargs: Any) -> np.ndarray:
    return numpy(layer(keras.ops.convert_to_tensor(x), **kwargs))


# ---- instance normalisation


def test_instance_norm_is_onnx() -> None:
    from onnx.reference.ops.op_instance_normalization import InstanceNormalization as Reference

    layer = weighted(InstanceNormalization(axis=1, epsilon=1e-3))
    wanted = Reference.eval(X, numpy(layer.gamma), numpy(layer.beta), epsilon=1e-3)
    np.testing.assert_allclose(out(layer), wanted, rtol=2e-4, atol=2e-5)


def test_instance_norm_is_keras_group_norm_of_single_channels() -> None:
    group = keras.layers.GroupNormalization(groups=-1, epsilon=1e-5)
    np.testing.assert_allclose(out(InstanceNormalization()), out(group), rtol=1e-4, atol=1e-5)


def test_a_large_mean_does_not_cancel() -> None:
    """`E[x^2] - E[x]^2` in float32 is wrong by 100 % here."""
    x = (1e4 + rng.standard_normal((2, 32, 32, 1))).astype("float32")
    x64 = x.astype("float64")
    wanted = (x64 - x64.mean((1, 2), keepdims=True)) / x64.std((1, 2), keepdims=True)
    for cls in (InstanceNormalization, SwitchNormalization):
        layer = cls(momentum=0.0) if cls is SwitchNormalization else cls()
        found = out(layer, x, training=True) if cls is SwitchNormalization else out(layer, x)
        np.testing.assert_allclose(found, wanted, atol=0.1)


def test_half_precision_does_not_overflow() -> None:
    x = (100 * X).astype("float16")
    for cls in ALL:
        found = out(cls(dtype="mixed_float16"), x)
        assert np.all(np.isfinite(found)) and np.ptp(found) > 1


@pytest.mark.parametrize("cls", ALL)
def test_what_is_masked_does_not_count(cls: Any) -> None:
    x = X[:, :, 0].copy()
    mask = np.ones(x.shape[:2], "bool")
    mask[:, 3:] = False
    wanted = (
        out(cls(), x[:, :3], training=True) if cls is SwitchNormalization else out(cls(), x[:, :3])
    )
    x[:, 3:] = 1e3
    kwargs = {"training": True} if cls is SwitchNormalization else {}
    found = out(cls(), x, mask=keras.ops.convert_to_tensor(mask), **kwargs)
    np.testing.assert_allclose(found[:, :3], wanted, rtol=1e-4, atol=1e-5)
    nothing = keras.ops.zeros(x.shape[:2], "bool")
    assert np.all(np.isfinite(out(cls(), x, mask=nothing, **kwargs)))


@pytest.mark.parametrize("hidden", [np.nan, np.inf, 3e38])
@pytest.mark.parametrize("cls", ALL)
def test_what_is_masked_may_be_anything(cls: Any, hidden: float) -> None:
    x = X[:, :, 0].copy()
    mask = np.ones(x.shape[:2], "bool")
    mask[:, 3:] = False
    layer = weighted(cls(), x)
    kwargs = {"training": True} if cls is SwitchNormalization else {}

    def seen(primals: Any) -> list[Any]:
        weights = [[w.value for w in layer.trainable_variables]]
        weights.append([w.value for w in layer.non_trainable_variables])
        found, _ = layer.stateless_call(
            *weights, primals[0], mask=keras.ops.convert_to_tensor(mask), **kwargs
        )
        return [found[:, :3]]

    def evaluated(value: float) -> tuple[np.ndarray, np.ndarray]:
        x[:, 3:] = value
        (outs,), _, (gradient,) = with_gradients(seen, seed=0)([x])
        return outs, gradient

    wanted = evaluated(0.0)
    for found, one in zip(evaluated(hidden), wanted, strict=True):
        np.testing.assert_allclose(found[:, :3], one[:, :3], rtol=1e-4, atol=1e-5)
        assert np.all(np.isfinite(found))


def test_masked_batch_statistics_weigh_samples_by_their_length() -> None:
    x = X[:, :, 0].copy()
    mask = np.array([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]], "bool")
    layer = SwitchNormalization(momentum=0.0)
    out(layer, x, training=True, mask=keras.ops.convert_to_tensor(mask))
    np.testing.assert_allclose(numpy(layer.moving_mean), x[mask].mean(0), rtol=1e-5)
    np.testing.assert_allclose(numpy(layer.moving_variance), x[mask].var(0), rtol=1e-4)


# ---- switchable normalisation


def switched(x: np.ndarray, layer: Any, batch: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """The paper's equations 3 to 5, channels last."""

    def softmax(w: np.ndarray) -> np.ndarray:
        return np.exp(w) / np.exp(w).sum()

    inner = tuple(range(1, x.ndim - 1))
    means = (batch[0], x.mean(inner, keepdims=True), x.mean((*inner, -1), keepdims=True))
    variances = (batch[1], x.var(inner, keepdims=True), x.var((*inner, -1), keepdims=True))
    mean = sum(w * m for w, m in zip(softmax(numpy(layer.mean_weights)), means, strict=True))
    shares = softmax(numpy(layer.variance_weights))
    variance = sum(w * v for w, v in zip(shares, variances, strict=True))
    y = (x - mean) / np.sqrt(variance + layer.epsilon)
    return y * numpy(layer.gamma) + numpy(layer.beta)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 4, 5), (4, 1, 3)])
def test_switch_norm_is_the_paper(shape: tuple[int, ...]) -> None:
    x = rng.normal(1.0, 2.0, shape).astype("float32")
    layer = weighted(SwitchNormalization(epsilon=1e-2), x)
    axes = tuple(range(x.ndim - 1))
    moving = numpy(layer.moving_mean).copy(), numpy(layer.moving_variance).copy()
    np.testing.assert_allclose(out(layer, x), switched(x, layer, moving), rtol=1e-3, atol=1e-4)
    found = out(layer, x, training=True)
    wanted = switched(x, layer, (x.mean(axes), x.var(axes)))
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)


def test_switch_norm_of_the_batch_alone_is_keras_batch_norm() -> None:
    layer = SwitchNormalization(momentum=0.8, epsilon=1e-3)
    layer.build(X.shape)
    for weights in (layer.mean_weights, layer.variance_weights):
        weights.assign([50.0, 0.0, 0.0])
    reference = keras.layers.BatchNormalization(momentum=0.8, epsilon=1e-3)
    for training in (True, False):
        found, wanted = (out(one, training=training) for one in (layer, reference))
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    for name in ("moving_mean", "moving_variance"):
        found, wanted = (numpy(getattr(one, name)) for one in (layer, reference))
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_switch_norm_in_inference_does_not_depend_on_the_batch() -> None:
    """TensorLayer's does: it has no moving averages."""
    layer = SwitchNormalization()
    out(layer, training=True)
    np.testing.assert_allclose(out(layer)[:1], out(layer, X[:1]), rtol=1e-5, atol=1e-6)
    assert np.abs(out(layer, training=True)[:1] - out(layer, X[:1], training=True)).max() > 0.1


def test_frozen_switch_norm_uses_its_averages_in_training() -> None:
    layer = SwitchNormalization(trainable=False)
    np.testing.assert_array_equal(out(layer, training=True), out(layer))


# ---- filter response normalisation


@pytest.mark.parametrize("learned", [False, True])
def test_filter_response_norm_is_the_paper(learned: bool) -> None:
    layer = weighted(FilterResponseNormalization(learned_epsilon=learned))
    epsilon = 1e-6 + (abs(numpy(layer.epsilon_weight)) if learned else 0)
    y = X / np.sqrt((X**2).mean((1, 2), keepdims=True) + epsilon)
    wanted = np.maximum(y * numpy(layer.gamma) + numpy(layer.beta), numpy(layer.tau))
    np.testing.assert_allclose(out(layer), wanted, rtol=1e-4, atol=1e-5)


def test_filter_response_norm_of_one_value_a_channel_learns_its_epsilon() -> None:
    layer = FilterResponseNormalization(learned_epsilon=True, threshold=False)
    x = np.full((1, 1, 1, 2), 0.01, "float32")
    np.testing.assert_allclose(out(layer, x), 0.01 / np.sqrt(1e-4 + 1e-4 + 1e-6), rtol=1e-4)


# ---- local response normalisation


def local(x: np.ndarray, radius: int, bias: float, alpha: float, beta: float) -> np.ndarray:
    n = x.shape[-1]
    near = [x[..., max(0, i - radius) : i + radius + 1] for i in range(n)]
    sums = np.stack([(part**2).sum(-1) for part in near], -1)
    return x / (bias + alpha * sums) ** beta


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 10), st.sampled_from([0.5, 0.75, 1.0, 1.3]), st.sampled_from([1, 7]))
def test_local_response_norm_is_the_paper(radius: int, beta: float, channels: int) -> None:
    x = np.random.default_rng(radius).normal(size=(2, 3, channels)).astype("float32")
    layer = LocalResponseNormalization(radius, 2.0, 0.7, beta)
    np.testing.assert_allclose(
        out(layer, x), local(x, radius, 2.0, 0.7, beta), rtol=1e-4, atol=1e-6
    )


def test_local_response_norm_is_onnx() -> None:
    """Whose `alpha` multiplies the mean over the window, and is for channels first.

    Its reference runs over as many channels as there are samples, hence four of each.
    """
    from onnx.reference.ops.op_lrn import LRN

    x = np.concatenate([X, X[:1]])
    (wanted,) = LRN._run(None, x, alpha=0.3 * 3, beta=0.75, bias=1.5, size=3)
    layer = LocalResponseNormalization(1, 1.5, 0.3, 0.75, axis=1)
    np.testing.assert_allclose(out(layer, x), wanted, rtol=1e-4, atol=1e-6)


def test_the_fused_paths_are_the_plain_ones() -> None:
    x = keras.ops.convert_to_tensor(X)
    found, wanted = _window_sums(x, 2), _pooled_sums(x, 2)
    np.testing.assert_allclose(numpy(found), numpy(wanted), rtol=1e-5)
    layer = LocalResponseNormalization(2, 0.5, 2.0, 0.6)
    np.testing.assert_allclose(out(layer), numpy(layer._plain(x)), rtol=1e-5)
    for one, other in zip(moments(x, (1, 2)), _plain_moments(x, (1, 2)), strict=True):
        np.testing.assert_allclose(numpy(one), numpy(other), rtol=1e-5)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's tapes")
def test_second_derivatives_on_tensorflow() -> None:
    import tensorflow as tf

    def penalty(f: Any) -> Any:
        x = tf.constant(X)
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                mean, variance = f(x, (1, 2))
                loss = tf.reduce_sum(tf.sin(variance) + tf.sin(mean))
            total = tf.reduce_sum(tf.sin(inner.gradient(loss, x)))
        return outer.gradient(total, x)

    wanted = penalty(_plain_moments)
    for f in (penalty, tf.function(penalty, jit_compile=True)):
        np.testing.assert_allclose(f(moments), wanted, rtol=2e-3, atol=1e-5)


@pytest.mark.skipif(BACKEND != "jax", reason="jax' transformations")
def test_second_and_forward_derivatives() -> None:
    import jax
    import jax.numpy as jnp

    x, v = jnp.asarray(X), jnp.asarray(rng.standard_normal(X.shape).astype("float32"))

    def loss(f: Any) -> Any:
        return lambda x: jnp.sum(jnp.sin(f(x)))

    def both(f: Any) -> tuple[Any, Any]:
        gradient = jax.grad(loss(f))
        penalty = jax.grad(lambda x: jnp.sum(jnp.square(gradient(x))))  # reverse over reverse
        forward = jax.jvp(gradient, (x,), (v,))[1]  # forward over reverse
        return penalty(x), forward

    for ours, plain in (
        (lambda x: moments(x, (1, 2))[1], lambda x: jnp.var(x, (1, 2), keepdims=True)),
        (lambda x: _window_sums(x, 1), lambda x: _pooled_sums(x, 1)),
    ):
        compiled = jax.jit(both, static_argnums=0)
        for found, wanted in zip(compiled(ours), compiled(plain), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=1e-4)


# ---- arguments


@pytest.mark.parametrize("cls", [*ALL, LocalResponseNormalization])
@pytest.mark.parametrize("axis", [0, 1.0, True, None, (1, 2)])
def test_bad_axis(cls: Any, axis: Any) -> None:
    with pytest.raises(ValueError, match="`axis` must be .* Received: axis="):
        cls(axis=axis)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: InstanceNormalization(epsilon=0.0), "epsilon"),
        (lambda: SwitchNormalization(momentum=1.5), "momentum"),
        (lambda: FilterResponseNormalization(epsilon=float("nan")), "epsilon"),
        (lambda: LocalResponseNormalization(depth_radius=-1), "depth_radius"),
        (lambda: LocalResponseNormalization(bias=0), "bias"),
        (lambda: LocalResponseNormalization(alpha=-1.0), "alpha"),
        (lambda: LocalResponseNormalization(beta="1"), "beta"),
    ],
)
def test_bad_arguments(make: Any, named: str) -> None:
    with pytest.raises(ValueError, match=f"`{named}` must be .* Received: {named}="):
        make()


@pytest.mark.parametrize("cls", ALL)
def test_bad_inputs(cls: Any) -> None:
    with pytest.raises(ValueError, match="at least 3 axes"):
        cls().build((None, 4))
    with pytest.raises(ValueError, match="`axis` must name an axis"):
        cls(axis=3).build((None, 4, 4))
    with pytest.raises(ValueError, match="`axis` must name an axis"):
        cls(axis=-3).build((None, 4, 4))
    with pytest.raises(ValueError, match="`mask` must have the axes"):
        out(cls(), mask=keras.ops.ones((3, 4), "bool"))
