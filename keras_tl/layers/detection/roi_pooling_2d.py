from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_tl.layers import arguments
from keras_tl.layers.detection import regions


@keras.saving.register_keras_serializable(package="keras_tl")
class ROIPooling2D(keras.layers.Layer):
    """Takes the largest value in each of a grid of bins in every region of a feature map.

    The corners of a region are rounded to whole pixels, both of which belong to it: it is
    `round(x2) - round(x1) + 1` pixels wide, at least 1. Bin i of n then covers the pixels from
    `floor(i * width / n)` to `ceil((i + 1) * width / n)`, so that neighbours may share a pixel.
    Pixels off the map are left out; a bin without any is 0.

    Source: Girshick, "Fast R-CNN", arXiv:1504.08083, section 2.1; the rounding is that of its
    code and of ONNX' MaxRoiPool. TensorLayer's layer took the boxes of all images in one list,
    each with the number of its image, and ran on GPUs only.

    Args:
        pool_size: Bins a region: an integer, or two (height, width).
        spatial_scale: Pixels of the feature map for one pixel of the image in which the boxes are
            measured, such as 1 / 16.
        bounding_box_format: A format of `keras.utils.bounding_boxes`. The relative ones
            (`"rel_..."`) are fractions of the feature map.
        data_format: `"channels_last"` or `"channels_first"`; Keras' setting if None.

    Call arguments:
        inputs: Feature maps, `(batch, height, width, channels)`, or with channels first.
        boxes: `(batch, boxes, 4)`: the same number of boxes for each image. A box that is -1 in
            all four places is padding and gives zeros. The boxes get no gradient.

    Output shape:
        `(batch, boxes, *pool_size, channels)`, or `(batch, boxes, channels, *pool_size)`.

    Raises:
        ValueError: If an argument is not as described.

    Example:

    >>> import keras, numpy as np
    >>> from keras_tl.layers import ROIPooling2D
    >>> image = np.arange(16, dtype="float32").reshape(1, 4, 4, 1)
    >>> boxes = np.array([[[0, 0, 3, 3]]], "float32")  # left, top, right, bottom
    >>> bins = ROIPooling2D(pool_size=2)(image, boxes)
    >>> print(keras.ops.convert_to_numpy(bins)[0, 0, :, :, 0])
    [[ 5.  7.]
     [13. 15.]]
    """

    def __init__(
        self,
        pool_size: int | Sequence[int] = (7, 7),
        spatial_scale: float = 1.0,
        bounding_box_format: str = "xyxy",
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)  # boxes stay float32
        self.pool_size = arguments.tuple_of("pool_size", pool_size, 2)
        self.bounding_box_format = regions.box_format(bounding_box_format)
        self.spatial_scale = regions.spatial_scale(spatial_scale, self.bounding_box_format)
        self.data_format = arguments.data_format(data_format)

    def build(self, inputs_shape: Any, boxes_shape: Any) -> None:
        regions.check_shapes(self, inputs_shape, boxes_shape)

    def call(self, inputs: Any, boxes: Any) -> Any:
        regions.check_shapes(self, inputs.shape, boxes.shape)
        features = regions.channels_last(self, inputs)
        batch, height, width, channels = ops.shape(features)
        box, real = regions.corners(self, boxes, height, width)
        # Halves away from 0, as C rounds.
        box = ops.cast(ops.sign(box) * ops.floor(ops.abs(box) + 0.5), "int32")
        top, rows = _bins(box[..., 1], box[..., 3], self.pool_size[0], height)
        left, columns = _bins(box[..., 0], box[..., 2], self.pool_size[1], width)

        # The largest pixel of each bin is looked for first, in place; then one gather takes it,
        # whose gradient is one scatter. So the bins are all the memory that it takes.
        flat = ops.reshape(features, (batch * height * width, channels))
        values = ops.stop_gradient(flat)
        most = ops.max(columns, initial=1)

        def pixel(step: Any) -> Any:
            """A pixel of each bin; bins that have no more look at their last one again."""
            row = top + ops.minimum(step // most, ops.maximum(rows - 1, 0))
            column = left + ops.minimum(step % most, ops.maximum(columns - 1, 0))
            return ops.reshape(regions.pixels(row, column, height, width), (-1, 1))

        def compare(step: Any, largest: Any, where: Any) -> Any:
            here = pixel(step)
            value = ops.take(values, here[:, 0], axis=0)
            larger = (value > largest) | (value != value)  # NaN stays
            return step + 1, ops.where(larger, value, largest), ops.where(larger, here, where)

        where = pixel(ops.zeros((), "int32")) + ops.zeros((1, channels), "int32")
        state = (ops.ones((), "int32"), ops.take(values, where[:, 0], axis=0), where)
        steps = ops.max(rows, initial=0) * most
        _, _, where = ops.while_loop(lambda step, *_: step < steps, compare, state)
        where = where * channels + ops.arange(channels, dtype="int32")
        largest = ops.take(ops.reshape(flat, (-1,)), where)
        some = ((rows > 0) & real[..., None])[..., None] & (columns > 0)[..., None, :]
        largest = ops.where(ops.reshape(some, (-1, 1)), largest, 0)
        return regions.laid_out(self, largest, boxes)

    def compute_output_shape(self, inputs_shape: Any, boxes_shape: Any) -> tuple[int | None, ...]:
        return regions.pooled_shape(self, inputs_shape, boxes_shape)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "pool_size": self.pool_size,
            "spatial_scale": self.spatial_scale,
            "bounding_box_format": self.bounding_box_format,
            "data_format": self.data_format,
        }


def _bins(low: Any, high: Any, bins: int, length: Any) -> tuple[Any, Any]:
    """A first pixel of each bin along one axis, and how many it has on the map."""
    size = ops.maximum(high - low + 1, 1)[..., None]
    index = ops.arange(bins, dtype="int32")
    first = ops.clip(low[..., None] + index * size // bins, 0, length)
    last = ops.clip(low[..., None] - (-(index + 1) * size // bins), 0, length)
    return ops.minimum(first, length - 1), last - first
