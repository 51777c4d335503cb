"""The query language: `split="train", quality__gte=3` becomes a MongoDB filter."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import Any

_COMPARE = {"gt": "$gt", "gte": "$gte", "lt": "$lt", "lte": "$lte"}
_TIME = {"after": "$gt", "before": "$lt"}
_OPERATORS = ("eq", "ne", *_COMPARE, "in", "nin", "exists", *_TIME)


def compile_query(
    conditions: Mapping[str, Any],
    fields: Mapping[str, str] | Callable[[str], str] | None = None,
) -> dict[str, Any]:
    """Compiles conditions, all of which must hold, into a filter for `find`.

    Args:
        conditions: Values by `name` (equal) or `name__operator`. A name is a field or a dotted path
            into one; one that has two underscores inside needs its operator spelled out. Operators:
            `eq`, `ne`, `gt`, `gte`, `lt`, `lte`; `in`, `nin` (a list, tuple or set); `exists` (a
            bool); `after`, `before` (an aware datetime). As in MongoDB, numbers compare with
            numbers only, text with text and times with times, `ne` and `nin` hold where the field
            is missing, `eq=None` holds where it is missing or null, and a field that is a list
            has each of its elements' values.
        fields: The document's path of each public name (other names are refused), or a function
            that makes it of the name. Default: a name is its path.

    Returns:
        The filter; no value in it is read as an operator.

    Raises:
        ValueError: A name, an operator or a value that is not allowed (documents, lists, patterns,
            NaN, integers beyond 64 bits, naive datetimes, NUL characters, names with `$`).

    Example:

    >>> compile_query({"split": "train", "quality__gte": 3, "quality__lt": 5})
    {'split': {'$eq': 'train'}, 'quality': {'$gte': 3, '$lt': 5}}
    >>> compile_query({"label__in": [1, 2]}, fields={"label": "y"})
    {'y': {'$in': [1, 2]}}
    """
    compiled: dict[str, Any] = {}
    repeated: list[dict[str, Any]] = []
    for condition, value in conditions.items():
        name, operator = _split(condition)
        path = _path(name, condition, fields)
        mongo, checked = _clause(condition, operator, value)
        place = compiled.setdefault(path, {})
        if mongo in place:
            repeated.append({path: {mongo: checked}})
        else:
            place[mongo] = checked
    if repeated:
        compiled["$and"] = repeated
    return compiled


def _split(condition: Any) -> tuple[str, str]:
    if not isinstance(condition, str):
        raise ValueError(f"The names in `conditions` must be text. Received: {condition!r}")
    name, separator, operator = condition.rpartition("__")
    if not separator:
        return condition, "eq"
    if operator not in _OPERATORS:
        raise ValueError(
            f"`{condition}` must end in one of the operators {', '.join(_OPERATORS)} (a field with "
            f"`__` in its name takes `{condition}__eq`). Received: {operator!r}"
        )
    return name, operator


def _path(
    name: str, condition: str, fields: Mapping[str, str] | Callable[[str], str] | None
) -> str:
    if callable(fields):
        name, fields = fields(name), None
    parts = name.split(".")
    if any(not part or part.startswith("$") or "\0" in part for part in parts):
        raise ValueError(
            f"`{condition}` must name a field: parts between dots, none of which is empty, starts "
            f"with '$' or holds a NUL. Received: {name!r}"
        )
    if fields is None:
        return name
    if parts[0] not in fields:
        raise ValueError(
            f"`{condition}` must name one of the fields {', '.join(sorted(fields))}. "
            f"Received: {name!r}"
        )
    return ".".join([fields[parts[0]], *parts[1:]])


def _clause(condition: str, operator: str, value: Any) -> tuple[str, Any]:
    if operator in ("in", "nin"):
        value = _plain(value)
        if not isinstance(value, Collection) or isinstance(value, (str, bytes, Mapping)):
            raise ValueError(f"`{condition}` must be a list of values. Received: {value!r}")
        return f"${operator}", [_scalar(condition, item) for item in value]
    if operator == "exists":
        if not isinstance(value, bool):
            raise ValueError(f"`{condition}` must be True or False. Received: {value!r}")
        return "$exists", value
    value = _scalar(condition, value)
    if operator in _TIME:
        if not isinstance(value, datetime):
            raise ValueError(f"`{condition}` must be an aware datetime. Received: {value!r}")
        return _TIME[operator], value
    if operator in _COMPARE:
        if isinstance(value, bool) or not isinstance(value, (int, float, str, datetime)):
            raise ValueError(
                f"`{condition}` must be a number, a text or a time. Received: {value!r}"
            )
        return _COMPARE[operator], value
    return f"${operator}", value


def _plain(value: Any) -> Any:
    """Numbers and arrays of NumPy as Python's own, which BSON knows."""
    tolist: Callable[[], Any] | None = getattr(value, "tolist", None)
    return value if tolist is None else tolist()


def _scalar(condition: str, value: Any) -> Any:
    from bson import ObjectId

    value = _plain(value)
    rule = None
    if isinstance(value, bool) or value is None or isinstance(value, (bytes, ObjectId)):
        pass
    elif isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            rule = "an integer of 64 bits"
    elif isinstance(value, float):
        if math.isnan(value):
            rule = "a number other than NaN, which equals nothing"
    elif isinstance(value, str):
        if "\0" in value:
            rule = "a text without NUL"
        elif any("\ud800" <= character <= "\udfff" for character in value):
            rule = "a text of Unicode"
    elif isinstance(value, datetime):
        if value.utcoffset() is None:
            rule = "an aware datetime (with a time zone)"
    else:
        rule = "None, a bool, a number, a text, bytes, an aware datetime or an ObjectId"
    if rule is not None:
        raise ValueError(f"`{condition}` must be {rule}. Received: {value!r}")
    return value
