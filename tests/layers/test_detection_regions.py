"""`ROIAlign2D` against ONNX' reference, `ROIPooling2D` against the rule of Fast R-CNN's code."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import pytest
from harness import BACKEND, with_gradients
from keras import ops
from onnx.reference.ops.op_roi_align import RoiAlign

from keras_tl.layers import ROIAlign2D, ROIPooling2D

BOTH = pytest.mark.parametrize("layer", [ROIAlign2D, ROIPooling2D])


def maps(height: int = 9, width: int = 11, channels: int = 2) -> np.ndarray:
    shape = (2, height, width, channels)
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


def boxes() -> np.ndarray:
    """Inside and across the edges, within a pixel, all over and beside a map of 9 x 11."""
    rng = np.random.default_rng(1)
    low = rng.uniform(-4, 9, (2, 8, 2))
    found = np.concatenate([low, low + rng.uniform(-0.5, 9, (2, 8, 2))], axis=-1)
    found[0, :5] = [
        [-30, -30, 60, 70], [3, 3, 3, 3], [0, 0, 11, 9], [40, 40, 50, 50], [3.2, 1.5, 3.4, 8.5]
    ]  # fmt: skip
    return found.astype("float32")


def run(layer: Any, *arrays: np.ndarray) -> np.ndarray:
    """The layer's output; jax compiles it once instead of operation by operation."""
    if BACKEND == "jax":
        import jax

        return np.asarray(jax.jit(layer)(*arrays))
    return ops.convert_to_numpy(layer(*arrays))


def onnx(x: np.ndarray, boxes: np.ndarray, size: Any, ratio: int, aligned: bool, scale: float):
    batch, number = boxes.shape[:2]
    shape = (batch * number, x.shape[3], *size)
    out = np.zeros(math.prod(shape), "float32")
    RoiAlign.roi_align_forward(
        shape, x.transpose(0, 3, 1, 2).ravel(), scale, *x.shape[1:3], ratio, boxes.ravel(), 4,
        out, "avg", aligned, np.repeat(np.arange(batch), number),
    )  # fmt: skip
    return out.reshape(batch, number, *shape[1:]).transpose(0, 1, 3, 4, 2)


@pytest.mark.parametrize(
    ("ratio", "aligned", "scale"),
    [(0, True, 1.0), (0, False, 0.5), (1, True, 0.5), (2, False, 1.0)],
)
def test_align_is_that_of_onnx(ratio: int, aligned: bool, scale: float) -> None:
    x, box = maps(), boxes()
    layer = ROIAlign2D((3, 2), ratio, scale, aligned)
    found = run(layer, x, box)
    np.testing.assert_allclose(found, onnx(x, box, (3, 2), ratio, aligned, scale), atol=1e-5)


def rounded(value: float) -> int:
    """C's `round`: halves go away from 0."""
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


def fast_rcnn(x: np.ndarray, boxes: np.ndarray, size: Any, scale: float) -> np.ndarray:
    """Fast R-CNN's rule, which is that of ONNX' MaxRoiPool (its reference has no such operator)."""
    _, height, width, channels = x.shape
    out = np.zeros((*boxes.shape[:2], *size, channels), "float32")
    for n, r, ph, pw in np.ndindex(out.shape[:4]):
        x1, y1, x2, y2 = (rounded(float(v) * scale) for v in boxes[n, r])
        w, h = max(x2 - x1 + 1, 1), max(y2 - y1 + 1, 1)
        top = min(max(y1 + math.floor(ph * h / size[0]), 0), height)
        end = min(max(y1 + math.ceil((ph + 1) * h / size[0]), 0), height)
        left = min(max(x1 + math.floor(pw * w / size[1]), 0), width)
        right = min(max(x1 + math.ceil((pw + 1) * w / size[1]), 0), width)
        if end > top and right > left:
            out[n, r, ph, pw] = x[n, top:end, left:right].max(axis=(0, 1))
    return out


@pytest.mark.parametrize(("size", "scale"), [((3, 2), 1.0), ((7, 7), 0.5)])
def test_pooling_is_that_of_fast_rcnn(size: Any, scale: float) -> None:
    x, box = maps(), boxes()
    found = run(ROIPooling2D(size, scale), x, box)
    np.testing.assert_array_equal(found, fast_rcnn(x, box, size, scale))


def test_pooling_gives_the_gradient_to_the_largest_pixel() -> None:
    """Also where the next one is as large: the sum of the gradient is that of the bins."""
    x, box = np.ones((1, 4, 4, 1), "float32"), np.array([[[0, 0, 3, 3]]], "float32")
    x[0, 1, 0] = 2
    layer = ROIPooling2D(2)
    (out,), (g,), (dx,) = with_gradients(lambda p: [layer(p[0], box)], seed=0)([x])
    assert out.shape == g.shape
    assert dx[0, 1, 0, 0] == pytest.approx(g[0, 0, 0, 0, 0])
    assert np.count_nonzero(dx) == 4
    assert dx.sum() == pytest.approx(g.sum(), abs=1e-6)


@BOTH
@pytest.mark.parametrize("name", ["center_xywh", "rel_yxyx"])
def test_boxes_of_any_format(layer: Any, name: str) -> None:
    x, box = maps(), np.array([[[1, 2, 8, 7]], [[0, 0, 11, 9]]], "float32")
    given = keras.utils.bounding_boxes.convert_format(
        box, source="xyxy", target=name, height=9, width=11
    )
    found = run(layer(2, bounding_box_format=name), x, ops.convert_to_numpy(given))
    np.testing.assert_allclose(found, run(layer(2), x, box), atol=1e-5)


@pytest.mark.parametrize(
    "layer", [ROIAlign2D(2), ROIAlign2D(2, sampling_ratio=0, aligned=False), ROIPooling2D(2)]
)
def test_padding_and_what_is_off_the_map_give_zeros(layer: Any) -> None:
    x = maps() + 10
    assert np.all(run(layer, x, np.full((2, 3, 4), -1, "float32")) == 0)
    far = np.full((2, 3, 4), 1e4, "float32")
    assert np.all(run(layer, x, far) == 0)


def test_a_huge_region_takes_no_longer_than_the_map_does() -> None:
    """Adaptive sampling of a region of 10**7 pixels would take 10**12 points a bin."""
    box = np.array([[[-1e7, -1e7, 1e7, 1e7]]], "float32")
    out = run(ROIAlign2D(2, sampling_ratio=0), maps()[:1], box)
    assert np.all(np.isfinite(out))


@BOTH
def test_boxes_keep_their_precision_in_half_types(layer: Any) -> None:
    """2049 is 2048 as float16 and as bfloat16."""
    x = np.zeros((1, 2100, 1, 1), "float32")
    x[0, 2049] = 1
    box = np.array([[[0, 2049, 0, 2049]]], "float32")
    if layer is ROIAlign2D:
        box[..., 2:] += 1
    for policy in ("float32", "mixed_float16", "mixed_bfloat16"):
        of = layer(1, dtype=policy)
        (out,) = run(lambda *a, of=of: ops.cast(of(*a), "float32"), x, box).ravel()
        assert out > 0.5, policy


@BOTH
def test_boxes_get_no_gradient(layer: Any) -> None:
    """Also where they come from a layer that is trained, as in a region proposal network."""
    x, box = maps(), boxes()
    of = layer(2)
    _, _, (dx, dbox) = with_gradients(lambda p: [of(p[0], p[1] * 1.5)], seed=0)([x, box])
    assert np.any(dx)
    assert not np.any(dbox)


@BOTH
def test_integers_are_boxes_and_images_too(layer: Any) -> None:
    x, box = maps(), np.array([[[1, 2, 8, 7]], [[0, 0, 10, 8]]], "int32")
    wanted = run(layer(2), x, box.astype("float32"))
    np.testing.assert_array_equal(run(layer(2), x, box), wanted)
    assert run(layer(2), (x > 0).astype("uint8"), box).dtype == "float32"


@BOTH
@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"pool_size": 0}, "`pool_size` must be .* Received: pool_size=0"),
        ({"spatial_scale": 0}, "`spatial_scale` must be .* above 0"),
        ({"bounding_box_format": "corners"}, "`bounding_box_format` must be one of 'xyxy'"),
        (
            {"bounding_box_format": "rel_xyxy", "spatial_scale": 0.5},
            "`spatial_scale` must be 1 for a relative format",
        ),
        ({"data_format": "first"}, "`data_format` must be"),
    ],
)
def test_bad_arguments(layer: Any, kwargs: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        layer(**kwargs)


@BOTH
def test_bad_shapes(layer: Any) -> None:
    for shapes in [((4, 4, 3), (None, 2, 4)), ((None, 4, 4, 3), (2, 4)), ((2, 4, 4, 3), (2, 1, 5))]:
        with pytest.raises(ValueError, match=f"`{layer.__name__}` takes feature maps of 4 axes"):
            layer(2)(*(keras.Input(batch_shape=shape) for shape in shapes))


def test_a_negative_number_of_points() -> None:
    with pytest.raises(ValueError, match="`sampling_ratio` must be an integer of at least 0"):
        ROIAlign2D(sampling_ratio=-1)


@BOTH
@pytest.mark.parametrize("images", [1, 5])
def test_as_many_lists_of_boxes_as_maps(layer: Any, images: int) -> None:
    given = np.zeros((images, 3, 4), "float32")
    with pytest.raises(ValueError, match=r"for as many images. Received: shapes \(2, 9, 11, 2\)"):
        layer(2)(maps(), given)
    built = layer(2)
    built(maps(), boxes())
    with pytest.raises(ValueError, match="for as many images"):
        built(maps(), given)


@pytest.mark.parametrize("layer", [ROIAlign2D(2), ROIAlign2D(2, sampling_ratio=0), ROIPooling2D(2)])
def test_no_boxes_are_no_bins(layer: Any) -> None:
    found = run(layer, maps(), np.zeros((2, 0, 4), "float32"))
    assert found.shape == (2, 0, 2, 2, 2)


def test_pooling_keeps_what_is_no_number() -> None:
    """A pixel that is NaN is not the first of its bin: nothing is larger, and nothing smaller."""
    x = np.zeros((1, 4, 4, 1), "float32")
    x[0, 1, 1] = np.nan
    found = run(ROIPooling2D(2), x, np.array([[[0, 0, 3, 3]]], "float32"))
    assert np.isnan(found).ravel().tolist() == [True, False, False, False]
