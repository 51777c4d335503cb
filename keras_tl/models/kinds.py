"""Kinds of events: what `Run.histogram` and its like store, and kinds that users define."""

from __future__ import annotations

import numbers
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_tl.models.plain import plain

#: Kinds whose events only the logger and the methods of `Run` write.
LOGGER = ("batch", "epoch", "system")
BUILT_IN = ("histogram", "image", "text", "array", "confusion_matrix")
_EXACT = 1 << 53  # integers up to here are float64


def _float(value: Any) -> float:
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, (bool, str, bytes)) or np.ndim(value):
        raise TypeError
    return float(as_array(value))


def _int(value: Any) -> int:
    if isinstance(value, (bool, np.bool_)):
        raise TypeError
    return operator.index(value)


def _str(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    value.encode()
    return value


def _bool(value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError
    return bool(value)


def as_array(value: Any) -> np.ndarray:
    """A tensor of any backend, a NumPy array or nested lists of numbers as a NumPy array."""
    if keras.ops.is_tensor(value):
        value = keras.ops.convert_to_numpy(value)
    array = np.asarray(value)
    if array.dtype.kind in "OUSMm":
        raise TypeError
    return array


def scalar(value: Any) -> Any:
    """A number of NumPy, or a tensor of shape `()`, as Python's own; for `json.dumps`.

    Raises:
        TypeError: if it is none.

    Example:

    >>> scalar(np.float32(0.5)), scalar(np.array(3)), scalar(np.True_)
    (0.5, 3, True)
    """
    try:
        array = as_array(value)
        if not array.shape and array.dtype.kind != "c":
            return float(array) if array.dtype.kind == "f" else array.item()
    except (TypeError, ValueError):
        pass
    raise TypeError(f"an object of type {type(value).__name__}")


_RULES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "float": (_float, "a number"),
    "int": (_int, "an integer of 64 bits"),
    "str": (_str, "a string of valid Unicode"),
    "bool": (_bool, "a boolean"),
    "array": (as_array, "an array of numbers or booleans"),
}


def schema(kind: str, fields: Mapping[str, str]) -> dict[str, str]:
    """The fields of a user's kind, checked.

    Raises:
        ValueError: if it has no field, or one of an unknown type.

    Example:

    >>> schema("drift", {"score": "float"})
    {'score': 'float'}
    """
    if not fields:
        raise ValueError(f"`fields` must name at least one field of {kind!r}. Received: none")
    for name, rule in fields.items():
        if name in ("step", "epoch"):
            raise ValueError(f"`{name}` must not be a field: each event has it. Received: {rule!r}")
        if rule not in _RULES:
            raise ValueError(
                f"`{name}` must be one of the types {', '.join(map(repr, _RULES))}. "
                f"Received: {rule!r}"
            )
    return dict(fields)


def packs(fields: Mapping[str, str]) -> bool:
    """Whether events of these fields are rows of numbers, packed like those of metrics."""
    return set(fields.values()) <= {"float", "int"}


def checked(kind: str, fields: Mapping[str, str], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of an event of a user's kind, in the order of its fields.

    Raises:
        ValueError: if a field is missing, unknown, or not of its type.

    Example:

    >>> checked("drift", {"score": "float", "n": "int"}, {"n": 3, "score": 1})
    {'score': 1.0, 'n': 3}
    """
    for name in values:
        if name not in fields:
            raise ValueError(
                f"`{name}` must be a field of {kind!r}, which has {', '.join(fields)}. "
                f"Received: {name}={_short(values[name], name)}"
            )
    least, most = (-_EXACT, _EXACT) if packs(fields) else (-(1 << 63), (1 << 63) - 1)
    found = {}
    for name, rule in fields.items():
        convert, words = _RULES[rule]
        if rule == "int" and packs(fields):
            words = "an integer of at most 2**53, since a kind of numbers alone is kept in float64"
        if name not in values:
            raise ValueError(f"`{name}` of {kind!r} must be {words}. Received: nothing")
        try:
            value = found[name] = convert(values[name])
            if rule == "int" and not least <= value <= most:
                raise OverflowError
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(
                f"`{name}` of {kind!r} must be {words}. Received: {_short(values[name], name)}"
            ) from error
    return found


def histogram(values: Any, bins: int) -> dict[str, Any]:
    """Counts and edges of the finite values, and how many are not finite."""
    flat = _numbers("values", values).astype("float64").ravel()
    if not isinstance(bins, int) or isinstance(bins, bool) or not 1 <= bins <= 10_000:
        raise ValueError(f"`bins` must be an integer from 1 to 10,000. Received: {bins!r}")
    finite = flat[np.isfinite(flat)]
    # The width of a range of float64 may be more than float64 can hold.
    scale = 1.0 if np.abs(finite).max(initial=0.0) < 1e307 else 0.125
    finite = finite * scale
    counts, edges = np.histogram(finite, bins, _range(finite, bins))
    return {
        "counts": counts.astype("int64"),
        "edges": edges / scale,
        "nan": int(np.isnan(flat).sum()),
        "posinf": int(np.isposinf(flat).sum()),
        "neginf": int(np.isneginf(flat).sum()),
    }


def _range(values: np.ndarray, bins: int) -> tuple[float, float]:
    """As NumPy's, but wide enough for the edges of the bins to differ."""
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    if low == high:
        low, high = low - 0.5, high + 0.5
    if (np.diff(np.linspace(low, high, bins + 1)) <= 0).any():
        room = 2 * bins * float(np.spacing(max(abs(low), abs(high))))
        most = float(np.finfo("float64").max) / 8  # what is greater was scaled
        low, high = max(low - room, min(low, -most)), min(high + room, max(high, most))
    return low, high


def image(image: Any) -> np.ndarray:
    """An image as uint8 of shape `(height, width)` or `(height, width, 1, 3 or 4)`."""
    array = _numbers("image", image)
    planes = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or planes not in (1, 3, 4) or not array.size:
        raise ValueError(
            "`image` must have the shape (height, width) or (height, width, channels) with 1, 3 "
            f"or 4 channels. Received: shape={array.shape}"
        )
    if array.dtype == np.uint8:
        return array
    floating = array.dtype.kind not in "biu"
    if not floating or not ((array >= 0) & (array <= 1)).all():
        raise ValueError(
            "`image` must be uint8, or floats from 0 to 1. "
            f"Received: dtype={array.dtype}, from {array.min()} to {array.max()}"
        )
    return np.rint(array.astype("float32") * 255).astype("uint8")


def confusion(
    matrix: Any, y_true: Any, y_pred: Any, labels: Sequence[str] | None
) -> dict[str, Any]:
    """A confusion matrix, given or counted: rows are true classes, columns predicted ones."""
    names = None if labels is None else [str(label) for label in labels]
    if (matrix is None) == (y_true is None or y_pred is None):
        raise ValueError(
            "`matrix` must be given, or `y_true` and `y_pred`, and not both. Received: "
            + ("none of them" if matrix is None else "all of them")
        )
    if matrix is None:
        true, pred = _classes("y_true", y_true), _classes("y_pred", y_pred)
        if true.shape != pred.shape:
            raise ValueError(
                "`y_true` and `y_pred` must have the same length. "
                f"Received: {len(true)} and {len(pred)}"
            )
        highest = 1 + int(max(true.max(initial=-1), pred.max(initial=-1)))
        n = highest if names is None else len(names)
        if highest > n:
            raise ValueError(
                f"`labels` must name each of the {highest} classes. Received: {n} labels"
            )
        matrix = np.bincount(true * n + pred, minlength=n * n).reshape(n, n)
    array = _numbers("matrix", matrix)
    if array.ndim != 2 or array.shape[0] != array.shape[1]:
        raise ValueError(f"`matrix` must be square. Received: shape={array.shape}")
    if names is not None and len(names) != len(array):
        raise ValueError(
            f"`labels` must name each of the {len(array)} classes. Received: {len(names)} labels"
        )
    return {"matrix": array, "labels": names}


def _classes(name: str, value: Any) -> np.ndarray:
    array = _numbers(name, value)
    if array.ndim != 1 or array.dtype.kind not in "iu" or array.min(initial=0) < 0:
        raise ValueError(
            f"`{name}` must be the numbers of classes, from 0 up, in one dimension. "
            f"Received: dtype={array.dtype}, shape={array.shape}"
        )
    return array.astype("int64")


def _numbers(name: str, value: Any) -> np.ndarray:
    try:
        array = as_array(value)
        if array.dtype.kind == "c":
            raise TypeError
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`{name}` must be an array of numbers, real ones. Received: {_short(value)}"
        ) from error
    return array


def _short(value: Any, name: str = "") -> str:
    shown = repr(plain(value, name) if isinstance(value, str) else value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
