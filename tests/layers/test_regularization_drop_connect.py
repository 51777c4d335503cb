"""DropConnect against Keras' own layers with the masked kernels."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from keras_tl.layers import DropConnectConv2D, DropConnectDense
from keras_tl.layers.regularization import drop_connect_conv2d

UNITS, FEATURES = 30, 40


def dense(**kwargs: Any) -> DropConnectDense:
    layer = DropConnectDense(UNITS, bias_initializer="uniform", **kwargs)
    layer.build((None, FEATURES))
    return layer


def kernels(layer: DropConnectDense, samples: int = 2) -> np.ndarray:
    """What each sample is multiplied with in one training call: the outputs for unit vectors."""
    units = np.broadcast_to(np.eye(FEATURES, dtype="float32"), (samples, FEATURES, FEATURES))
    outputs = ops.convert_to_numpy(layer(np.array(units), training=True))
    return outputs - ops.convert_to_numpy(layer.bias.value)


@pytest.mark.parametrize("per_sample", [False, True])
def test_weights_are_dropped_and_the_others_scaled(per_sample: bool) -> None:
    layer = dense(rate=0.3, per_sample=per_sample)
    kernel = ops.convert_to_numpy(layer.kernel.value)
    found = kernels(layer)
    kept = found != 0
    np.testing.assert_allclose(found, np.where(kept, kernel / 0.7, 0), rtol=1e-4, atol=1e-6)
    assert 0.24 < 1 - kept.mean() < 0.36  # 1200 weights: within 4.5 standard deviations
    assert np.array_equal(kept[0], kept[1]) != per_sample
    assert not np.array_equal(kernels(layer), found)  # and anew each time


def test_inference_is_dense() -> None:
    """TensorLayer 2's dropped weights in inference too."""
    layer, plain = dense(activation="relu"), keras.layers.Dense(UNITS, "relu")
    plain.build((None, FEATURES))
    plain.set_weights(layer.get_weights())
    x = np.random.default_rng(0).standard_normal((3, FEATURES)).astype("float32")
    for given in (x, x[:, None]):
        np.testing.assert_array_equal(
            ops.convert_to_numpy(layer(given)), ops.convert_to_numpy(plain(given))
        )


def test_the_bias_is_not_dropped() -> None:
    layer = dense(rate=0.9)
    bias = ops.convert_to_numpy(layer.bias.value)
    y = layer(np.zeros((2, FEATURES), "float32"), training=True)
    np.testing.assert_array_equal(ops.convert_to_numpy(y), [bias, bias])


def test_a_seed_repeats_the_masks() -> None:
    first, second, other = dense(seed=1), dense(seed=1), dense(seed=2)
    second.set_weights(first.get_weights())
    other.set_weights(first.get_weights())
    one = [kernels(first), kernels(first)]
    np.testing.assert_array_equal(one, [kernels(second), kernels(second)])
    assert not np.array_equal(one[0], kernels(other))


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize(
    ("size", "strides", "padding", "dilation", "groups"),
    [
        ((3, 3), 1, "same", 1, 1),
        ((2, 3), (2, 3), "same", 1, 2),
        ((3, 2), 2, "valid", 1, 2),
        ((2, 2), 1, "same", (2, 1), 1),
        ((1, 1), 2, "same", 1, 1),
    ],
)
def test_each_sample_is_convolved_with_its_own_kernel(
    size: tuple[int, int],
    strides: Any,
    padding: str,
    dilation: Any,
    groups: int,
    data_format: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    args = (4, size, strides, padding, data_format, dilation, groups)
    layer = DropConnectConv2D(*args, per_sample=True, bias_initializer="uniform")
    x = np.random.default_rng(1).standard_normal((2, 7, 6, 2)).astype("float32")
    x = x if data_format == "channels_last" else np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    layer.build(x.shape)
    masked = np.random.default_rng(2).standard_normal((2, *layer.kernel.shape)).astype("float32")

    def given(kernel: Any, shape: Any, rate: float, seed: Any) -> Any:
        assert tuple(shape) == masked.shape
        return ops.convert_to_tensor(masked)

    monkeypatch.setattr(drop_connect_conv2d, "dropped", given)
    found = ops.convert_to_numpy(layer(x, training=True))
    assert found.shape == layer.compute_output_shape(x.shape)

    plain = keras.layers.Conv2D(4, size, strides, padding, "channels_last", dilation, groups)
    moved = x if data_format == "channels_last" else x.transpose(0, 2, 3, 1)
    plain.build(moved.shape)
    for i in range(2):
        plain.set_weights([masked[i], layer.get_weights()[1]])
        wanted = ops.convert_to_numpy(plain(np.ascontiguousarray(moved[i : i + 1])))[0]
        wanted = wanted if data_format == "channels_last" else wanted.transpose(2, 0, 1)
        np.testing.assert_allclose(found[i], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("make", [DropConnectDense, DropConnectConv2D])
def test_integers_are_as_floats(make: Any, per_sample: bool) -> None:
    x = np.random.default_rng(0).integers(-9, 9, (2, 4, 4, 3))
    kwargs = {"rate": 0.5, "per_sample": per_sample, "kernel_initializer": "ones"}
    size = {"kernel_size": 2} if make is DropConnectConv2D else {}
    for training in (True, False):
        found, wanted = (
            make(2, **size, seed=1, **kwargs)(x.astype(t), training=training)
            for t in ("int32", "float32")
        )
        np.testing.assert_array_equal(ops.convert_to_numpy(found), ops.convert_to_numpy(wanted))


def test_convolution_drops_for_the_batch_and_in_training_only() -> None:
    layer = DropConnectConv2D(20, 3, rate=0.3, seed=0)
    # A unit impulse in each channel: the outputs are the kernel, flipped.
    x = np.zeros((2, 5, 5, 5), "float32")
    x[:, 2, 2, 0] = 1
    layer.build(x.shape)
    kernel = ops.convert_to_numpy(layer.kernel.value)[::-1, ::-1, 0]
    np.testing.assert_allclose(ops.convert_to_numpy(layer(x))[0], kernel, rtol=1e-5, atol=1e-6)
    found = ops.convert_to_numpy(layer(x, training=True))
    np.testing.assert_array_equal(found[0], found[1])
    wanted = np.where(found[0] != 0, kernel / 0.7, 0)
    np.testing.assert_allclose(found[0], wanted, rtol=1e-4, atol=1e-6)
    assert 0.1 < np.mean(found == 0) < 0.5  # 180 weights


@pytest.mark.parametrize("cls", [DropConnectDense, lambda n, **k: DropConnectConv2D(n, 3, **k)])
def test_bad_arguments_are_refused(cls: Any) -> None:
    for rate in (1, -0.1, "half", True):
        with pytest.raises(ValueError, match=r"`rate` must be a number in \[0, 1\). Received"):
            cls(2, rate=rate)


def test_same_padding_with_strides_needs_a_size_to_convolve_each() -> None:
    layer = DropConnectConv2D(2, 3, strides=2, padding="same", per_sample=True)
    with pytest.raises(ValueError, match="`DropConnectConv2D` must know the width"):
        layer.build((None, 8, None, 3))
