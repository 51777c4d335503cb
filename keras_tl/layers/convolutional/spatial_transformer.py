"""Spatial transformer with affine transforms."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops
from keras.src.backend.common.symbolic_scope import in_symbolic_scope  # nothing public tells it

from keras_tl.layers import arguments
from keras_tl.layers.convolutional.sampling import bilinear

__all__ = ["SpatialTransformer2D"]

Shape = tuple[int | None, ...]


@keras.saving.register_keras_serializable(package="keras_tl")
class SpatialTransformer2D(keras.layers.Layer):
    """Samples images at points that an affine transform of the output's grid gives.

    `(x_in, y_in) = theta (x_out, y_out, 1)`, with coordinates from -1 to 1 across the image, and
    bilinear interpolation: equations 1 and 5 of
    [Jaderberg et al., 2015](https://arxiv.org/abs/1506.02025).

    Without `use_head` the second input is `theta`. With it, the second input is a vector of
    features for each image, as a localisation network ends with, and the layer has its last step:
    `theta = identity + features W + b`, with weights that start at zero. The identity gives back
    the image bit by bit if the sizes agree. Coordinates are float32 whatever the policy is.

    TensorLayer's `SpatialTransformer2dAffine` had a tanh around its head, whose initial transform
    was therefore a zoom by 0.76, and lost the last row and column.

    Args:
        output_size: `(height, width)` of the output; default: those of the images.
        transforms: int, how many transforms each image has; they are an axis of the output. None:
            one, without an axis.
        use_head: bool, whether the second input is features (else `theta`).
        align_corners: bool, whether -1 and 1 are the centres of the outer pixels, or their outer
            edges, as in torch and in ONNX' `GridSample` by default.
        fill_mode: what is outside of the image: `"constant"` (zeros) or `"nearest"` (the nearest
            pixel; "border" in torch and ONNX).
        data_format: `"channels_last"` or `"channels_first"`; default: Keras' setting.
        kernel_regularizer, bias_regularizer: regularizers of the head, towards the identity.

    Inputs:
        images: `(batch, height, width, channels)`, or channels first.
        features: `(batch, features)`; or theta: `(batch, 2, 3)`, with `transforms`
            `(batch, transforms, 2, 3)`.

    Output shape:
        `(batch, height, width, channels)`, with `transforms`
        `(batch, transforms, height, width, channels)`; or channels first.

    Raises:
        ValueError: if an argument is wrong, or the second input is of a wrong shape, or of
            another batch size than the images.

    >>> import keras
    >>> from keras_tl.layers import SpatialTransformer2D
    >>> image = keras.ops.reshape(keras.ops.arange(6.0), (1, 2, 3, 1))
    >>> mirror = keras.ops.convert_to_tensor([[[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    >>> mirrored = SpatialTransformer2D(use_head=False)(image, mirror)
    >>> keras.ops.convert_to_numpy(mirrored)[0, :, :, 0].round().astype(int).tolist()
    [[2, 1, 0], [5, 4, 3]]
    >>> layer = SpatialTransformer2D((4, 4), transforms=2)
    >>> tuple(layer(image, keras.ops.ones((1, 8))).shape)
    (1, 2, 4, 4, 1)
    """

    def __init__(
        self,
        output_size: tuple[int, int] | None = None,
        transforms: int | None = None,
        use_head: bool = True,
        align_corners: bool = False,
        fill_mode: str = "constant",
        data_format: str | None = None,
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        # Inputs are cast in `call`, as half precision is too little for coordinates.
        super().__init__(autocast=False, **kwargs)
        self.output_size: tuple[int, ...] | None = None
        if output_size is not None:
            self.output_size = arguments.tuple_of("output_size", output_size, 2)
        self.transforms = None
        if transforms is not None:
            self.transforms = arguments.integer("transforms", transforms)
        self.use_head = bool(use_head)
        self.align_corners = bool(align_corners)
        self.fill_mode = arguments.choice("fill_mode", fill_mode, ("constant", "nearest"))
        self.data_format = arguments.data_format(data_format)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)

    def build(self, images_shape: Shape, transform_shape: Shape) -> None:
        arguments.static(self, images_shape, 3 if self._last else 1, "channels")
        self._check_batch(images_shape, transform_shape)
        if self.use_head:
            if len(transform_shape) != 2 or transform_shape[-1] is None:
                raise ValueError(
                    "features of `SpatialTransformer2D` must have the shape (batch, features), "
                    f"with the last axis known. Received: shape {tuple(transform_shape)}"
                )
            numbers = 6 * (self.transforms or 1)
            self.kernel = self.add_weight(
                name="kernel",
                shape=(transform_shape[-1], numbers),
                initializer="zeros",
                regularizer=self.kernel_regularizer,
            )
            self.bias = self.add_weight(
                name="bias",
                shape=(numbers,),
                initializer="zeros",
                regularizer=self.bias_regularizer,
            )
            return
        wanted = (2, 3) if self.transforms is None else (self.transforms, 2, 3)
        if tuple(transform_shape[1:]) != wanted:
            raise ValueError(
                f"theta of `SpatialTransformer2D` must have the shape {('batch', *wanted)}. "
                f"Received: shape {tuple(transform_shape)}"
            )

    def _check_batch(self, images_shape: Shape, transform_shape: Shape) -> None:
        sizes = images_shape[0], transform_shape[0]
        if None not in sizes and sizes[0] != sizes[1]:
            raise ValueError(
                "images and second input of `SpatialTransformer2D` must have one batch size. "
                f"Received: shapes {tuple(images_shape)} and {tuple(transform_shape)}"
            )

    @property
    def _last(self) -> bool:
        return self.data_format == "channels_last"

    def call(self, images: Any, transform: Any) -> Any:
        if not in_symbolic_scope():  # where jax and torch get made-up sizes for None
            self._check_batch(tuple(images.shape), tuple(transform.shape))
        images = ops.cast(images, self.compute_dtype)
        if not self._last:
            images = ops.transpose(images, (0, 2, 3, 1))
        _, height, width, channels = ops.shape(images)
        size = (height, width) if self.output_size is None else self.output_size
        y, x = self._points(self._moves(transform), (height, width), size)
        count = self.transforms or 1
        samples = bilinear(
            ops.expand_dims(images, 3),
            ops.reshape(y, (-1, count * size[0] * size[1], 1)),
            ops.reshape(x, (-1, count * size[0] * size[1], 1)),
            zeros=self.fill_mode == "constant",
        )
        axes = () if self.transforms is None else (count,)
        samples = ops.reshape(samples, (-1, *axes, *size, channels))
        return samples if self._last else ops.moveaxis(samples, -1, -3)

    def _moves(self, transform: Any) -> Any:
        """float32 (batch, transforms, 2, 3): theta less the identity."""
        transform = ops.cast(transform, "float32")
        if self.use_head:
            moves = ops.matmul(transform, ops.cast(self.kernel, "float32"))
            moves = moves + ops.cast(self.bias, "float32")
        else:
            moves = transform - ops.eye(2, 3, dtype="float32")
        return ops.reshape(moves, (-1, self.transforms or 1, 2, 3))

    def _points(self, moves: Any, sizes: Any, outputs: Any) -> list[Any]:
        """(batch, transforms, height, width): y and x of where the output's pixels are read."""
        axes = [self._axis(*lengths) for lengths in zip(sizes, outputs, strict=True)]
        y, x = axes[0][1][:, None], axes[1][1]
        points = []
        for i, (still, _, half) in enumerate(axes):
            # The way from the identity's point: if it is zero, the point is a whole number.
            a, b, c = (moves[:, :, 1 - i, j, None, None] for j in range(3))
            points.append((still[:, None] if i == 0 else still) + half * (a * x + b * y + c))
        return points

    def _axis(self, size: Any, output: Any) -> tuple[Any, Any, Any]:
        """Where the identity reads in pixels, the output's coordinates, and pixels in a unit."""
        place = ops.arange(output, dtype="float32")
        size, output = ops.cast(size, "float32"), ops.cast(output, "float32")
        if self.align_corners:
            gaps = ops.maximum(output - 1, 1.0)
            still = place + place * ((size - output) / gaps)
            still = ops.where(output > 1, still, (size - 1) / 2)  # a single pixel is the centre
            return still, (2 * place - (output - 1)) / gaps, (size - 1) / 2
        still = place + (2 * place + 1) * ((size - output) / (2 * output))
        return still, (2 * place + 1) / output - 1, size / 2

    def compute_output_shape(self, images_shape: Shape, transform_shape: Shape) -> Shape:
        axes = (1, 2) if self._last else (2, 3)
        size: Shape = self.output_size or tuple(images_shape[i] for i in axes)
        channels = images_shape[3 if self._last else 1]
        image = (*size, channels) if self._last else (channels, *size)
        several = () if self.transforms is None else (self.transforms,)
        return (images_shape[0], *several, *image)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "output_size": self.output_size,
            "transforms": self.transforms,
            "use_head": self.use_head,
            "align_corners": self.align_corners,
            "fill_mode": self.fill_mode,
            "data_format": self.data_format,
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
        }
