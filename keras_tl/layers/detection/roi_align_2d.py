from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
from keras import ops

from keras_tl.layers import arguments
from keras_tl.layers.detection import regions


@keras.saving.register_keras_serializable(package="keras_tl")
class ROIAlign2D(keras.layers.Layer):
    """Averages each of a grid of bins in every region of a feature map, without rounding.

    A region is divided into `pool_size` bins. In each bin the feature map is interpolated
    bilinearly at `sampling_ratio` x `sampling_ratio` regular points; the bin is their mean.
    Points up to one pixel off the map take the value of its edge, points beyond are 0.

    Source: He et al., "Mask R-CNN", arXiv:1703.06870, section 3. TensorLayer has no such layer.

    Args:
        pool_size: Bins a region: an integer, or two (height, width).
        sampling_ratio: Points a bin along each axis. 0 takes as many as the bin has pixels,
            rounded up, which differs from region to region; it costs more.
        spatial_scale: Pixels of the feature map for one pixel of the image in which the boxes are
            measured, such as 1 / 16.
        aligned: Whether the centre of the first pixel lies at 0.5, as in images. If not, it lies
            at 0, and regions are at least 1 x 1 pixels, as in the first implementations.
        bounding_box_format: A format of `keras.utils.bounding_boxes`. The relative ones
            (`"rel_..."`) are fractions of the feature map.
        data_format: `"channels_last"` or `"channels_first"`; Keras' setting if None.

    Call arguments:
        inputs: Feature maps, `(batch, height, width, channels)`, or with channels first.
        boxes: `(batch, boxes, 4)`: the same number of boxes for each image. A box that is -1 in
            all four places is padding and gives zeros. The boxes get no gradient, as in the
            authors' implementation.

    Output shape:
        `(batch, boxes, *pool_size, channels)`, or `(batch, boxes, channels, *pool_size)`.

    Raises:
        ValueError: If an argument is not as described.

    Example:

    >>> import keras, numpy as np
    >>> from keras_tl.layers import ROIAlign2D
    >>> image = np.arange(16, dtype="float32").reshape(1, 4, 4, 1)
    >>> boxes = np.array([[[0, 0, 4, 4]]], "float32")  # left, top, right, bottom
    >>> bins = ROIAlign2D(pool_size=2)(image, boxes)
    >>> print(keras.ops.convert_to_numpy(bins)[0, 0, :, :, 0])
    [[ 2.5  4.5]
     [10.5 12.5]]
    """

    def __init__(
        self,
        pool_size: int | Sequence[int] = (7, 7),
        sampling_ratio: int = 2,
        spatial_scale: float = 1.0,
        aligned: bool = True,
        bounding_box_format: str = "xyxy",
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)  # boxes stay float32
        self.pool_size = arguments.tuple_of("pool_size", pool_size, 2)
        self.sampling_ratio = arguments.integer("sampling_ratio", sampling_ratio, 0)
        self.aligned = bool(aligned)
        self.bounding_box_format = regions.box_format(bounding_box_format)
        self.spatial_scale = regions.spatial_scale(spatial_scale, self.bounding_box_format)
        self.data_format = arguments.data_format(data_format)

    def build(self, inputs_shape: Any, boxes_shape: Any) -> None:
        regions.check_shapes(self, inputs_shape, boxes_shape)

    def call(self, inputs: Any, boxes: Any) -> Any:
        regions.check_shapes(self, inputs.shape, boxes.shape)
        features = regions.channels_last(self, inputs)
        _, height, width, _ = ops.shape(features)
        box, real = regions.corners(self, boxes, height, width)
        start, size = box[..., :2], box[..., 2:] - box[..., :2]
        if self.aligned:
            start = start - 0.5
        else:
            size = ops.maximum(size, 1.0)
        rows, columns = (
            _Points(start[..., i], size[..., i], bins, length, self.sampling_ratio)
            for i, bins, length in ((1, self.pool_size[0], height), (0, self.pool_size[1], width))
        )
        real = ops.cast(real, "float32")[..., None, None]

        def corners_of(step: Any) -> Iterator[tuple[Any, Any]]:
            """Pixels and weights of the points of one step in all bins, corner by corner."""
            for row, row_weight in rows.neighbours(step // columns.steps):
                for column, column_weight in columns.neighbours(step % columns.steps):
                    pixel = regions.pixels(row, column, height, width)
                    weight = row_weight[..., None] * column_weight[..., None, :] * real
                    yield ops.reshape(pixel, (-1,)), ops.reshape(weight, (-1, 1))

        steps = rows.steps * columns.steps
        return regions.laid_out(self, _weighted_sum(features, corners_of, steps), boxes)

    def compute_output_shape(self, inputs_shape: Any, boxes_shape: Any) -> tuple[int | None, ...]:
        return regions.pooled_shape(self, inputs_shape, boxes_shape)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "pool_size": self.pool_size,
            "sampling_ratio": self.sampling_ratio,
            "spatial_scale": self.spatial_scale,
            "aligned": self.aligned,
            "bounding_box_format": self.bounding_box_format,
            "data_format": self.data_format,
        }


class _Points:
    """The points of all bins along one axis; `steps` is how many of a bin there are at most."""

    def __init__(self, start: Any, size: Any, bins: int, length: Any, ratio: int) -> None:
        size = (size / bins)[..., None]
        self.begin = start[..., None] + ops.arange(bins, dtype="float32") * size
        self.length = ops.cast(length, "float32")
        if ratio:
            self.steps, self.first, self.count = ratio, 0.0, float(ratio)
            self.spacing = size / self.count
            return
        self.count = ops.maximum(ops.ceil(size), 0.0)
        self.spacing = ops.where(self.count > 0.0, size / ops.maximum(self.count, 1.0), 1.0)
        # Points off the map add nothing and are passed over: a region of any size ends soon.
        before = ops.ceil((-1.0 - self.begin) / self.spacing - 0.5)
        until = ops.floor((self.length - self.begin) / self.spacing + 0.5)
        self.first = ops.clip(before, 0.0, self.count)
        inside = ops.clip(until, 0.0, self.count) - self.first
        self.steps = ops.cast(ops.max(inside, initial=1.0), "int32")

    def neighbours(self, step: Any) -> list[tuple[Any, Any]]:
        """The two pixels around a point of each bin, and their shares of the bin's mean."""
        point = self.first + ops.cast(step, "float32")
        place = self.begin + (point + 0.5) * self.spacing
        counts = (place >= -1.0) & (place <= self.length) & (point < self.count)
        share = ops.cast(counts, "float32") / ops.maximum(self.count, 1.0)
        place = ops.clip(place, 0.0, self.length - 1.0)
        low = ops.floor(place)
        high = ops.minimum(low + 1.0, self.length - 1.0)
        return [
            (ops.cast(low, "int32"), (1.0 - (place - low)) * share),
            (ops.cast(high, "int32"), (place - low) * share),
        ]


def _weighted_sum(features: Any, corners_of: Any, steps: Any) -> Any:
    """The sum over all steps and corners of weight * pixel, for each bin.

    The gradient of a gather is a scatter that makes a copy of the bins for each point; this one
    adds up point by point in place (jax on a CPU: 3-10 times faster, a sixth of the memory).
    """
    shape = ops.shape(features)
    pixels = shape[0] * shape[1] * shape[2]
    sums = keras.backend.result_type(features.dtype, "float32")

    @ops.custom_gradient
    def weighted_sum(features: Any) -> Any:
        flat = ops.reshape(features, (pixels, shape[3]))

        def points(step: Any) -> Any:
            return sum(
                ops.cast(ops.take(flat, pixel, axis=0), sums) * ops.cast(weight, sums)
                for pixel, weight in corners_of(step)
            )

        def grad(*args: Any, upstream: Any = None) -> Any:
            upstream = args[0] if upstream is None else upstream

            def add(step: Any, total: Any) -> Any:
                for pixel, weight in corners_of(step):
                    shares = upstream * ops.cast(weight, sums)
                    total = ops.scatter_update(total, pixel[:, None], shares, reduction="add")
                return total

            total = _loop(steps, add, ops.zeros((pixels, shape[3]), sums))
            return ops.cast(ops.reshape(total, shape), features.dtype)

        if isinstance(steps, int):
            # Written out: the compiler reads the pixels and writes the bins once.
            return sum(points(step) for step in range(steps)), grad
        bins = points(ops.zeros((), "int32"))
        return _loop(steps, lambda step, bins: bins + points(step), bins, first=1), grad

    return weighted_sum(features)


def _loop(steps: Any, body: Any, state: Any, first: int = 0) -> Any:
    """`ops.fori_loop`, which on torch takes no tensor as its end."""
    _, state = ops.while_loop(
        lambda step, _: step < steps,
        lambda step, state: (step + 1, body(step, state)),
        (ops.full((), first, "int32"), state),
    )
    return state
