"""`Rearrange` and `Reduce`: einops' operations as layers."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_tl.layers import arguments
from keras_tl.layers.reshaping import notation

__all__ = ["Rearrange", "Reduce"]

_REDUCTIONS = ("max", "mean", "min", "prod", "sum")


class _Pattern(keras.layers.Layer):
    """A layer of a pattern and of the lengths of its axes."""

    def __init__(self, pattern: str, **kwargs: Any) -> None:
        axes_lengths, kwargs = notation.split_kwargs(type(self), pattern, kwargs)
        super().__init__(**kwargs)
        self.pattern = pattern
        self.axes_lengths = axes_lengths
        self._parsed = notation.Pattern.of(pattern, axes_lengths)
        self._check(notation.names_of(self._parsed.left), notation.names_of(self._parsed.right))

    def _check(self, left: set[str], right: set[str]) -> None:
        raise NotImplementedError

    def _reduce(self, x: Any, axes: list[int]) -> Any:
        raise NotImplementedError

    def call(self, inputs: Any) -> Any:
        pattern = self._parsed.expanded(len(inputs.shape))
        x = notation.probed(pattern, inputs)
        sizes = pattern.sizes(x.shape, ops.shape(x))
        axes = notation.flat(pattern.left)
        if any(len(group) != 1 for group in pattern.left):
            x = notation.reshape(x, [sizes[axis] for axis in axes])
        order = notation.flat(pattern.right)
        if gone := [i for i, axis in enumerate(axes) if axis not in order]:
            x = self._reduce(x, gone)
            axes = [axis for axis in axes if axis in order]
        if axes != order:
            x = ops.transpose(x, [axes.index(axis) for axis in order])
        if any(len(group) != 1 for group in pattern.right):
            x = notation.reshape(x, notation.grouped(pattern.right, sizes))
        return x

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        pattern = self._parsed.expanded(len(input_shape))
        return tuple(notation.grouped(pattern.right, pattern.sizes(input_shape)))

    def compute_output_spec(self, inputs: Any) -> Any:
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), inputs.dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "pattern": self.pattern, **self.axes_lengths}


@keras.saving.register_keras_serializable(package="keras_tl")
class Rearrange(_Pattern):
    """Reorders, joins and splits axes, as `einops.rearrange` does.

    It works where `keras.ops.rearrange` does not: with unknown lengths on JAX. The pattern names
    every axis, that of the batch too (https://openreview.net/forum?id=oapKSVM2bcj).

    Args:
        pattern: as for einops: `"b (h w) c -> b h w c"`, with `...` for any number of axes and `1`
            for axes of length 1. Both sides have the same axes.
        **kwargs: lengths of axes by name, where the input does not say them; and, as for every
            layer, `name` and `dtype`.

    Input shape: that of the left side. Any length may be unknown.

    Output shape: that of the right side.

    Raises:
        ValueError: if the pattern is none, or the input does not fit it.

    Example:

    >>> import numpy as np
    >>> from keras_tl.layers import Rearrange
    >>> patches = Rearrange("b (h p) (w q) c -> b (h w) (p q c)", p=4, q=4)
    >>> tuple(patches(np.zeros((2, 8, 12, 3), "float32")).shape)
    (2, 6, 48)
    """

    def _check(self, left: set[str], right: set[str]) -> None:
        if left != right:
            raise ValueError(
                "`pattern` must have the same axes on both sides. "
                f"Received: pattern={self.pattern!r}"
            )


@keras.saving.register_keras_serializable(package="keras_tl")
class Reduce(_Pattern):
    """Reduces over the axes that the right side of a pattern leaves out, as `einops.reduce` does.

    Args:
        pattern: as for `Rearrange`; the right side may have fewer axes, and the left may have
            numbers: `"b (h 2) (w 2) c -> b h w c"` with `"max"` is max pooling.
        reduction: `"max"`, `"mean"`, `"min"`, `"prod"` or `"sum"`. Of half precision, `"mean"`,
            `"prod"` and `"sum"` are computed in float32.
        **kwargs: lengths of axes by name, where the input does not say them; and, as for every
            layer, `name` and `dtype`.

    Input shape: that of the left side. Any length may be unknown.

    Output shape: that of the right side. The dtype is that of the input.

    Raises:
        ValueError: if the pattern or the reduction is none, or the input does not fit.

    Example:

    >>> import keras, numpy as np
    >>> from keras_tl.layers import Reduce
    >>> x = np.arange(8.0, dtype="float32").reshape(1, 4, 2)
    >>> keras.ops.convert_to_numpy(Reduce("b (t 2) c -> b t c", "max")(x)).tolist()
    [[[2.0, 3.0], [6.0, 7.0]]]
    """

    def __init__(self, pattern: str, reduction: str, **kwargs: Any) -> None:
        super().__init__(pattern, **kwargs)
        self.reduction = arguments.choice("reduction", reduction, _REDUCTIONS)

    def _check(self, left: set[str], right: set[str]) -> None:
        if right - left:
            raise ValueError(
                "`pattern` must have no axis on its right that its left has not. "
                f"Received: pattern={self.pattern!r}"
            )

    def _reduce(self, x: Any, axes: list[int]) -> Any:
        dtype = keras.backend.standardize_dtype(x.dtype)
        if self.reduction not in ("max", "min") and dtype in ("float16", "bfloat16"):
            x = ops.cast(x, "float32")
        return ops.cast(getattr(ops, self.reduction)(x, axis=axes), dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "reduction": self.reduction}
