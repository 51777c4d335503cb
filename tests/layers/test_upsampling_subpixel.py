"""The sub-pixel layers against ONNX, Keras and the formula of each order."""

from __future__ import annotations

import itertools
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from onnx.reference.ops.op_depth_to_space import DepthToSpace

from keras_tl.layers import SubpixelConv1D, SubpixelConv2D, SubpixelConv3D

LAYERS = {1: SubpixelConv1D, 2: SubpixelConv2D, 3: SubpixelConv3D}


def image(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


def run(layer: Any, x: np.ndarray) -> np.ndarray:
    return ops.convert_to_numpy(layer(x))


@pytest.mark.parametrize(("order", "mode"), [("depth_to_space", "DCR"), ("torch", "CRD")])
def test_orders_are_those_of_onnx(order: str, mode: str) -> None:
    x = image(2, 12, 3, 4)
    wanted = DepthToSpace.eval(x, blocksize=2, mode=mode)
    found = run(SubpixelConv2D(2, order, "channels_first"), x)
    np.testing.assert_array_equal(found, wanted)
    last = run(SubpixelConv2D(2, order, "channels_last"), np.moveaxis(x, 1, -1))
    np.testing.assert_array_equal(np.moveaxis(last, -1, 1), wanted)


@pytest.mark.parametrize(
    ("rank", "scale", "order"),
    [
        (1, (3,), "depth_to_space"),
        (1, (3,), "torch"),
        (2, (2, 3), "depth_to_space"),
        (2, (2, 3), "tensorlayer_1.5"),
        (3, (1, 2, 3), "depth_to_space"),
        (3, (2, 1, 3), "torch"),
    ],
)
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_the_formulas(rank: int, scale: Any, order: str, data_format: str) -> None:
    space, channels = (2, 3, 2)[:rank], 2
    block = int(np.prod(scale))
    x = image(2, *space, channels * block)
    wanted = np.zeros((2, *np.multiply(space, scale), channels), "float32")
    for place in itertools.product(*map(range, wanted.shape[1:-1])):
        pixel = tuple(n // r for n, r in zip(place, scale, strict=True))
        phase = [n % r for n, r in zip(place, scale, strict=True)]
        reverse = order == "tensorlayer_1.5"
        number = np.ravel_multi_index(
            phase[::-1] if reverse else phase, scale[::-1] if reverse else scale
        )
        for c in range(channels):
            slot = number * channels + c if order == "depth_to_space" else c * block + number
            wanted[(slice(None), *place, c)] = x[(slice(None), *pixel, slot)]
    layer = LAYERS[rank](scale, order, data_format)
    if data_format == "channels_first":
        found = np.moveaxis(run(layer, np.moveaxis(x, -1, 1)), 1, -1)
    else:
        found = run(layer, x)
    np.testing.assert_array_equal(found, wanted)


def test_what_keras_has() -> None:
    x = image(2, 3, 4, 8)
    wanted = ops.convert_to_numpy(ops.depth_to_space(x, 2))
    np.testing.assert_array_equal(run(SubpixelConv2D(), x), wanted)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: SubpixelConv2D(0), "`scale` must be an integer or 2 integers of at least 1"),
        (lambda: SubpixelConv3D((2, 2)), "`scale` must be an integer or 3 integers"),
        (lambda: SubpixelConv2D(order="tf"), "`order` must be one of 'depth_to_space', 'torch'"),
        (lambda: SubpixelConv1D(order="tensorlayer_1.5"), "`order` must be one of"),
        (
            lambda: SubpixelConv2D(2)(keras.Input((3, 4, 6))),
            "`SubpixelConv2D` needs a number of channels that 4, the pixels of a block",
        ),
    ],
)
def test_bad_arguments(make: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()
