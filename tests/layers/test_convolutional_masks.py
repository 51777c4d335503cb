"""MaskedConv2D, MaskedConv3D and SqueezeExcite2D against what they are in NumPy and Keras."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from harness import numpy

from keras_tl.layers import MaskedConv2D, MaskedConv3D, SqueezeExcite2D

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype("float32")


@pytest.mark.parametrize("mask_type", ["A", "B"])
@pytest.mark.parametrize(
    ("make", "kernel_size", "shape"),
    [(MaskedConv2D, (3, 5), (5, 6)), (MaskedConv3D, (1, 3, 5), (2, 3, 6))],
)
def test_a_pixel_depends_on_those_before_it_alone(
    make: Any, kernel_size: tuple[int, ...], shape: tuple[int, ...], mask_type: str
) -> None:
    # TensorLayerX took half of the kernel's first size as the centre of all axes.
    layer = make(
        2, kernel_size, padding="same", mask_type=mask_type, kernel_initializer="random_uniform"
    )
    pixels = int(np.prod(shape))
    images = np.eye(pixels, dtype="float32").reshape(pixels, *shape, 1)  # one pixel in each
    depends = np.any(numpy(layer(images)).reshape(pixels, pixels, 2) != 0, axis=-1)
    reach = np.abs(
        np.stack(np.unravel_index(np.arange(pixels), shape))[:, :, None]
        - np.stack(np.unravel_index(np.arange(pixels), shape))[:, None, :]
    )
    near = np.all(reach <= np.reshape(kernel_size, (-1, 1, 1)) // 2, axis=0)
    source, target = np.indices((pixels, pixels))
    before = source < target if mask_type == "A" else source <= target
    np.testing.assert_array_equal(depends, near & before)


def test_it_is_a_convolution_with_a_masked_kernel() -> None:
    layer = MaskedConv2D(4, 3, 2, activation="relu", groups=2, mask_type="B")
    plain = keras.layers.Conv2D(4, 3, 2, activation="relu", groups=2)
    x = normal(2, 7, 6, 2)
    layer(x), plain(x)
    mask = np.array([[1, 1, 1], [1, 1, 0], [0, 0, 0]])[:, :, None, None]
    kernel, bias = layer.get_weights()
    plain.set_weights([kernel * mask, bias])
    np.testing.assert_allclose(numpy(layer(x)), numpy(plain(x)), atol=1e-6)


def test_the_bias_is_added_to_the_channels_if_they_are_first() -> None:
    # `keras.layers.Conv2D` on TensorFlow adds it to the columns if there are as many.
    x = normal(2, 5, 5, 3)
    kwargs = {"padding": "same", "mask_type": "A"}
    last = MaskedConv2D(5, 3, **kwargs)
    first = MaskedConv2D(5, 3, data_format="channels_first", **kwargs)
    last(x), first(np.moveaxis(x, -1, 1))
    weights = [normal(3, 3, 3, 5), normal(5)]
    last.set_weights(weights), first.set_weights(weights)
    found = np.moveaxis(numpy(first(np.moveaxis(x, -1, 1))), 1, -1)
    np.testing.assert_allclose(found, numpy(last(x)), atol=1e-5)


@pytest.mark.parametrize("make", [MaskedConv2D, MaskedConv3D])
def test_half_precision_takes_channels_first(make: Any) -> None:
    # TensorFlow has no such convolution on a CPU.
    shape = (5, 6, 4)[: 2 if make is MaskedConv2D else 3]
    x = normal(2, 3, *shape)
    kwargs = {"padding": "same", "mask_type": "B", "kernel_initializer": "ones"}
    layer = make(4, 3, data_format="channels_first", dtype="mixed_float16", **kwargs)
    wanted = numpy(make(4, 3, data_format="channels_last", **kwargs)(np.moveaxis(x, 1, -1)))
    np.testing.assert_allclose(np.moveaxis(numpy(layer(x)), 1, -1), wanted, rtol=0.02, atol=0.05)


def test_wrong_masks_are_refused() -> None:
    with pytest.raises(ValueError, match="`mask_type` must be one of 'A', 'B'. Received"):
        MaskedConv2D(2, 3, mask_type="C")
    with pytest.raises(ValueError, match="`kernel_size` must be odd.*Received"):
        MaskedConv3D(2, (3, 3, 2), mask_type="A")


def test_squeeze_excite_is_its_formula() -> None:
    x = normal(2, 4, 3, 5)
    layer = SqueezeExcite2D(2)
    layer.build(x.shape)
    weights = [normal(*w.shape) for w in layer.weights]
    layer.set_weights(weights)
    w1, b1, w2, b2 = weights
    inner = np.maximum(x.mean((1, 2)) @ w1 + b1, 0)
    assert inner.shape == (2, 2)
    factors = 1 / (1 + np.exp(-(inner @ w2 + b2)))
    np.testing.assert_allclose(numpy(layer(x)), x * factors[:, None, None], rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="`ratio` must be an integer .*Received"):
        SqueezeExcite2D(0)
