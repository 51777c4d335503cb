"""Compiled filters on columns in memory, with the meaning that MongoDB gives them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np

_COMPARE = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}


def matches(
    query: Mapping[str, Any], column: Callable[[str], Sequence[Any]], count: int
) -> np.ndarray:
    """Which of the samples the filter lets through.

    Args:
        query: as of `conditions.compiled` and what combines its answers.
        column: the values at a path, `None` where a sample has none.
        count: how many samples there are.

    Returns:
        A mask of length `count`.

    Example:

    >>> matches({"tags.a": {"$gte": 2}}, lambda path: [1, 2, None], 3).tolist()
    [False, True, False]
    """
    mask = np.ones(count, bool)
    for path, clause in query.items():
        if path in ("$and", "$or", "$nor"):
            parts = [matches(part, column, count) for part in clause]
            combine = np.logical_and if path == "$and" else np.logical_or
            found = combine.reduce(parts)
            mask &= ~found if path == "$nor" else found
            continue
        values = column(path)
        for name, wanted in clause.items():
            test = _test(name, wanted)
            mask &= np.fromiter(map(test, values), bool, count)
    return mask


def _test(name: str, wanted: Any) -> Callable[[Any], bool]:
    if name in ("$in", "$nin"):
        among = {_exact(value) for value in wanted}
        return lambda value: (_exact(value) in among) is (name == "$in")
    if name in ("$eq", "$ne"):
        one = _exact(wanted)
        return lambda value: (_exact(value) == one) is (name == "$eq")
    kind, compare = _kind(wanted), _COMPARE[name]
    return lambda value: _kind(value) is kind and compare(value, wanted)


def _kind(value: Any) -> type:
    """What compares with each other: numbers, texts, booleans, times."""
    if isinstance(value, bool) or value is None:
        return type(value)
    return next((kind for kind in (float, str, datetime) if isinstance(value, kind)), float)


def _exact(value: Any) -> Any:
    """Equal for values that MongoDB takes for equal: 1 and 1.0, not 1 and true."""
    return (_kind(value), value)
