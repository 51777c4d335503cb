"""`NonMaxSuppression` against ONNX' reference and Keras' IoU."""

from __future__ import annotations

import functools
from typing import Any

import keras
import numpy as np
import pytest
from harness import BACKEND
from keras import ops
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from keras_tl.layers import NonMaxSuppression, non_max_suppression


def scene(seed: int, batch: int = 2, number: int = 30) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes (yxyx), scores of which many are equal, and labels."""
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 40, (batch, number, 2))
    boxes = np.concatenate([low, low + rng.integers(4, 25, low.shape)], axis=-1)
    scores = (rng.integers(0, 20, (batch, number)) / 20).astype("float32")
    return boxes.astype("float32"), scores, rng.integers(0, 3, scores.shape).astype("int32")


def run(function: Any, *arrays: Any, **kwargs: Any) -> Any:
    """The function's outputs; jax compiles it once instead of operation by operation."""
    function = functools.partial(function, **kwargs)
    if BACKEND == "jax":
        import jax

        function = jax.jit(function)
    return keras.tree.map_structure(ops.convert_to_numpy, function(*arrays))


def evaluator() -> ReferenceEvaluator:
    kinds = {"b": TensorProto.FLOAT, "s": TensorProto.FLOAT, "n": TensorProto.INT64}
    kinds |= {"i": TensorProto.FLOAT, "t": TensorProto.FLOAT}
    node = helper.make_node("NonMaxSuppression", list(kinds), ["chosen"])
    values = [helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()]
    chosen = helper.make_tensor_value_info("chosen", TensorProto.INT64, None)
    return ReferenceEvaluator(helper.make_model(helper.make_graph([node], "", values, [chosen])))


def onnx(
    boxes: np.ndarray, scores: np.ndarray, labels: Any, iou: float, count: int, least: float
) -> np.ndarray:
    """ONNX suppresses class by class; the classes of an image are then sorted by score."""
    given = np.zeros_like(scores, "int32") if labels is None else labels
    classes = [np.where(given == c, scores, -1) for c in range(3)]
    (found,) = evaluator().run(
        None,
        {
            "b": boxes,
            "s": np.stack(classes, axis=1).astype("float32"),
            "n": np.array([boxes.shape[1]]),
            "i": np.array([iou], "float32"),
            "t": np.array([least], "float32"),
        },
    )
    out = np.full((len(boxes), count), -1)
    for i, row in enumerate(out):
        indices = sorted(found[found[:, 0] == i][:, 2], key=lambda n: (-scores[i, n], n))[:count]
        row[: len(indices)] = indices
    return out


@pytest.mark.parametrize(
    ("iou", "labelled", "count"), [(0.0, True, 5), (0.25, False, 40), (0.7, True, 40)]
)
def test_the_boxes_are_those_of_onnx(iou: float, labelled: bool, count: int) -> None:
    """Room for fewer boxes and for more than there are."""
    boxes, scores, labels = scene(0, batch=40)
    labels = labels if labelled else None
    found = run(
        non_max_suppression,
        boxes,
        scores,
        labels,
        iou_threshold=iou,
        max_detections=count,
        score_threshold=0.2,
        bounding_box_format="yxyx",
    )
    assert found.dtype == "int32"
    np.testing.assert_array_equal(found, onnx(boxes, scores, labels, iou, count, 0.2))


def test_one_image_and_a_batch_agree() -> None:
    boxes, scores, labels = scene(0)
    whole = run(non_max_suppression, boxes, scores, labels, max_detections=8)
    alone = run(non_max_suppression, boxes[1], scores[1], labels[1], max_detections=8)
    np.testing.assert_array_equal(alone, whole[1])


@pytest.mark.parametrize("name", ["xywh", "rel_xyxy"])
def test_boxes_of_any_format(name: str) -> None:
    """Relative ones also where a box is smaller than what Keras adds to its area."""
    boxes, scores, _ = scene(1)
    height, width = (5000, 9000) if name.startswith("rel") else (None, None)
    given = keras.utils.bounding_boxes.convert_format(
        boxes, source="yxyx", target=name, height=height, width=width
    )
    wanted = run(non_max_suppression, boxes, scores, iou_threshold=0.31, bounding_box_format="yxyx")
    found = run(non_max_suppression, given, scores, iou_threshold=0.31, bounding_box_format=name)
    np.testing.assert_array_equal(found, wanted)


def test_what_is_kept_does_not_overlap_and_what_is_dropped_does() -> None:
    boxes, scores, labels = scene(2)
    layer = NonMaxSuppression(0.3, 30, bounding_box_format="yxyx")
    found = run(layer, boxes, scores, labels)
    for i in range(2):
        kept = found["indices"][i][found["indices"][i] >= 0]
        np.testing.assert_array_equal(found["boxes"][i, : len(kept)], boxes[i, kept])
        np.testing.assert_array_equal(found["scores"][i, : len(kept)], scores[i, kept])
        np.testing.assert_array_equal(found["labels"][i, : len(kept)], labels[i, kept])
        for name in ("boxes", "scores", "labels", "indices"):
            assert np.all(found[name][i, len(kept) :] == -1), name
        overlap = keras.utils.bounding_boxes.compute_iou(boxes[i], boxes[i], "yxyx")
        overlap = ops.convert_to_numpy(overlap) * (labels[i][:, None] == labels[i])
        among = overlap[np.ix_(kept, kept)] - np.eye(len(kept))
        assert among.max() <= 0.3
        dropped = [n for n in range(30) if n not in kept and scores[i, n] > 0]
        assert dropped
        assert all(overlap[n, kept].max() > 0.3 for n in dropped)


def test_what_was_padded_is_not_chosen() -> None:
    """The layer's outputs are its inputs again, and it keeps them as they are."""
    boxes, scores, _ = scene(3)
    layer = NonMaxSuppression(0.4, 12, bounding_box_format="yxyx")
    once = run(layer, boxes, scores)
    twice = run(layer, once["boxes"], once["scores"])
    for name in ("boxes", "scores"):
        np.testing.assert_array_equal(once[name], twice[name])


def test_types_stay_under_a_half_policy() -> None:
    """Coordinates such as 2049 are no float16."""
    boxes = np.array([[[2049, 0, 2055, 7]]], "float32")
    layer = NonMaxSuppression(max_detections=1, dtype="mixed_float16")
    found = run(layer, boxes, np.array([[0.5]], "float32"))
    np.testing.assert_array_equal(found["boxes"], boxes)


def test_no_box_at_all_is_good_enough() -> None:
    boxes, scores, _ = scene(4)
    found = run(non_max_suppression, boxes, scores, score_threshold=1.0, max_detections=3)
    assert np.all(found == -1)


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"iou_threshold": 1.5}, r"`iou_threshold` must be a number in \[0, 1\]"),
        ({"iou_threshold": -0.1}, "`iou_threshold` must be"),
        ({"max_detections": 0}, "`max_detections` must be an integer of at least 1"),
        ({"score_threshold": None}, "`score_threshold` must be a finite number"),
        ({"bounding_box_format": "corners"}, "`bounding_box_format` must be one of"),
    ],
)
def test_bad_arguments(kwargs: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        NonMaxSuppression(**kwargs)
    with pytest.raises(ValueError, match=match):
        non_max_suppression(np.zeros((1, 4)), np.zeros(1), **kwargs)


def test_bad_shapes() -> None:
    with pytest.raises(ValueError, match="`boxes` must be of shape"):
        non_max_suppression(np.zeros((2, 3, 4)), np.zeros((2, 3, 1)))
    with pytest.raises(ValueError, match="`NonMaxSuppression` takes boxes of shape"):
        NonMaxSuppression()(keras.Input((3, 5)), keras.Input((3,)))


@pytest.mark.parametrize(
    ("shapes", "received"),
    [
        (((3, 4), (2,)), r"\(3, 4\) and \(2,\)"),
        (((3, 4), (5,)), r"\(3, 4\) and \(5,\)"),
        (((3, 4), (3,), (2,)), r"\(3, 4\) and \(3,\) and \(2,\)"),
        (((3, 5), (3,)), r"\(3, 5\) and \(3,\)"),
    ],
)
def test_each_box_has_a_score_and_a_label(shapes: Any, received: str) -> None:
    """On no backend is what is missing made up."""
    arrays = [np.zeros(shape, "float32") for shape in shapes]
    with pytest.raises(ValueError, match=f"`boxes` must be .* Received: shapes {received}"):
        non_max_suppression(*arrays)
    with pytest.raises(ValueError, match="`NonMaxSuppression` takes boxes of shape"):
        NonMaxSuppression()(*(keras.Input(shape) for shape in shapes))
    with pytest.raises(ValueError, match="`boxes` must be of shape"):  # a batch of other images
        non_max_suppression(np.zeros((2, 3, 4)), np.zeros((1, 3)))


def test_images_without_boxes_and_no_images() -> None:
    found = run(non_max_suppression, np.zeros((0, 4)), np.zeros(0), max_detections=3)
    assert found.dtype == "int32"
    assert found.tolist() == [-1, -1, -1]
    empty = np.zeros((2, 0, 4), "float32"), np.zeros((2, 0), "float32"), np.zeros((2, 0), "int32")
    kept = run(NonMaxSuppression(max_detections=3), *empty)
    assert kept["boxes"].shape == (2, 3, 4)
    assert all(np.all(values == -1) for values in kept.values())
    none = np.zeros((0, 5, 4), "float32"), np.zeros((0, 5), "float32"), np.zeros((0, 5), "int32")
    kept = run(NonMaxSuppression(max_detections=3), *none)
    assert [kept[name].shape for name in ("boxes", "labels")] == [(0, 3, 4), (0, 3)]
    assert run(non_max_suppression, *none[:2], max_detections=3).dtype == "int32"


@pytest.mark.skipif(BACKEND != "tensorflow", reason="elsewhere a compiled step knows all lengths")
def test_a_compiled_step_that_learns_late_that_there_are_no_boxes() -> None:
    import tensorflow as tf

    specs = [tf.TensorSpec((2, None, 4)), tf.TensorSpec((2, None))]
    function = tf.function(lambda *a: non_max_suppression(*a, max_detections=2), specs)
    boxes, scores, _ = scene(0)
    assert function(boxes[:, :0], scores[:, :0]).numpy().tolist() == [[-1, -1], [-1, -1]]
    wanted = run(non_max_suppression, boxes, scores, max_detections=2)
    np.testing.assert_array_equal(function(boxes, scores), wanted)
