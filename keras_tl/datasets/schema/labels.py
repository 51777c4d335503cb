"""Labels: the one kind of field that may change and may be missing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from keras_tl.datasets.schema.casting import Refused, as_array, cast, dtype_of
from keras_tl.datasets.schema.fields import Field

_DTYPES = ("int8", "int16", "int32", "int64", "float16", "float32", "float64")


class Label(Field):
    """A class or a number that people or models give a sample; it can be changed, and missing.

    A missing label is `None`; in columns it is -1 among integers and NaN among floats. An array of
    booleans is a column of zeros and ones; a single `True` is a mistake, and refused.

    Args:
        num_classes: how many classes there are; labels are then 0 to `num_classes - 1`.
        names: names of the classes, by which labels can be given, too.
        dtype: of columns: a signed integer, or a float for numbers.

    Example:

    >>> Label(names=["cat", "dog"]).check("dog")
    array(1)
    """

    mutable: ClassVar[bool] = True

    def __init__(
        self,
        num_classes: int | None = None,
        names: Sequence[str] | None = None,
        dtype: Any = "int64",
    ) -> None:
        self.dtype = dtype_of(dtype)
        if self.dtype.name not in _DTYPES:
            raise ValueError(f"`dtype` must be one of {_DTYPES}. Received: dtype={dtype!r}")
        self.names = None if names is None else list(names)
        if self.names is not None:
            unique = {name for name in self.names if isinstance(name, str) and name}
            if len(unique) != len(self.names) or num_classes not in (None, len(self.names)):
                raise ValueError(
                    "`names` must be a text for each class, none twice. Received: "
                    f"num_classes={num_classes}, names={names!r}"
                )
            num_classes = len(self.names)
        self.num_classes = num_classes
        if num_classes is not None and not (
            isinstance(num_classes, (int, np.integer))
            and not isinstance(num_classes, bool)
            and self.dtype.kind == "i"
            and 1 <= num_classes <= np.iinfo(self.dtype).max
        ):
            raise ValueError(
                "`num_classes` must be 1 or more, for labels of an integer dtype that holds them. "
                f"Received: num_classes={num_classes!r}, dtype={self.dtype.name}"
            )
        if num_classes is not None:
            self.num_classes = int(num_classes)
        self.shape = ()
        self.compress = None
        self._numbers = {name: number for number, name in enumerate(self.names or ())}

    @property
    def missing(self) -> int | float:
        """What stands for a missing label in a column."""
        assert self.dtype is not None
        return -1 if self.dtype.kind == "i" else math.nan

    def _config(self) -> dict[str, Any]:
        assert self.dtype is not None
        return {"num_classes": self.num_classes, "names": self.names, "dtype": self.dtype.name}

    def _check(self, value: Any) -> np.ndarray:
        assert self.dtype is not None
        if value is None:
            return np.asarray(self.missing, self.dtype)
        if isinstance(value, str) and self.names is not None:
            if value not in self._numbers:
                raise Refused(f"one of the classes {self.names}", repr(value))
            value = self._numbers[value]
        if isinstance(value, bool):
            raise Refused("a number, or None", repr(value))
        array = as_array(value)
        if array.shape != ():
            raise Refused("one number", f"shape={array.shape}")
        return self._in_range(array)

    def check_column(self, values: Any, where: Callable[[int], str]) -> np.ndarray:
        assert self.dtype is not None
        try:
            if isinstance(values, (list, tuple)) and bool in set(map(type, values)):
                raise Refused("numbers", "True or False")
            column = as_array(values)
        except Refused:  # None, names, or what is none of them: one by one
            rows = [self.check(value, where(row)) for row, value in enumerate(values)]
            return np.array(rows, self.dtype)
        if not len(column):
            return np.empty(0, self.dtype)
        try:
            if column.ndim != 1:
                raise Refused("one number", f"shape={column.shape[1:]}")
            return self._in_range(column)
        except Refused as error:
            raise ValueError(f"{where(error.row)} {error}") from None

    def _in_range(self, array: np.ndarray) -> np.ndarray:
        assert self.dtype is not None
        array = cast(array, self.dtype)
        if self.num_classes is not None and array.size:
            if int(array.min()) < -1 or int(array.max()) >= self.num_classes:
                bad = np.atleast_1d((array < -1) | (array >= self.num_classes))
                row = int(np.argmax(bad))
                raise Refused(
                    f"a class from 0 to {self.num_classes - 1}, or None",
                    str(np.atleast_1d(array)[row]),
                    row,
                )
        return array

    def plain(self, column: np.ndarray) -> list[int | float | None]:
        """A column as values of documents: Python's numbers, and `None` where one is missing.

        Example:

        >>> Label(3).plain(np.array([2, -1]))
        [2, None]
        """
        values: list[Any] = column.tolist()
        if self.dtype is not None and self.dtype.kind == "i":
            if (column == -1).any():
                return [None if value == -1 else value for value in values]
        elif np.isnan(column).any():
            return [None if value != value else value for value in values]
        return values
