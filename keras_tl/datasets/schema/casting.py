"""Values into the dtype of a field, refused where they would become others."""

from __future__ import annotations

from typing import Any

import numpy as np

_ML_DTYPES = ("bfloat16", "float8_e4m3fn", "float8_e5m2")
_NUMPY = (
    "bool",
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    *("float16", "float32", "float64", "complex64"),
)


class Refused(ValueError):
    """A value does not fit.

    Attributes:
        rule: what it must be.
        received: what it is.
        row: which one it is, of several; else 0.
    """

    def __init__(self, rule: str, received: str, row: int = 0) -> None:
        super().__init__(f"must be {rule}. Received: {received}")
        self.rule, self.received, self.row = rule, received, row


def dtype_of(name: Any) -> np.dtype[Any]:
    """The dtype of a field, little-endian.

    Raises:
        ValueError: if arrays of it cannot be stored.

    Example:

    >>> dtype_of("uint8")
    dtype('uint8')
    """
    try:
        if isinstance(name, str) and name in _ML_DTYPES:
            import ml_dtypes  # a dependency of Keras

            return np.dtype(getattr(ml_dtypes, name))
        found = np.dtype(name)
    except (TypeError, AttributeError):
        found = None
    if found is None or found.name not in (*_NUMPY, *_ML_DTYPES):
        known = ", ".join((*_NUMPY, *_ML_DTYPES))
        raise ValueError(f"`dtype` must be one of {known}. Received: dtype={name!r}")
    return found if found.name in _ML_DTYPES else found.newbyteorder("<")


def as_array(value: Any) -> np.ndarray:
    """What NumPy makes of a value: an array, a number, nested lists, a tensor of a framework.

    Raises:
        Refused: if it makes no array of numbers of it.
    """
    try:
        array = np.asarray(value)
    except Exception as error:  # whatever a foreign `__array__` raises
        raise Refused("an array of numbers", f"{_kind(value)} ({error})") from None
    if array.dtype.kind in "OUSMmV" and array.dtype.name not in _ML_DTYPES:
        raise Refused("an array of numbers", f"{_kind(value)} (dtype={array.dtype})")
    return array


def cast(array: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """The array in `dtype`; what has that dtype already is not copied.

    Integers must be in its range and, as floats, small enough to be exact; floats may lose digits,
    not become infinite, and never become integers; booleans become numbers, numbers no booleans.

    Raises:
        Refused: if a value would become another; `row` is its index on the first axis.
    """
    if array.dtype == dtype:
        return array
    old, new = _category(array.dtype), _category(dtype)
    if old > new:
        raise Refused(f"of dtype {dtype.name}", f"dtype={array.dtype}")
    if old == 0:
        return array.astype(dtype)
    if new == 1:
        info = np.iinfo(dtype)
        if not array.size or (int(array.min()) >= info.min and int(array.max()) <= info.max):
            return array.astype(dtype)
        bad = (array < info.min) | (array > info.max)  # Python integers: compared as they are
        raise _refused(array, bad, f"of dtype {dtype.name}, {info.min} to {info.max}")
    if old == 1:
        most = 1 << _digits(dtype)
        if array.size and not (-most <= int(array.min()) and int(array.max()) <= most):
            bad = (array < -most) | (array > most)
            raise _refused(array, bad, f"an integer that {dtype.name} holds exactly, up to {most}")
        return array.astype(dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        made = array.astype(dtype)
    if dtype.itemsize < array.dtype.itemsize:
        bad = np.isfinite(array) & ~np.isfinite(made.astype(array.dtype))
        if bad.any():
            raise _refused(array, bad, f"of dtype {dtype.name}, in its range")
    return made


def _digits(dtype: np.dtype[Any]) -> int:
    """Binary digits of a float's mantissa."""
    if dtype.name in _ML_DTYPES:
        import ml_dtypes

        return int(ml_dtypes.finfo(dtype).nmant) + 1
    return int(np.finfo(dtype).nmant) + 1


def _category(dtype: np.dtype[Any]) -> int:
    if dtype.name in _ML_DTYPES:
        return 2
    return {"b": 0, "i": 1, "u": 1, "f": 2, "c": 3}[dtype.kind]


def _refused(array: np.ndarray, bad: np.ndarray, rule: str) -> Refused:
    where = np.unravel_index(int(np.argmax(bad)), bad.shape)
    return Refused(rule, str(array[where]), int(where[0]) if where else 0)


def _kind(value: Any) -> str:
    return type(value).__name__
