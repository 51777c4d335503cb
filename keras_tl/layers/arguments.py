"""What the layers check about their arguments, so that they all say it in one way."""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable, Collection, Sequence
from typing import Any

import keras

__all__ = [
    "choice",
    "data_format",
    "fraction",
    "function",
    "integer",
    "number",
    "static",
    "tuple_of",
]


def integer(name: str, value: Any, minimum: int = 1) -> int:
    """`value` as an int of at least `minimum`; bools and floats are refused."""
    try:
        found = operator.index(value)
    except TypeError:
        found = None
    if found is None or isinstance(value, bool) or found < minimum:
        raise ValueError(
            f"`{name}` must be an integer of at least {minimum}. Received: {name}={value!r}"
        )
    return found


def number(name: str, value: Any, minimum: float = -math.inf, *, exclusive: bool = False) -> float:
    """`value` as a finite float of at least `minimum` (above it, if `exclusive`)."""
    real = isinstance(value, int | float) and not isinstance(value, bool)
    if not real or not math.isfinite(value) or value < minimum or (exclusive and value == minimum):
        least = f" {'above' if exclusive else 'of at least'} {minimum}"
        rule = "a finite number" + ("" if minimum == -math.inf else least)
        raise ValueError(f"`{name}` must be {rule}. Received: {name}={value!r}")
    return float(value)


def fraction(name: str, value: Any) -> float:
    """`value` as a float of 0 <= value < 1, as a rate of what is dropped."""
    real = isinstance(value, int | float) and not isinstance(value, bool)
    if not real or not 0 <= value < 1:
        raise ValueError(f"`{name}` must be a number in [0, 1). Received: {name}={value!r}")
    return float(value)


def tuple_of(name: str, value: Any, n: int, minimum: int = 1) -> tuple[int, ...]:
    """`value` as n integers of at least `minimum`: a single one stands for all."""
    values = (value,) * n if not isinstance(value, Sequence) else tuple(value)
    try:
        if len(values) != n:
            raise ValueError
        return tuple(integer(name, item, minimum) for item in values)
    except ValueError:
        raise ValueError(
            f"`{name}` must be an integer or {n} integers of at least {minimum}. "
            f"Received: {name}={value!r}"
        ) from None


def choice(name: str, value: Any, among: Collection[str]) -> str:
    """`value`, if it is one of the names."""
    if not isinstance(value, str) or value not in among:
        names = ", ".join(map(repr, among))
        raise ValueError(f"`{name}` must be one of {names}. Received: {name}={value!r}")
    return value


def function(name: str, value: Any) -> Callable[..., Any]:
    """`value`, if a saved layer finds it again: it is registered, or one of Keras' activations."""
    known = inspect.isfunction(value) and (
        keras.saving.get_registered_object(keras.saving.get_registered_name(value)) is value
        or getattr(keras.activations, value.__name__, None) is value
    )
    if not known:
        raise ValueError(
            f"`{name}` must be a function under `@keras.saving.register_keras_serializable()`, or "
            f"else a saved model could not find it. Received: {name}={value!r}"
        )
    return value


def data_format(value: Any) -> str:
    """`value`, or Keras' own setting for None."""
    if value is None:
        return keras.config.image_data_format()
    return choice("data_format", value, ("channels_last", "channels_first"))


def static(layer: keras.layers.Layer, shape: Sequence[int | None], axis: int, what: str) -> int:
    """The length of an axis that must be known when the layer is built."""
    length = shape[axis]
    if length is None:
        raise ValueError(
            f"`{type(layer).__name__}` must know the {what} (axis {axis}) of its input when it is "
            f"built. Received: input shape {tuple(shape)}"
        )
    return int(length)
