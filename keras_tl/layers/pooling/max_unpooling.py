"""The inverse of max pooling."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_tl.layers import arguments
from keras_tl.layers.windows import windows

__all__ = ["MaxUnpooling2D"]

Shape = tuple[int | None, ...]


@keras.saving.register_keras_serializable(package="keras_tl")
class MaxUnpooling2D(keras.layers.Layer):
    """Puts values where `MaxPooling2DWithArgmax` found its maxima, with zeros elsewhere.

    The arguments are those of the pooling layer. If windows overlap, several values can have one
    place: the last of them, row by row, is there, as in torch on a CPU, and it alone has the
    gradient. A place must be in the value's own window. From
    [Badrinarayanan et al., 2015](https://arxiv.org/abs/1511.00561) (SegNet), section 3.

    Args:
        pool_size: int or 2 ints, the window.
        strides: int or 2 ints; default: `pool_size`.
        padding: `"valid"` or `"same"`.
        output_size: `(height, width)` of the images that were pooled; needed where several sizes
            give the same pooled size. Default: `(pooled - 1) * stride + pool` for `"valid"`,
            `pooled * stride` for `"same"`.
        data_format: `"channels_last"` or `"channels_first"`; default: Keras' setting.

    Inputs:
        values: `(batch, pooled_height, pooled_width, channels)`, or channels first.
        places: int32, of the same shape: `row * width + column` in the output's plane.

    Output shape:
        `(batch, height, width, channels)`, or channels first.

    Raises:
        ValueError: if an argument is wrong, or images of `output_size` are not pooled to the size
            of the input.

    >>> import keras
    >>> from keras_tl.layers import MaxPooling2DWithArgmax, MaxUnpooling2D
    >>> image = keras.ops.reshape(keras.ops.arange(8.0), (1, 2, 4, 1))
    >>> again = MaxUnpooling2D(2)(*MaxPooling2DWithArgmax(2)(image))
    >>> keras.ops.convert_to_numpy(again)[0, :, :, 0].astype(int).tolist()
    [[0, 0, 0, 0], [0, 5, 0, 7]]
    """

    def __init__(
        self,
        pool_size: int | tuple[int, int] = (2, 2),
        strides: int | tuple[int, int] | None = None,
        padding: str = "valid",
        output_size: tuple[int, int] | None = None,
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.pool_size = arguments.tuple_of("pool_size", pool_size, 2)
        self.strides = self.pool_size
        if strides is not None:
            self.strides = arguments.tuple_of("strides", strides, 2)
        self.padding = arguments.choice("padding", padding, ("valid", "same"))
        self.output_size: tuple[int, ...] | None = None
        if output_size is not None:
            self.output_size = arguments.tuple_of("output_size", output_size, 2)
        self.data_format = arguments.data_format(data_format)
        self._axes = (1, 2) if self.data_format == "channels_last" else (2, 3)

    def build(self, values_shape: Shape, places_shape: Shape) -> None:
        if len(values_shape) != 4 or tuple(values_shape) != tuple(places_shape):
            raise ValueError(
                "values and places of `MaxUnpooling2D` must have the same shape, of rank 4. "
                f"Received: shapes {tuple(values_shape)} and {tuple(places_shape)}"
            )
        for i, size in enumerate(self.output_size or ()):
            pooled = values_shape[self._axes[i]]
            count, *_ = windows(size, self.pool_size[i], self.strides[i], self.padding)
            if pooled is not None and count != pooled:
                raise ValueError(
                    f"`output_size` must be pooled to the input's size. Received: output_size="
                    f"{self.output_size}, input shape {tuple(values_shape)}; {size} becomes {count}"
                )

    def _outputs(self, shape: Any) -> tuple[Any, ...]:
        """The height and width that are pooled to those of the shape."""
        if self.output_size is not None:
            return self.output_size
        pooled = [shape[axis] for axis in self._axes]
        beyond = [
            pool - stride if self.padding == "valid" else 0
            for pool, stride in zip(self.pool_size, self.strides, strict=True)
        ]
        return tuple(
            None if n is None else n * stride + more
            for n, stride, more in zip(pooled, self.strides, beyond, strict=True)
        )

    def call(self, values: Any, places: Any) -> Any:
        height, width = self._outputs(ops.shape(values))
        first = self.data_format == "channels_first"
        if first:
            values, places = (ops.transpose(v, (0, 2, 3, 1)) for v in (values, places))
        # The output as blocks of `strides` pixels. Each window reaches `reach` blocks an axis, so
        # each pixel is compared with that many windows: no scatter, which XLA does one by one.
        reach = [
            -(-pool // stride) for pool, stride in zip(self.pool_size, self.strides, strict=True)
        ]
        more = 0 if self.output_size is None else 1
        blocks = [n + r - 1 + more for n, r in zip(ops.shape(values)[1:3], reach, strict=True)]
        axes = zip((height, width), self.pool_size, self.strides, strict=True)
        top, left = (windows(*axis, self.padding)[1] for axis in axes)
        row, column = (
            ops.arange(n * stride, dtype="int32") - start
            for n, stride, start in zip(blocks, self.strides, (top, left), strict=True)
        )
        here = row[:, None, None] * width + column[:, None]
        outputs: Any = 0.0
        for i in reversed(range(reach[0])):
            for j in reversed(range(reach[1])):
                pads = [(0, 0), (i, reach[0] - 1 - i + more), (j, reach[1] - 1 - j + more), (0, 0)]
                value = self._pixels(ops.pad(values, pads))
                place = self._pixels(ops.pad(places, pads, constant_values=-1))
                outputs = ops.where(place == here, value, outputs)
        outputs = outputs[:, top : top + height, left : left + width]
        return ops.transpose(outputs, (0, 3, 1, 2)) if first else outputs

    def _pixels(self, blocks: Any) -> Any:
        """Each block as its pixels."""
        return ops.repeat(ops.repeat(blocks, self.strides[0], axis=1), self.strides[1], axis=2)

    def compute_output_shape(self, values_shape: Shape, places_shape: Shape) -> Shape:
        shape = list(values_shape)
        for axis, size in zip(self._axes, self._outputs(values_shape), strict=True):
            shape[axis] = size
        return tuple(shape)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "pool_size": self.pool_size,
            "strides": self.strides,
            "padding": self.padding,
            "output_size": self.output_size,
            "data_format": self.data_format,
        }
