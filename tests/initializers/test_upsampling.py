"""The initial values of what enlarges: nearest neighbours, and the usual bilinear resize."""

from __future__ import annotations

import json
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from keras_tl.initializers import ICNR, BilinearUpsampling
from keras_tl.layers import SubpixelConv1D, SubpixelConv2D, SubpixelConv3D

SUBPIXEL = {1: SubpixelConv1D, 2: SubpixelConv2D, 3: SubpixelConv3D}
CONV = {1: keras.layers.Conv1D, 2: keras.layers.Conv2D, 3: keras.layers.Conv3D}
TRANSPOSE = {
    1: keras.layers.Conv1DTranspose,
    2: keras.layers.Conv2DTranspose,
    3: keras.layers.Conv3DTranspose,
}


@pytest.mark.parametrize(
    ("rank", "scale", "order"),
    [
        (1, 3, "torch"),
        (2, 2, "depth_to_space"),
        (2, (2, 3), "torch"),
        (2, (3, 2), "tensorlayer_1.5"),
        (3, (1, 2, 2), "depth_to_space"),
    ],
)
def test_icnr_starts_as_a_convolution_and_nearest_neighbours(
    rank: int, scale: Any, order: str
) -> None:
    scales = (scale,) * rank if isinstance(scale, int) else scale
    inner = keras.initializers.HeNormal(seed=1)
    x = np.random.default_rng(0).standard_normal((1, *(3, 4, 3)[:rank], 2)).astype("float32")
    plain = CONV[rank](3, 2, kernel_initializer=inner.clone())
    wanted = ops.convert_to_numpy(plain(x))
    for axis, n in enumerate(scales):
        wanted = np.repeat(wanted, n, axis=axis + 1)
    kernel = ICNR(inner, scale, order)
    conv = CONV[rank](3 * int(np.prod(scales)), 2, kernel_initializer=kernel)
    found = ops.convert_to_numpy(SUBPIXEL[rank](scale, order)(conv(x)))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(("rank", "factor"), [(1, 4), (2, 2), (2, 3), (3, 2)])
def test_bilinear_is_the_usual_resize_away_from_the_edges(rank: int, factor: int) -> None:
    space = (4, 5, 4)[:rank]
    x = np.random.default_rng(0).standard_normal((1, *space, 2)).astype("float32")
    layer = TRANSPOSE[rank](
        2,
        2 * factor - factor % 2,
        strides=factor,
        padding="same",
        use_bias=False,
        kernel_initializer=BilinearUpsampling(),
    )
    found = ops.convert_to_numpy(layer(x))
    wanted = x  # half-pixel centres, axis by axis
    for axis, n in enumerate(space):
        centres = (np.arange(n * factor) + 0.5) / factor - 0.5
        rows = [np.interp(centres, np.arange(n), column) for column in _columns(wanted, axis + 1)]
        shape = [wanted.shape[i] for i in range(rank + 2) if i != axis + 1]
        wanted = np.moveaxis(np.reshape(rows, (*shape, n * factor)), -1, axis + 1)
    middle = (slice(None), *(slice(factor, -factor),) * rank)
    np.testing.assert_allclose(found[middle], wanted[middle], atol=1e-5)


def _columns(x: np.ndarray, axis: int) -> np.ndarray:
    return np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis])


@pytest.mark.parametrize(
    "initializer",
    [
        ICNR(),
        ICNR(keras.initializers.RandomNormal(0.5, seed=3), (2, 4), "torch"),
        BilinearUpsampling(),
    ],
)
def test_config_and_copies(initializer: Any) -> None:
    config = json.loads(json.dumps(keras.initializers.serialize(initializer)))
    again = keras.initializers.deserialize(config)
    assert type(again) is type(initializer)
    assert json.dumps(again.get_config()) == json.dumps(initializer.get_config())
    assert config["registered_name"].startswith("keras_tl>")
    shape = (3, 3, 8, 8)
    copies = [ops.convert_to_numpy(one(shape)).shape for one in (again, initializer.clone())]
    assert copies == [shape, shape]


def test_types() -> None:
    for initializer in (ICNR(), BilinearUpsampling()):
        assert keras.backend.standardize_dtype(initializer((3, 3, 4, 4)).dtype) == "float32"
        half = initializer((3, 3, 4, 4), "bfloat16")
        assert keras.backend.standardize_dtype(half.dtype) == "bfloat16"


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: ICNR(scale=0), "`scale` must be an integer of at least 1"),
        (lambda: ICNR(scale=(2, 2.5)), "`scale` must be an integer of at least 1"),
        (lambda: ICNR(order="tf"), "`order` must be one of 'depth_to_space'"),
        (lambda: ICNR()((3, 3, 4, 6)), "`ICNR` makes the kernel .* the 4 pixels of a block"),
        (lambda: ICNR(scale=(2, 2))((3, 4, 8)), "`ICNR` makes the kernel"),
        (lambda: BilinearUpsampling()((4, 4, 2, 3)), "`BilinearUpsampling` makes a kernel"),
        (lambda: BilinearUpsampling()((4, 4)), "`BilinearUpsampling` makes a kernel"),
    ],
)
def test_bad_arguments(make: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()
