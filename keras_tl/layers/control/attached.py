"""Variables that somebody sets or reads while `fit` is under way."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

__all__ = ["array_of", "assign", "in_range", "read"]


def assign(variables: Mapping[str, keras.Variable], values: Mapping[str, Any]) -> None:
    """Set variables by name, all of them or none; the next step is computed with them.

    Raises:
        ValueError: if there is no such name, or a value has another shape or kind.
        RuntimeError: see `_attach`.
    """
    new = []
    for name, value in values.items():
        if name not in variables:
            raise ValueError(
                f"`{name}` must be one of {', '.join(map(repr, variables))}. "
                f"Received: {name}={value!r}"
            )
        variable = variables[name]
        array = array_of(value if _plain(value) else keras.ops.convert_to_numpy(value))
        kind, wanted = array.dtype.kind, keras.backend.standardize_dtype(variable.dtype)
        fits = kind in ("b" if wanted == "bool" else "iu" if "int" in wanted else "fiu")
        if array.shape != tuple(variable.shape) or not fits:
            raise ValueError(
                f"`{name}` must be {wanted} of shape {tuple(variable.shape)}. "
                f"Received: {name}={value!r}"
            )
        if not in_range(array, wanted):
            raise ValueError(
                f"`{name}` must be integers that {wanted} has. Received: {name}={value!r}"
            )
        new.append((variable, array))
    _attach(variables.values())
    for variable, array in new:
        variable.assign(keras.ops.convert_to_tensor(array, variable.dtype))


def read(variables: Mapping[str, keras.Variable]) -> dict[str, np.ndarray]:
    """The values that the next step will be computed with."""
    _attach(variables.values())
    # A copy: on some backends this is the variable's own buffer.
    return {name: np.array(keras.ops.convert_to_numpy(v)) for name, v in variables.items()}


def array_of(value: Any) -> np.ndarray:
    """A value as an array: of objects, if it is a ragged list."""
    try:
        return np.asarray(value)
    except ValueError:
        return np.asarray(None)


def in_range(array: np.ndarray, dtype: str) -> bool:
    """Whether integers stay as they are in an integer type; any other type takes them."""
    if array.dtype.kind not in "iu" or "int" not in dtype or not array.size:
        return True
    limits = np.iinfo(dtype)
    return limits.min <= int(array.min()) and int(array.max()) <= limits.max


def _plain(value: Any) -> bool:
    return isinstance(value, bool | int | float | list | tuple | np.ndarray | np.generic)


def _attach(variables: Iterable[keras.Variable]) -> None:
    """Bring the values back which the JAX trainer takes out of the variables during an epoch.

    The trainer hands the values from step to step and overwrites the variables with them at the
    end. A callback that reads its own `model` makes it write them back at once and read them anew;
    one that holds the layer only is found here by the list of callbacks that is calling it.

    Raises:
        RuntimeError: if the values are in a step that is under way, as for another thread or for a
            generator that feeds `fit`.
    """
    if keras.backend.backend() != "jax":
        return
    frame = sys._getframe(1)
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, keras.callbacks.CallbackList):
            _ = caller.model  # Keras writes the values back when a callback reads this
        frame = frame.f_back  # type: ignore[assignment]
    # Private: the public `value` gives the initial one in place of one that is not there.
    if any(v._value is None for v in variables):
        raise RuntimeError(
            "On JAX the variables of a model that `fit` trains are out of reach, except from a "
            "callback. Set or read them there, for instance in "
            "`keras.callbacks.LambdaCallback(on_train_batch_begin=...)`."
        )
