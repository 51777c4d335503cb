"""What the layers share that look at boxes of an image."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_tl.layers import arguments

FORMATS = (
    "xyxy", "yxyx", "xywh", "center_xywh", "center_yxhw",
    "rel_xyxy", "rel_yxyx", "rel_xywh", "rel_center_xywh",
)  # fmt: skip


def box_format(value: Any) -> str:
    """A format that `keras.utils.bounding_boxes` converts from."""
    return arguments.choice("bounding_box_format", value, FORMATS)


def spatial_scale(value: Any, bounding_box_format: str) -> float:
    scale = arguments.number("spatial_scale", value, 0.0, exclusive=True)
    if bounding_box_format.startswith("rel_") and scale != 1.0:
        raise ValueError(
            "`spatial_scale` must be 1 for a relative format: its boxes are fractions of the "
            f"feature map. Received: spatial_scale={value!r}, "
            f"bounding_box_format={bounding_box_format!r}"
        )
    return scale


def agree(*shapes: Any) -> bool:
    """Whether shapes have equally many axes, and equal lengths where those are known."""
    if len({len(shape) for shape in shapes}) > 1:
        return False
    return all(len(set(lengths) - {None}) <= 1 for lengths in zip(*shapes, strict=True))


def check_shapes(layer: Any, inputs_shape: Any, boxes_shape: Any) -> None:
    fits = len(inputs_shape) == 4 and len(boxes_shape) == 3 and boxes_shape[-1] in (4, None)
    if not fits or not agree(inputs_shape[:1], boxes_shape[:1]):
        raise ValueError(
            f"`{type(layer).__name__}` takes feature maps of 4 axes and boxes of shape "
            "(batch, boxes, 4), for as many images. Received: shapes "
            f"{tuple(inputs_shape)} and {tuple(boxes_shape)}"
        )


def pooled_shape(layer: Any, inputs_shape: Any, boxes_shape: Any) -> tuple[int | None, ...]:
    """The shape of a grid of bins for each box."""
    batch = inputs_shape[0] if boxes_shape[0] is None else boxes_shape[0]
    if layer.data_format == "channels_last":
        return (batch, boxes_shape[1], *layer.pool_size, inputs_shape[3])
    return (batch, boxes_shape[1], inputs_shape[1], *layer.pool_size)


def channels_last(layer: Any, inputs: Any) -> Any:
    """The feature maps in the layer's type, channels last: a pixel's channels move as one."""
    features = ops.cast(inputs, layer.compute_dtype)
    return features if layer.data_format == "channels_last" else ops.moveaxis(features, 1, -1)


def corners(layer: Any, boxes: Any, height: Any, width: Any) -> tuple[Any, Any]:
    """The boxes as x1, y1, x2, y2 in pixels of the feature map, and which of them are no padding.

    They are float32: half precision has whole pixels from 1024 on.
    """
    boxes = ops.stop_gradient(ops.cast(boxes, "float32"))
    real = ops.any(boxes != -1.0, axis=-1)
    boxes = keras.utils.bounding_boxes.convert_format(
        boxes, source=layer.bounding_box_format, target="xyxy", height=height, width=width
    )
    return boxes * layer.spatial_scale, real


def pixels(rows: Any, columns: Any, height: Any, width: Any) -> Any:
    """Where the pixels of bins lie in the feature maps of a batch, laid out as one list.

    rows (batch, boxes, bins) and columns (batch, boxes, bins) give (batch, boxes, bins, bins).
    """
    images = ops.arange(ops.shape(rows)[0], dtype="int32")[:, None, None]
    return ((images * height + rows) * width)[..., None] + columns[..., None, :]


def laid_out(layer: Any, bins: Any, like: Any) -> Any:
    """Bins as the layer gives them, of a list of pixels for each bin of each box."""
    batch, boxes = ops.shape(like)[:2]
    bins = ops.reshape(bins, (batch, boxes, *layer.pool_size, ops.shape(bins)[-1]))
    bins = ops.cast(bins, layer.compute_dtype)
    return bins if layer.data_format == "channels_last" else ops.moveaxis(bins, -1, 2)
