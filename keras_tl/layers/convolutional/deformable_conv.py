"""Deformable convolution, versions 1 and 2."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops
from keras.src.backend.common.symbolic_scope import in_symbolic_scope  # nothing public tells it

from keras_tl.layers import arguments
from keras_tl.layers.convolutional.sampling import bilinear
from keras_tl.layers.windows import windows

__all__ = ["DeformableConv2D"]

Shape = tuple[int | None, ...]


@keras.saving.register_keras_serializable(package="keras_tl")
class DeformableConv2D(keras.layers.Conv2D):
    """2D convolution whose taps are moved by learned offsets, for each output pixel its own.

    `y(p) = bias + sum_k kernel_k * x(p + p_k + offset_k(p)) * modulation_k(p)`

    where `p_k` are the places of the taps of `keras.layers.Conv2D` and `x` is interpolated
    bilinearly, with zeros outside of the image. Version 1 (`modulated=False`, modulation 1) is
    equation 2 of [Dai et al., 2017](https://arxiv.org/abs/1703.06211), version 2
    (`modulated=True`) is equation 1 of [Zhu et al., 2018](https://arxiv.org/abs/1811.11168).

    With one input the offsets come from a convolution of the layer's own, `offset_conv`, which
    has the same kernel size, strides, padding and dilation. Its weights start at zero: version 1
    starts as `Conv2D`, version 2 as `Conv2D` with half the kernel, as its modulation is a sigmoid.
    Otherwise call it with the offsets, and with the modulation if it is modulated:
    `layer(images, offsets)`, `layer(images, offsets, modulation)`. The first call decides.

    TensorLayer's `DeformableConv2d` sampled three of the nine taps of a 3x3 kernel twice and three
    never, moved an image by other images' offsets, and clipped points to the image; it knew only
    `padding="same"`, no strides and no groups.

    Args:
        filters: int, the number of output channels.
        kernel_size: int or 2 ints.
        *args, **kwargs: the further arguments of `keras.layers.Conv2D`, in its order: `strides`,
            `padding`, `data_format`, `dilation_rate`, `groups`, `activation`, `use_bias`, ...
        modulated: bool, whether each tap has a factor too.
        offset_groups: int, into how many groups the input's channels fall, each with its own
            offsets. It must divide the number of channels.

    Inputs:
        images: `(batch, height, width, channels)`, or channels first.
        offsets: optional, `(batch, out_height, out_width, offset_groups * taps * 2)`, in pixels,
            in the order group, tap (row by row), (y, x), as in torchvision and in ONNX'
            `DeformConv`; channels first if the images are.
        modulation: with offsets if `modulated`, `(batch, out_height, out_width,
            offset_groups * taps)`: factors, no logits.

    Output shape:
        `(batch, out_height, out_width, filters)`, as that of `Conv2D`.

    Raises:
        ValueError: if an argument is wrong, or if offsets or modulation are missing or of a wrong
            shape.

    >>> import keras
    >>> from keras_tl.layers import DeformableConv2D
    >>> layer = DeformableConv2D(8, 3, padding="same", modulated=True)
    >>> tuple(layer(keras.ops.ones((2, 16, 16, 4))).shape)
    (2, 16, 16, 8)
    >>> layer.offset_conv.filters
    27
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        *args: Any,
        modulated: bool = False,
        offset_groups: int = 1,
        **kwargs: Any,
    ) -> None:
        # Inputs are cast in `call`, as half precision is too little for offsets.
        super().__init__(filters, kernel_size, *args, autocast=False, **kwargs)
        self.modulated = bool(modulated)
        self.offset_groups = arguments.integer("offset_groups", offset_groups)
        self.offset_conv: Any = None
        self._points = self.offset_groups * self.kernel_size[0] * self.kernel_size[1]

    def build(
        self,
        images_shape: Shape,
        offsets_shape: Shape | None = None,
        modulation_shape: Shape | None = None,
    ) -> None:
        axis = -1 if self.data_format == "channels_last" else 1
        channels = arguments.static(self, images_shape, axis, "channels")
        if channels % self.offset_groups:
            raise ValueError(
                "`offset_groups` must divide the number of channels. Received: "
                f"offset_groups={self.offset_groups}, input shape {tuple(images_shape)}"
            )
        if offsets_shape is None:
            self.offset_conv = keras.layers.Conv2D(
                self._points * (3 if self.modulated else 2),
                self.kernel_size,
                strides=self.strides,
                padding=self.padding,
                data_format="channels_last",
                dilation_rate=self.dilation_rate,
                kernel_initializer="zeros",
                dtype=self.dtype_policy,
                name="offset_conv",
            )
            self.offset_conv.build(self._last(images_shape))
        self._check_all(images_shape, offsets_shape, modulation_shape)
        super().build(images_shape)

    def _check_all(self, images: Shape, offsets: Shape | None, modulation: Shape | None) -> None:
        out = self._last(super().compute_output_shape(images))[:-1]
        self._check("offsets", offsets, (*out, 2 * self._points))
        self._check("modulation", modulation, (*out, self._points))

    def _check(self, name: str, shape: Shape | None, wanted: Shape) -> None:
        if shape is None:
            return
        pairs = zip(self._last(shape), wanted, strict=False)
        if len(shape) != 4 or any(None not in pair and pair[0] != pair[1] for pair in pairs):
            raise ValueError(
                f"`{name}` must have the shape {self._format(wanted)}. "
                f"Received: {name} of shape {tuple(shape)}"
            )

    def call(self, images: Any, offsets: Any = None, modulation: Any = None) -> Any:
        given = offsets is not None
        if given == (self.offset_conv is not None):
            raise ValueError(
                "`offsets` must be given in all calls or in none. Received: "
                f"offsets={offsets}, but the first call had {'none' if given else 'some'}"
            )
        if (modulation is not None) != (given and self.modulated):
            raise ValueError(
                "`modulation` must be given if, and only if, offsets are given and the layer is "
                f"modulated. Received: modulation={modulation} with modulated={self.modulated}"
            )
        # `build` may not have known the sizes; for None jax and torch get made-up ones at first.
        if given and not in_symbolic_scope():
            extra = None if modulation is None else tuple(modulation.shape)
            self._check_all(tuple(images.shape), tuple(offsets.shape), extra)
        images = ops.cast(images, self.compute_dtype)
        first = self.data_format == "channels_first"
        if first:
            images = ops.transpose(images, (0, 2, 3, 1))
        if not given:
            offsets = self.offset_conv(images)
            if self.modulated:
                modulation = ops.sigmoid(offsets[..., 2 * self._points :])
                offsets = offsets[..., : 2 * self._points]
        elif first:
            offsets = ops.transpose(offsets, (0, 2, 3, 1))
            if self.modulated:
                modulation = ops.transpose(modulation, (0, 2, 3, 1))
        outputs = self._product(self._samples(images, offsets, modulation), ops.shape(offsets))
        if self.use_bias:
            outputs = outputs + ops.cast(self.bias, self.compute_dtype)
        outputs = self.activation(outputs)
        return ops.transpose(outputs, (0, 3, 1, 2)) if first else outputs

    def _samples(self, images: Any, offsets: Any, modulation: Any) -> Any:
        """(batch, out_height * out_width, taps, channels)"""
        _, height, width, channels = ops.shape(images)
        groups, taps = self.offset_groups, self._points // self.offset_groups
        size = ops.shape(offsets)[1:3]
        y, x = (
            ops.cast(self._places(axis, size[axis], (height, width)[axis]), "float32")
            for axis in (0, 1)
        )
        y = ops.broadcast_to(y[:, None, :, None], (size[0], size[1], *self.kernel_size))
        x = ops.broadcast_to(x[None, :, None, :], (size[0], size[1], *self.kernel_size))
        moved = ops.reshape(offsets, (-1, size[0] * size[1], groups, taps, 2))
        moved = ops.cast(ops.transpose(moved, (0, 1, 3, 2, 4)), "float32")
        moved = ops.reshape(moved, (-1, size[0] * size[1] * taps, groups, 2))
        samples = bilinear(
            ops.reshape(images, (-1, height, width, groups, channels // groups)),
            ops.reshape(y, (-1, 1)) + moved[..., 0],
            ops.reshape(x, (-1, 1)) + moved[..., 1],
        )
        if modulation is not None:
            factor = ops.cast(modulation, self.compute_dtype)
            factor = ops.reshape(factor, (-1, size[0] * size[1], groups, taps))
            factor = ops.transpose(factor, (0, 1, 3, 2))
            factor = ops.reshape(factor, (-1, size[0] * size[1] * taps, groups, 1))
            samples = samples * factor
        return ops.reshape(samples, (-1, size[0] * size[1], taps, channels))

    def _places(self, axis: int, outputs: Any, inputs: Any) -> Any:
        """int32 (outputs, taps): where the taps of one axis are without offsets, in pixels."""
        stride, rate = self.strides[axis], self.dilation_rate[axis]
        size = self.kernel_size[axis]
        _, before, _ = windows(inputs, (size - 1) * rate + 1, stride, self.padding)
        start = ops.arange(outputs, dtype="int32") * stride - before
        return start[:, None] + ops.arange(size, dtype="int32") * rate

    def _product(self, samples: Any, shape: Any) -> Any:
        """The samples with the kernel, as images."""
        taps, channels = samples.shape[2:]
        kernel, groups = ops.cast(self.kernel, self.compute_dtype), self.groups
        if groups == 1:
            samples = ops.reshape(samples, (-1, taps * channels))
            outputs = ops.matmul(samples, ops.reshape(kernel, (taps * channels, self.filters)))
            return ops.reshape(outputs, (-1, *shape[1:3], self.filters))
        samples = ops.reshape(samples, (-1, *shape[1:3], taps, groups, channels // groups))
        kernel = ops.reshape(kernel, (taps, channels // groups, groups, self.filters // groups))
        outputs = ops.einsum("bhwkgc,kcgf->bhwgf", samples, kernel)
        return ops.reshape(outputs, (-1, *shape[1:3], self.filters))

    def compute_output_shape(
        self,
        images_shape: Shape,
        offsets_shape: Shape | None = None,
        modulation_shape: Shape | None = None,
    ) -> Shape:
        shape = super().compute_output_shape(images_shape)
        if offsets_shape is None:
            return shape
        pairs = list(zip(self._last(shape)[:-1], self._last(offsets_shape), strict=False))
        known = tuple(n if m is None else m for m, n in pairs)
        return self._format((*known, self.filters))

    def _last(self, shape: Shape) -> Shape:
        """A shape of images with its channels last."""
        if self.data_format == "channels_last":
            return tuple(shape)
        return (shape[0], *shape[2:], shape[1])

    def _format(self, shape: Shape) -> Shape:
        """A shape with its channels last, as the layer's user gives it."""
        if self.data_format == "channels_last":
            return shape
        return (shape[0], shape[-1], *shape[1:-1])

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "modulated": self.modulated,
            "offset_groups": self.offset_groups,
        }
