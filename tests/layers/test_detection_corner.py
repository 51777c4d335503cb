"""`CornerPooling2D` against NumPy's running maximum."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops

from keras_tl.layers import CornerPooling2D


def corners(vertical: np.ndarray, horizontal: np.ndarray, top_left: bool) -> np.ndarray:
    """CornerNet's equations 6 and 7: from the last row and column backwards, or from the first."""
    step = -1 if top_left else 1
    down = np.maximum.accumulate(vertical[:, ::step], axis=1)[:, ::step]
    return down + np.maximum.accumulate(horizontal[:, :, ::step], axis=2)[:, :, ::step]


@pytest.mark.parametrize(
    ("h", "w", "top_left", "first"),
    [(1, 2, True, False), (3, 11, False, True), (9, 7, True, False)],
)
def test_it_is_the_running_maximum(h: int, w: int, top_left: bool, first: bool) -> None:
    rng = np.random.default_rng(h + 100 * w)
    maps = [rng.standard_normal((2, h, w, 2)).astype("float32") for _ in range(2)]
    layer = CornerPooling2D(
        "top_left" if top_left else "bottom_right", "channels_first" if first else "channels_last"
    )
    given = [np.moveaxis(x, -1, 1) if first else x for x in maps]
    found = ops.convert_to_numpy(layer([ops.convert_to_tensor(x) for x in given]))
    found = np.moveaxis(found, 1, -1) if first else found
    np.testing.assert_array_equal(found, corners(*maps, top_left=top_left))


def test_a_value_below_every_finite_one() -> None:
    """What is padded inside is not larger than -inf."""
    x = np.full((1, 5, 5, 1), -np.inf, "float32")
    assert np.all(ops.convert_to_numpy(CornerPooling2D()([x, x])) == -np.inf)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="`corner` must be one of 'top_left', 'bottom_right'"):
        CornerPooling2D("left")
    one = keras.Input((4, 4, 3))
    for inputs in (one, [one], [one, keras.Input((4, 3))]):
        with pytest.raises(ValueError, match="`CornerPooling2D` takes a list of two maps"):
            CornerPooling2D()(inputs)


def test_maps_of_different_shapes_are_refused() -> None:
    one, other = np.ones((2, 8, 8, 3), "float32"), np.ones((2, 8, 8, 1), "float32")
    layer = CornerPooling2D()
    with pytest.raises(ValueError, match=r"of one shape.*Received: .*\(2, 8, 8, 1\)"):
        layer([one, other])
    layer = CornerPooling2D()
    layer([one, one])
    with pytest.raises(ValueError, match="of one shape"):
        layer([one, other])


def test_integers_are_maps_too() -> None:
    x = np.random.default_rng(0).integers(-9, 9, (1, 5, 7, 2)).astype("int32")
    found = ops.convert_to_numpy(CornerPooling2D()([x, x]))
    assert found.dtype == "float32"
    np.testing.assert_array_equal(found, corners(x, x, top_left=True))
