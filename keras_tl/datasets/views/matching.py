"""Compiled filters on columns in memory, with the meaning that MongoDB gives them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
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
    # All values of a column are of the type that conditions on it must have.
    if name in ("$in", "$nin"):
        among = set(wanted)
        return lambda value: (value in among) is (name == "$in")
    if name in ("$eq", "$ne"):
        return lambda value: (value == wanted) is (name == "$eq")
    compare = _COMPARE[name]
    return lambda value: value is not None and compare(value, wanted)
