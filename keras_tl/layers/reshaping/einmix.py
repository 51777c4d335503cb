"""`EinMix`: a linear layer in the notation of einops."""

from __future__ import annotations

import math
import string
from typing import Any

import keras
from keras import ops

from keras_tl.layers.reshaping import notation

__all__ = ["EinMix"]


@keras.saving.register_keras_serializable(package="keras_tl")
class EinMix(keras.layers.Layer):
    """A linear layer over any axes, which are named as in einops.

    The input is multiplied with a kernel and summed over the axes that the output has not, as by
    `einsum`; axes are split before and joined after, as by `Rearrange`. It is einops' `EinMix`
    (https://openreview.net/forum?id=oapKSVM2bcj) under Keras' names for the rest, and runs on every
    backend.

    Args:
        pattern: `input -> output`, as for `Rearrange`. Axes of the output come from the input or
            from the kernel.
        weight_shape: axes of the kernel, as `"c_in c_out"`.
        bias_shape: axes of the bias, some of the output's, or None for no bias.
        activation: as for `keras.layers.Dense`.
        kernel_initializer: None for einops' own, uniform within sqrt(3 / n), n being the number of
            inputs that are summed to an output.
        bias_initializer: None for einops' own, uniform within sqrt(1 / n).
        kernel_regularizer, bias_regularizer, kernel_constraint, bias_constraint: as for `Dense`.
        **kwargs: lengths of axes by name, at least those of the kernel and the bias; and, as for
            every layer, `name` and `dtype`.

    Input shape: that of the pattern's left side. A length that is not given may be unknown.

    Output shape: that of the pattern's right side.

    Raises:
        ValueError: if patterns do not fit each other, a length is missing, or the input does not
            fit.

    Example:

    >>> import numpy as np
    >>> from keras_tl.layers import EinMix
    >>> heads = EinMix("b t (h c) -> b h t d", "h c d", "h d", h=2, c=3, d=5)
    >>> tuple(heads(np.zeros((4, 7, 6), "float32")).shape)
    (4, 2, 7, 5)
    """

    def __init__(
        self,
        pattern: str,
        weight_shape: str,
        bias_shape: str | None = None,
        activation: Any = None,
        kernel_initializer: Any = None,
        bias_initializer: Any = None,
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        axes_lengths, kwargs = notation.split_kwargs(type(self), pattern, kwargs)
        super().__init__(**kwargs)
        self.pattern = pattern
        self.weight_shape = weight_shape
        self.bias_shape = bias_shape
        self.activation = keras.activations.get(activation)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self.axes_lengths = axes_lengths
        self._kernel_axes = self._names("weight_shape", weight_shape)
        self._bias_axes = self._names("bias_shape", bias_shape or "")
        self._parsed = notation.Pattern.of(pattern, axes_lengths, self._kernel_axes)
        left, right = (notation.names_of(side) for side in (self._parsed.left, self._parsed.right))
        kernel = set(self._kernel_axes)
        for what, wrong in (
            (
                "`pattern` must have axes of the input or the kernel as output",
                right - left - kernel,
            ),
            ("`weight_shape` must have axes of the pattern", kernel - left - right),
            ("`bias_shape` must have axes of the output", set(self._bias_axes) - right),
            (
                "`weight_shape` and `bias_shape` must have axes of given length",
                (kernel | set(self._bias_axes)) - set(axes_lengths),
            ),
        ):
            if wrong:
                raise ValueError(
                    f"{what}. Received: pattern={pattern!r}, weight_shape={weight_shape!r}, "
                    f"bias_shape={bias_shape!r}, lengths of {sorted(axes_lengths)}, and so not "
                    f"{sorted(wrong)}"
                )

    def _names(self, name: str, value: Any) -> list[str]:
        axes = value.split() if isinstance(value, str) else [""]
        if not all(axis.isidentifier() for axis in axes) or len(set(axes)) != len(axes):
            raise ValueError(
                f"`{name}` must be different names of axes. Received: {name}={value!r}"
            )
        return axes

    def build(self, input_shape: Any) -> None:
        self._parsed.expanded(len(input_shape)).sizes(input_shape)  # refuses what does not fit
        right = notation.names_of(self._parsed.right)
        lengths = self._parsed.lengths
        summed = math.prod(lengths[axis] for axis in self._kernel_axes if axis not in right)
        self.kernel = self.add_weight(
            shape=[lengths[axis] for axis in self._kernel_axes],
            initializer=self.kernel_initializer or _uniform(3 / summed),
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
            name="kernel",
        )
        self.bias = None
        if self.bias_shape is not None:
            self.bias = self.add_weight(
                shape=[lengths[axis] for axis in self._bias_axes],
                initializer=self.bias_initializer or _uniform(1 / summed),
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
                name="bias",
            )

    def call(self, inputs: Any) -> Any:
        pattern = self._parsed.expanded(len(inputs.shape))
        x = notation.probed(pattern, inputs)
        sizes = {**pattern.sizes(x.shape, ops.shape(x)), **pattern.lengths}
        left, right = notation.flat(pattern.left), notation.flat(pattern.right)
        if any(len(group) != 1 for group in pattern.left):
            x = notation.reshape(x, [sizes[axis] for axis in left])
        letters = dict(zip(dict.fromkeys(left + right), string.ascii_letters, strict=False))
        equation, kernel, out = (
            "".join(letters[axis] for axis in axes) for axes in (left, self._kernel_axes, right)
        )
        x = ops.einsum(f"{equation},{kernel}->{out}", x, self.kernel)
        if self.bias is not None:
            order = [axis for axis in right if axis in self._bias_axes]
            bias = ops.transpose(self.bias, [self._bias_axes.index(axis) for axis in order])
            shape = [sizes[axis] if axis in self._bias_axes else 1 for axis in right]
            x = x + ops.reshape(bias, shape)
        if any(len(group) != 1 for group in pattern.right):
            x = notation.reshape(x, notation.grouped(pattern.right, sizes))
        return self.activation(x)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        pattern = self._parsed.expanded(len(input_shape))
        sizes = {**pattern.sizes(input_shape), **pattern.lengths}
        return tuple(notation.grouped(pattern.right, sizes))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "pattern": self.pattern,
            "weight_shape": self.weight_shape,
            "bias_shape": self.bias_shape,
            "activation": keras.activations.serialize(self.activation),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
            "bias_constraint": keras.constraints.serialize(self.bias_constraint),
            **self.axes_lengths,
        }


def _uniform(square: float) -> keras.initializers.Initializer:
    limit = math.sqrt(square)
    return keras.initializers.RandomUniform(-limit, limit)
