"""Padding in other ways than with zeros, of any axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_tl.layers import arguments

__all__ = ["Padding"]

_MODES = ("constant", "edge", "reflect", "symmetric")


@keras.saving.register_keras_serializable(package="keras_tl")
class Padding(keras.layers.Layer):
    """Pads any axis but that of the batch, in the modes of `numpy.pad`.

    Keras' layers pad with zeros only, and `keras.ops.pad` in mode `"symmetric"` repeats the edge on
    torch; this layer is equal on every backend.

    Args:
        padding: for each axis after the batch, how much to add: (before, after), or an integer for
            both. For images: `((2, 2), (2, 2), 0)`.
        mode: `"constant"`; `"edge"`, which repeats the first and last value; `"reflect"`, which
            mirrors without them; `"symmetric"`, which mirrors with them.
        value: what `"constant"` pads with: a number, which may be infinite; a whole one for inputs
            of integers.
        **kwargs: as for every layer, `name` and `dtype`.

    Input shape: (batch, ...). A padded axis must be longer than what `"reflect"` adds on a side,
    and as long as what `"symmetric"` adds.

    Output shape: the same, each axis longer by its padding.

    Raises:
        ValueError: if `padding` does not have an entry for each axis, an axis is too short, or
            `value` is none that the inputs can have.

    Example:

    >>> import keras, numpy as np
    >>> from keras_tl.layers import Padding
    >>> x = np.array([[[1.0], [2.0], [3.0]]], "float32")
    >>> layer = Padding(((2, 1), 0), mode="reflect")
    >>> keras.ops.convert_to_numpy(layer(x)).ravel().tolist()
    [3.0, 2.0, 1.0, 2.0, 3.0, 2.0]
    """

    def __init__(
        self,
        padding: Sequence[int | Sequence[int]],
        mode: str = "constant",
        value: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(padding, Sequence) or isinstance(padding, str):
            raise ValueError(
                "`padding` must have an integer or (before, after) for each axis after the batch. "
                f"Received: padding={padding!r}"
            )
        self.padding = tuple(arguments.tuple_of("padding", p, 2, 0) for p in padding)
        self.mode = arguments.choice("mode", mode, _MODES)
        infinite = isinstance(value, float) and math.isinf(value)
        self.value = value if infinite else arguments.number("value", value)
        self.supports_masking = not (self.padding and any(self.padding[0]))  # else it would not fit

    def _check(self, shape: Any) -> None:
        if len(shape) != len(self.padding) + 1:
            raise ValueError(
                "`padding` must have an entry for each axis after the batch. "
                f"Received: padding={self.padding}, input shape {tuple(shape)}"
            )
        least = {"constant": 0, "edge": 1, "reflect": 1, "symmetric": 0}[self.mode]
        most = self.mode in ("reflect", "symmetric")
        for length, sides in zip(shape[1:], self.padding, strict=True):
            if isinstance(length, int) and any(sides) and length < least + most * max(sides):
                raise ValueError(
                    f"`padding` must be less than the length of an axis in mode {self.mode!r}. "
                    f"Received: padding={self.padding}, input shape {tuple(shape)}"
                )

    def _check_value(self, dtype: Any) -> None:
        whole = self.value.is_integer() or self.mode != "constant"
        if not whole and not keras.backend.is_float_dtype(dtype):
            raise ValueError(
                "`value` must be a whole number to pad integers with. "
                f"Received: value={self.value}, inputs of {keras.backend.standardize_dtype(dtype)}"
            )

    def build(self, input_shape: Any) -> None:
        self._check(input_shape)

    def call(self, inputs: Any) -> Any:
        self._check(inputs.shape)
        self._check_value(inputs.dtype)
        if self.mode == "constant":
            floats = keras.backend.is_float_dtype(inputs.dtype)
            value = self.value if floats else int(self.value)
            return ops.pad(inputs, [[0, 0], *self.padding], constant_values=value)
        x = inputs
        for axis, sides in enumerate(self.padding, start=1):
            if any(sides):
                x = ops.concatenate(self._parts(x, axis, *sides), axis=axis)
        return x

    def _parts(self, x: Any, axis: int, before: int, after: int) -> list[Any]:
        def cut(start: int | None, stop: int | None) -> Any:
            return x[(slice(None),) * axis + (slice(start, stop),)]

        if self.mode == "edge":
            first, last = [cut(None, 1)] * before, [cut(-1, None)] * after
            return [*first, x, *last]
        skip = 1 if self.mode == "reflect" else 0
        parts = [x]
        if before:
            parts.insert(0, ops.flip(cut(skip, before + skip), axis=axis))
        if after:
            parts.append(ops.flip(cut(-after - skip, -skip or None), axis=axis))
        return parts

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        self._check(input_shape)
        batch, *lengths = input_shape
        padded = [
            None if n is None else n + sum(sides)
            for n, sides in zip(lengths, self.padding, strict=True)
        ]
        return (batch, *padded)

    def compute_output_spec(self, inputs: Any) -> Any:
        self._check_value(inputs.dtype)
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), inputs.dtype)

    def get_config(self) -> dict[str, Any]:
        padding = [list(sides) for sides in self.padding]
        return {**super().get_config(), "padding": padding, "mode": self.mode, "value": self.value}
