"""Values of samples as columns, and their order: the one that MongoDB gives them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np


def column(values: Sequence[Any], declared: type | None = None) -> np.ndarray:
    """Values, `None` where a sample has none, as a column.

    Args:
        values: of tags or predictions.
        declared: their type; `None` (predictions): as they are.

    Returns:
        Numbers as `int64`, `float64` or `bool`; as `float64` with NaN where some are missing. Times
        as `datetime64[ms]` in UTC, NaT where missing. Lists of numbers of one length as `float64`
        with two dimensions. All else, and booleans that are missing, as objects.

    Example:

    >>> column([1, None, 3])
    array([ 1., nan,  3.])
    >>> column([[0.5, 0.5], None])
    array([[0.5, 0.5],
           [nan, nan]])
    """
    missing = np.fromiter((value is None for value in values), bool, len(values))
    if declared is None:
        kinds = {type(value) for value in values if value is not None}
        if kinds == {int, float}:
            kinds = {float}
        declared = kinds.pop() if len(kinds) == 1 else object
    if issubclass(declared, datetime):
        times = [None if value is None else value.astimezone(UTC) for value in values]
        naive = [None if time is None else time.replace(tzinfo=None) for time in times]
        return np.array(naive, "datetime64[ms]")
    if (
        issubclass(declared, list)
        and len({len(value) for value in values if value is not None}) == 1
    ):
        width = next(len(value) for value in values if value is not None)
        table = np.full((len(values), width), np.nan)
        for row, value in enumerate(values):
            if value is not None:
                table[row] = value
        return table
    if issubclass(declared, bool) and not missing.any():
        return np.fromiter(values, bool, len(values))
    if issubclass(declared, (int, float)) and not issubclass(declared, bool):
        if missing.any() or issubclass(declared, float):
            found = (np.nan if value is None else value for value in values)
            return np.fromiter(found, np.float64, len(values))
        return np.fromiter(values, np.int64, len(values))
    objects = np.empty(len(values), object)
    objects[:] = values
    return objects


def order(values: Sequence[Any], descending: bool = False) -> np.ndarray:
    """Positions of the values in ascending order, where equal ones keep theirs, or its reverse.

    Missing values come before all others, NaN before other numbers, numbers before text; text is
    in the order of its code points.

    Raises:
        ValueError: for lists, which have no order.

    Example:

    >>> order([3, None, 1, 2]).tolist()
    [1, 2, 3, 0]
    """
    ranks = [_rank(value) for value in values]
    found = np.array(sorted(range(len(ranks)), key=ranks.__getitem__), np.int64)
    return found[::-1] if descending else found


def _rank(value: Any) -> tuple[Any, ...]:
    if value is None:
        return (0,)
    if isinstance(value, bool):
        return (3, value)
    if isinstance(value, (int, float)):
        return (1, False, 0) if value != value else (1, True, value)
    if isinstance(value, str):
        return (2, value)
    if isinstance(value, datetime):
        return (4, value)
    raise ValueError(
        "`name` of `sort` must name numbers, texts, booleans or times. "
        f"Received: a value of type {type(value).__name__}"
    )
