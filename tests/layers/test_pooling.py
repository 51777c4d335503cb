"""Max pooling with places and its inverse against NumPy, Keras, ONNX and torch."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from harness import BACKEND, numpy, with_gradients

from keras_tl.layers import MaxPooling2DWithArgmax, MaxUnpooling2D

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 7, 9, 3)).astype("float32")
WINDOWS = [  # pool_size, strides, padding
    (2, None, "valid"),
    ((2, 3), None, "same"),
    (3, 2, "valid"),
    ((3, 2), (1, 3), "same"),
]


def planes(images: np.ndarray) -> np.ndarray:
    """(batch, channels, pixels)"""
    return np.moveaxis(images, -1, 1).reshape(len(images), images.shape[-1], -1)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("windows", WINDOWS)
def test_there_and_back(windows: Any, data_format: str) -> None:
    first = data_format == "channels_first"
    pool = MaxPooling2DWithArgmax(*windows, data_format=data_format)
    back = MaxUnpooling2D(*windows, output_size=(7, 9), data_format=data_format)
    maxima, places = pool(np.moveaxis(X, -1, 1) if first else X)
    again = back(maxima, places)
    maxima, places, again = (
        np.moveaxis(numpy(v), 1, -1) if first else numpy(v) for v in (maxima, places, again)
    )
    np.testing.assert_array_equal(maxima, numpy(keras.layers.MaxPooling2D(*windows)(X)))
    values = np.take_along_axis(planes(X), planes(places), axis=-1)
    np.testing.assert_array_equal(values, planes(maxima))
    wanted = np.zeros_like(planes(X))
    np.put_along_axis(wanted, planes(places), values, axis=-1)
    np.testing.assert_array_equal(planes(again), wanted)


@pytest.mark.parametrize("windows", [(2, 2), (3, 2), ((2, 3), 1)])
def test_unpooling_is_that_of_onnx(windows: Any) -> None:
    # Other values than were pooled: of those with one place the last is there.
    from onnx.helper import make_node
    from onnx.reference import ReferenceEvaluator

    _, places = MaxPooling2DWithArgmax(*windows)(X[:, :, :7])
    places = numpy(places)
    values = RNG.standard_normal(places.shape).astype("float32")
    found = numpy(MaxUnpooling2D(*windows)(values, places))
    # ONNX counts through all planes of the batch.
    height, width = found.shape[1:3]
    rows, columns = places // 7, places % 7
    number = np.arange(6).reshape(2, 1, 1, 3)
    counted = (number * height + rows) * width + columns
    node = make_node(
        "MaxUnpool",
        ["X", "I"],
        ["Y"],
        kernel_shape=np.broadcast_to(windows[0], 2).tolist(),
        strides=np.broadcast_to(windows[1], 2).tolist(),
    )
    feeds = {"X": np.moveaxis(values, -1, 1), "I": np.moveaxis(counted, -1, 1).astype("int64")}
    (wanted,) = ReferenceEvaluator(node).run(None, feeds)
    here = numpy(MaxUnpooling2D(*windows)(values, (rows * width + columns).astype("int32")))
    np.testing.assert_array_equal(here, np.moveaxis(wanted, 1, -1))


@pytest.mark.skipif(BACKEND != "torch", reason="torch is the reference")
@pytest.mark.parametrize(("size", "strides"), [(2, 2), (3, 2), (3, 1)])
def test_both_are_those_of_torch(size: int, strides: int) -> None:
    import torch

    x = np.moveaxis(np.round(2 * X[:, :, :7]), -1, 1)  # of a few values: many maxima are equal
    kwargs = {"data_format": "channels_first"}
    maxima, places = MaxPooling2DWithArgmax(size, strides, **kwargs)(x)
    pooled, indices = torch.nn.functional.max_pool2d(
        torch.tensor(x), size, strides, return_indices=True
    )
    np.testing.assert_array_equal(numpy(maxima), pooled.numpy())
    np.testing.assert_array_equal(numpy(places), indices.numpy())
    again = MaxUnpooling2D(size, strides, output_size=(7, 7), **kwargs)(maxima, places)
    wanted = torch.nn.functional.max_unpool2d(pooled, indices, size, strides, output_size=(7, 7))
    np.testing.assert_array_equal(numpy(again), wanted.numpy())


def test_the_first_of_equal_maxima_counts_and_has_the_gradient() -> None:
    x = np.ones((1, 4, 4, 1), "float32")
    pool = MaxPooling2DWithArgmax(2)
    np.testing.assert_array_equal(numpy(pool(x)[1])[0, :, :, 0], [[0, 2], [8, 10]])
    evaluate = with_gradients(lambda given: [pool(given[0])[0]], seed=0)
    _, (cotangent,), (gradient,) = evaluate([x])
    np.testing.assert_array_equal(gradient[:, ::2, ::2], cotangent)
    np.testing.assert_array_equal(gradient[:, 1::2], 0)


def test_nan_is_the_maximum_and_infinite_pixels_have_places() -> None:
    x = np.array([[1, np.nan, 3, 4], [5, 6, 7, np.nan]], "float32").reshape(1, 2, 4, 1)
    maxima, places = MaxPooling2DWithArgmax(2)(x)
    assert np.isnan(numpy(maxima)).all()
    np.testing.assert_array_equal(numpy(places).ravel(), [1, 7])
    maxima, places = MaxPooling2DWithArgmax(3, 1, "same")(np.full_like(x, -np.inf))
    assert np.all(numpy(maxima) == -np.inf)
    np.testing.assert_array_equal(numpy(places).ravel(), [0, 0, 1, 2] * 2)


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_integers_are_as_floats(padding: str) -> None:
    x = np.round(9 * X)
    found, wanted = (
        MaxPooling2DWithArgmax(2, padding=padding)(x.astype(t)) for t in ("int32", "f4")
    )
    for f, w in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(numpy(f), numpy(w))
    assert found[0].dtype == wanted[0].dtype


def test_what_is_wrong_is_refused() -> None:
    for axis, data_format in ((1, "channels_last"), (2, "channels_first")):
        shape = [None, 3, 3, 3]
        shape[axis] = 1
        with pytest.raises(ValueError, match=r"`pool_size` must not exceed .*pool_size=\(2, 3\)"):
            MaxPooling2DWithArgmax((2, 3), data_format=data_format).build(tuple(shape))
    MaxPooling2DWithArgmax(4, padding="same").build((None, 3, 3, 3))
    MaxPooling2DWithArgmax(4).build((None, None, 4, 3))
    values = np.ones((1, 2, 2, 1), "float32")
    places = np.zeros((1, 2, 2, 1), "int32")
    for kwargs in ({"pool_size": 0}, {"strides": (1, 0)}, {"padding": "full"}):
        with pytest.raises(ValueError, match=f"`{next(iter(kwargs))}` must be .*Received"):
            MaxUnpooling2D(**kwargs)
    with pytest.raises(ValueError, match="`output_size` must be pooled to the input's.*6 becomes"):
        MaxUnpooling2D(2, output_size=(4, 6))(values, places)
    with pytest.raises(ValueError, match="must have the same shape.*Received"):
        MaxUnpooling2D(2)(values, places[:, :1])
