"""SpatialTransformer2D against ONNX' operators, and what it must do exactly."""

from __future__ import annotations

from typing import Any

import hypothesis
import keras
import numpy as np
import pytest
from compiled import compiled
from harness import BACKEND
from hypothesis import strategies as st

from keras_tl.layers import SpatialTransformer2D

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype("float32")


@hypothesis.settings(max_examples=3)
@hypothesis.given(
    size=st.tuples(st.integers(1, 41), st.integers(1, 41)),
    align_corners=st.booleans(),
    fill_mode=st.sampled_from(["constant", "nearest"]),
    use_head=st.booleans(),
)
@hypothesis.example(size=(37, 23), align_corners=True, fill_mode="constant", use_head=True)
def test_the_identity_gives_the_image_bit_by_bit(
    size: tuple[int, int], align_corners: bool, fill_mode: str, use_head: bool
) -> None:
    # TensorLayer's zoomed by 0.76 at the start and lost the last row and column.
    layer = SpatialTransformer2D(
        align_corners=align_corners, fill_mode=fill_mode, use_head=use_head
    )
    images = normal(2, *size, 3)
    second = normal(2, 5) if use_head else np.tile(np.eye(2, 3, dtype="float32"), (2, 1, 1))
    inputs = [keras.Input((None, None, 3)), keras.Input(second.shape[1:])]
    model = keras.Model(inputs, layer(*inputs))
    model.compile(jit_compile=BACKEND != "torch")
    np.testing.assert_array_equal(model.predict([images, second], verbose=0), images)


def onnx_transform(
    images: np.ndarray, theta: np.ndarray, size: Any, align_corners: bool, border: bool
) -> np.ndarray:
    """ONNX' AffineGrid and GridSample, on images whose channels are last."""
    from onnx.helper import make_node
    from onnx.reference import ReferenceEvaluator

    align = int(align_corners)
    grid_node = make_node("AffineGrid", ["theta", "size"], ["grid"], align_corners=align)
    size = np.array([len(images), images.shape[3], *size], "int64")
    (grid,) = ReferenceEvaluator(grid_node).run(None, {"theta": theta, "size": size})
    node = make_node(
        "GridSample",
        ["X", "grid"],
        ["Y"],
        mode="linear",
        padding_mode="border" if border else "zeros",
        align_corners=align,
    )
    (found,) = ReferenceEvaluator(node).run(None, {"X": np.moveaxis(images, -1, 1), "grid": grid})
    return np.moveaxis(found, 1, -1)


@pytest.mark.parametrize(
    ("align_corners", "fill_mode"), [(False, "constant"), (True, "constant"), (True, "nearest")]
)
def test_transforms_are_those_of_onnx(align_corners: bool, fill_mode: str) -> None:
    images = normal(2, 6, 5, 2)
    theta = (np.eye(2, 3) + 0.5 * normal(2, 2, 3)).astype("float32")
    layer = SpatialTransformer2D(
        (4, 7), use_head=False, align_corners=align_corners, fill_mode=fill_mode
    )
    wanted = onnx_transform(images, theta, (4, 7), align_corners, fill_mode == "nearest")
    np.testing.assert_allclose(compiled(layer, images, theta), wanted, atol=2e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (3, 1)])
def test_a_single_pixel_between_corners_is_the_centre(size: tuple[int, int]) -> None:
    # As `affine_grid` and `grid_sample` of torch; ONNX' `AffineGrid` divides by zero there.
    images = np.arange(15, dtype="float32").reshape(1, 3, 5, 1)
    theta = np.eye(2, 3, dtype="float32")[None]
    layer = SpatialTransformer2D(size, use_head=False, align_corners=True)
    wanted = images[:, 1:2] if size[0] == 1 else images
    wanted = wanted[:, :, 2:3] if size[1] == 1 else wanted
    np.testing.assert_array_equal(compiled(layer, images, theta), wanted)


def test_the_head_makes_theta_of_features() -> None:
    images, features = normal(2, 6, 5, 2), normal(2, 4)
    head = SpatialTransformer2D((3, 3), transforms=2)
    head.build(images.shape, features.shape)
    head.set_weights([0.2 * normal(4, 12), 0.2 * normal(12)])
    kernel, bias = head.get_weights()
    theta = (features @ kernel + bias).reshape(2, 2, 2, 3) + np.eye(2, 3, dtype="float32")
    one = SpatialTransformer2D((3, 3), use_head=False)
    found = compiled(head, images, features)
    for i in range(2):  # several transforms of an image are each of them
        np.testing.assert_allclose(found[:, i], compiled(one, images, theta[:, i]), atol=1e-5)


def test_coordinates_are_not_of_half_precision() -> None:
    # A shift by half of a pixel of 400 is nothing at all in bfloat16.
    images = np.tile(np.arange(400, dtype="float32") % 2, (1, 1, 1)).reshape(1, 1, 400, 1)
    theta = np.array([[[1, 0, 1 / 400], [0, 1, 0]]], "float32")
    layer = SpatialTransformer2D(use_head=False, fill_mode="nearest", dtype="mixed_bfloat16")
    np.testing.assert_allclose(compiled(layer, images, theta)[0, 0, :-1], 0.5, atol=1e-2)


def test_what_is_wrong_is_refused() -> None:
    images = np.ones((1, 4, 4, 1))
    for kwargs in ({"output_size": (0, 2)}, {"transforms": 0}, {"fill_mode": "zeros"}):
        with pytest.raises(ValueError, match=f"`{next(iter(kwargs))}` must be .*Received"):
            SpatialTransformer2D(**kwargs)
    with pytest.raises(ValueError, match="features .* must have the shape"):
        SpatialTransformer2D()(images, np.ones((1, 2, 3)))
    with pytest.raises(ValueError, match=r"theta .* must have the shape \('batch', 2, 2, 3\)"):
        SpatialTransformer2D(use_head=False, transforms=2)(images, np.ones((1, 2, 3)))
    layer = SpatialTransformer2D(use_head=False)
    for _ in range(2):  # also when it is built
        with pytest.raises(ValueError, match=r"one batch size.*Received: shapes \(1, 4"):
            layer(images, np.ones((2, 2, 3)))
        layer.build((None, 4, 4, 1), (None, 2, 3))
