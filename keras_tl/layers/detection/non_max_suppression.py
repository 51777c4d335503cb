from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_tl.layers import arguments
from keras_tl.layers.detection import regions


def non_max_suppression(
    boxes: Any,
    scores: Any,
    labels: Any = None,
    iou_threshold: float = 0.5,
    max_detections: int = 100,
    score_threshold: float = 0.0,
    bounding_box_format: str = "xyxy",
) -> Any:
    """The indices of the best boxes that do not overlap, a fixed number of them.

    The box of the highest score is taken, and all boxes are dropped whose IoU with it is above
    `iou_threshold`; then the best of those left, and so on. Of equal scores the first box wins.
    Also called greedy NMS; ONNX' NonMaxSuppression and TensorFlow's choose the same boxes.

    Args:
        boxes: `(batch, boxes, 4)`, or `(boxes, 4)` of one image.
        scores: `(batch, boxes)`, or `(boxes,)`.
        labels: Of the same shape as `scores`: a box drops boxes of its own label only. Without
            them all boxes are of one kind.
        iou_threshold: The largest overlap that two boxes of one label may keep, in [0, 1]. It is
            that of `keras.utils.bounding_boxes.compute_iou`.
        max_detections: How many indices an image.
        score_threshold: Boxes with a score of this or less are left out.
        bounding_box_format: A format of `keras.utils.bounding_boxes`. Relative ones need no size
            of the image.

    Returns:
        int32 `(batch, max_detections)`, or `(max_detections,)`: indices by falling score, then -1
        for the places that are left.

    Raises:
        ValueError: If an argument is not as described.

    Example:

    >>> import numpy as np
    >>> from keras_tl.layers import non_max_suppression
    >>> boxes = np.array([[0, 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30]], "float32")
    >>> scores = np.array([0.7, 0.9, 0.8], "float32")
    >>> [int(i) for i in non_max_suppression(boxes, scores, max_detections=4)]
    [1, 2, -1, -1]
    """
    threshold, count, least = _limits(iou_threshold, max_detections, score_threshold)
    source = regions.box_format(bounding_box_format)
    boxes, scores = ops.convert_to_tensor(boxes), ops.cast(scores, "float32")
    labels = None if labels is None else ops.convert_to_tensor(labels)
    if fault := _fault((2, 3), boxes, scores, labels):
        raise ValueError(
            "`boxes` must be of shape (batch, boxes, 4) with `scores` and `labels` of (batch, "
            f"boxes), or (boxes, 4) with (boxes,). {fault}"
        )
    single = len(boxes.shape) == 2
    if single:
        boxes, scores = boxes[None], scores[None]
        labels = None if labels is None else labels[None]
    chosen = _greedy(boxes, scores, labels, threshold, count, least, source)
    return chosen[0] if single else chosen


def _limits(
    iou_threshold: Any, max_detections: Any, score_threshold: Any
) -> tuple[float, int, float]:
    threshold = arguments.number("iou_threshold", iou_threshold, 0.0)
    if threshold > 1.0:
        raise ValueError(
            f"`iou_threshold` must be a number in [0, 1]. Received: iou_threshold={iou_threshold!r}"
        )
    count = arguments.integer("max_detections", max_detections)
    return threshold, count, arguments.number("score_threshold", score_threshold)


def _fault(ranks: tuple[int, ...], boxes: Any, scores: Any, labels: Any) -> str | None:
    """What was received, if the tensors do not belong together."""
    shapes = [tuple(x.shape) for x in (boxes, scores, labels) if x is not None]
    known = len(shapes[0]) in ranks and shapes[0][-1] in (4, None)
    if known and regions.agree(shapes[0][:-1], *shapes[1:]):
        return None
    return f"Received: shapes {' and '.join(map(str, shapes))}"


def _greedy(
    boxes: Any, scores: Any, labels: Any, threshold: float, count: int, least: float, source: str
) -> Any:
    if scores.shape[0] == 0:  # no images: there is no least value of them either
        return ops.full((0, count), -1, "int32")
    boxes, scores = ops.stop_gradient(boxes), ops.stop_gradient(scores)
    # IoU is the same in an image of any size; Keras adds a constant to areas, so not a tiny one.
    boxes = keras.utils.bounding_boxes.convert_format(
        boxes, source=source, target="yxyx", height=1024, width=1024
    )
    # Of no boxes there is no least one: one that is never chosen takes its place.
    boxes, scores = _some(boxes), _some(scores, -float("inf"))
    labels = None if labels is None else _some(labels)
    number = ops.shape(scores)[1]
    order = ops.argsort(-scores, axis=1)
    scores = ops.take_along_axis(scores, order, axis=1)
    boxes = _pick(boxes, order)
    if labels is not None:
        labels = ops.take_along_axis(ops.stop_gradient(labels), order, axis=1)
    place = ops.arange(number, dtype="int32")
    # Each box's place in the order, or `number` once it is taken or dropped: the least is next.
    left = ops.where(scores > least, place, number)
    slots = ops.arange(count, dtype="int32")

    def choose(step: Any, left: Any, chosen: Any) -> Any:
        best = ops.min(left, axis=1, keepdims=True)
        known = ops.minimum(best, number - 1)
        overlap = keras.utils.bounding_boxes.compute_iou(_pick(boxes, known), boxes, "yxyx")
        dropped = overlap[:, 0] > threshold
        if labels is not None:
            dropped = dropped & (labels == ops.take_along_axis(labels, known, axis=1))
        left = ops.where(dropped | (left == best), number, left)
        return step + 1, left, ops.where(slots == step, best, chosen)

    none = ops.zeros_like(left[:, :1]) + number
    state = (ops.zeros((), "int32"), left, ops.repeat(none, count, axis=1))
    _, _, chosen = ops.while_loop(lambda step, *_: step < count, choose, state)
    indices = ops.take_along_axis(order, ops.minimum(chosen, number - 1), axis=1)
    return ops.where(chosen < number, ops.cast(indices, "int32"), -1)


def _some(x: Any, value: float = 0) -> Any:
    """(batch, boxes, ...) with one more place, where there may be no boxes."""
    if x.shape[1] not in (0, None):
        return x
    return ops.pad(x, [[0, int(axis == 1)] for axis in range(len(x.shape))], constant_values=value)


def _pick(boxes: Any, indices: Any) -> Any:
    """The boxes at the indices (batch, n) of each image."""
    return ops.take_along_axis(boxes, ops.repeat(indices[..., None], 4, axis=2), axis=1)


@keras.saving.register_keras_serializable(package="keras_tl")
class NonMaxSuppression(keras.layers.Layer):
    """Keeps the best boxes of each image that do not overlap: `non_max_suppression` as a layer.

    Args:
        iou_threshold: The largest overlap (IoU) that two boxes of one label may keep, in [0, 1].
        max_detections: How many boxes an image the outputs have room for.
        score_threshold: Boxes with a score of this or less are left out.
        bounding_box_format: A format of `keras.utils.bounding_boxes`. Relative ones need no size
            of the image.

    Call arguments:
        boxes: `(batch, boxes, 4)`.
        scores: `(batch, boxes)`.
        labels: `(batch, boxes)`, optional: a box drops boxes of its own label only.

    Returns:
        A dictionary, by falling score, each padded with -1: `"boxes"`, `(batch, max_detections,
        4)`, `"scores"` and, where given, `"labels"`, `(batch, max_detections)`, of the types that
        came in under any policy; and `"indices"`, which boxes they were, int32. The gradient of
        boxes and scores goes to those that were kept.

    Raises:
        ValueError: If an argument is not as described.

    Example:

    >>> import keras, numpy as np
    >>> from keras_tl.layers import NonMaxSuppression
    >>> boxes = np.array([[[0, 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30]]], "float32")
    >>> kept = NonMaxSuppression(max_detections=3)(boxes, np.array([[0.75, 1.0, 0.5]], "float32"))
    >>> print(keras.ops.convert_to_numpy(kept["scores"]))
    [[ 1.   0.5 -1. ]]
    """

    def __init__(
        self,
        iou_threshold: float = 0.5,
        max_detections: int = 100,
        score_threshold: float = 0.0,
        bounding_box_format: str = "xyxy",
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)  # coordinates keep their type
        self.iou_threshold, self.max_detections, self.score_threshold = _limits(
            iou_threshold, max_detections, score_threshold
        )
        self.bounding_box_format = regions.box_format(bounding_box_format)

    def build(self, boxes_shape: Any, scores_shape: Any, labels_shape: Any = None) -> None:
        given = (boxes_shape, scores_shape, labels_shape)
        tensors = [None if shape is None else keras.KerasTensor(shape) for shape in given]
        if fault := _fault((3,), *tensors):
            raise ValueError(
                "`NonMaxSuppression` takes boxes of shape (batch, boxes, 4), and scores and labels "
                f"of (batch, boxes). {fault}"
            )

    def call(self, boxes: Any, scores: Any, labels: Any = None) -> dict[str, Any]:
        indices = non_max_suppression(
            boxes,
            scores,
            labels,
            self.iou_threshold,
            self.max_detections,
            self.score_threshold,
            self.bounding_box_format,
        )
        kept, known = indices >= 0, ops.maximum(indices, 0)
        found = {"boxes": ops.where(kept[..., None], _pick(_some(boxes), known), -1)}
        for name, values in (("scores", scores), ("labels", labels)):
            if values is not None:
                values = ops.take_along_axis(_some(values), known, axis=1)
                found[name] = ops.where(kept, values, -1)
        return {**found, "indices": indices}

    def compute_output_shape(
        self, boxes_shape: Any, scores_shape: Any, labels_shape: Any = None
    ) -> dict[str, tuple[int | None, ...]]:
        flat = (boxes_shape[0], self.max_detections)
        shapes = {"boxes": (*flat, 4), "scores": flat, "labels": flat, "indices": flat}
        if labels_shape is None:
            del shapes["labels"]
        return shapes

    def compute_output_spec(self, boxes: Any, scores: Any, labels: Any = None) -> Any:
        given = {"boxes": boxes, "scores": scores, "labels": labels}
        shapes = self.compute_output_shape(
            boxes.shape, scores.shape, None if labels is None else labels.shape
        )
        return {
            name: keras.KerasTensor(shape, "int32" if name == "indices" else given[name].dtype)
            for name, shape in shapes.items()
        }

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "iou_threshold": self.iou_threshold,
            "max_detections": self.max_detections,
            "score_threshold": self.score_threshold,
            "bounding_box_format": self.bounding_box_format,
        }
