"""The names that conditions and orders take, and the filters that conditions become."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_tl.datasets.schema.names import check_name
from keras_tl.datasets.schema.schema import TAGS
from keras_tl.datasets.views.plan import Conditions
from keras_tl.storage.query import compile_query

if TYPE_CHECKING:
    from keras_tl.datasets.schema.schema import Schema

PREDICTION = "prediction."


def path(schema: Schema, name: str, joined: bool = False, what: str = "conditions") -> str:
    """Where a document of a sample, or of a prediction, holds what people call `name`.

    Raises:
        ValueError: if nothing is called so.
    """
    if name == "key":
        return "_id"
    if name == "added":
        return name
    if name in schema.labels:
        return f"labels.{name}"
    if name in schema.tags:
        return f"tags.{name}"
    if joined and name.startswith(PREDICTION):
        return f"values.{check_name(name.removeprefix(PREDICTION), what)}"
    raise ValueError(f"`{what}` must name {known(schema, joined)}. Received: {name!r}")


def known(schema: Schema, joined: bool) -> str:
    """The names there are, as an error lists them."""
    parts = ["`key`, `added`"]
    for kind, names in (("label", schema.labels), ("tag", schema.tags)):
        if names:
            listed = ", ".join(f"`{name}`" for name in names)
            parts.append(f"the {kind}{'s' * (len(names) > 1)} {listed}")
    if joined:
        parts.append("`prediction.NAME`")
        return f"one of {', '.join(parts)}"
    return f"one of {', '.join(parts)} (and `prediction.NAME` behind `join_predictions`)"


def compiled(schema: Schema, conditions: Conditions, joined: bool = False) -> dict[str, Any]:
    """The filter for documents of samples, or, of conditions on predictions, of these.

    Args:
        schema: what the samples have.
        conditions: all on samples, or all on predictions (see `divided`).
        joined: whether predictions are joined.

    Raises:
        ValueError: for a name that is not there, and a value that its type cannot have.
    """

    def checked(name: str) -> str:
        found.append(name)
        return path(schema, name, joined)

    query: dict[str, Any] = {}
    for condition, value in conditions:
        found: list[str] = []
        ((place, clause),) = compile_query({condition: value}, checked).items()
        ((operator, given),) = clause.items()
        if operator == "$exists":  # a document may hold `None` where a sample has nothing
            operator, given = ("$ne" if given else "$eq"), None
        elif operator in ("$in", "$nin"):
            given = [_typed(schema, found[0], condition, one) for one in given]
        else:
            given = _typed(schema, found[0], condition, given)
        query = both(query, {place: {operator: given}})
    return query


def divided(conditions: Conditions) -> tuple[Conditions, Conditions]:
    """The conditions on samples, and those on predictions."""
    on = [name.startswith(PREDICTION) for name, _ in conditions]
    mine = tuple(one for one, other in zip(conditions, on, strict=True) if not other)
    return mine, tuple(one for one, other in zip(conditions, on, strict=True) if other)


def both(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The filter of what both filters let through."""
    if not one or not other:
        return one or other
    if any(key.startswith("$") for key in (*one, *other)):
        return {"$and": [*_parts(one), *_parts(other)]}
    merged = {key: dict(clause) for key, clause in one.items()}
    for key, clause in other.items():
        place = merged.setdefault(key, {})
        if place.keys() & clause.keys():
            return {"$and": [*_parts(one), *_parts(other)]}
        place.update(clause)
    return merged


def either(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The filter of what one of the filters lets through."""
    return {"$or": [one, other]} if one and other else {}


def without(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The filter of what the one lets through and the other does not."""
    return {"$and": [*_parts(one), {"$nor": [other]}]}


def _parts(query: dict[str, Any]) -> list[dict[str, Any]]:
    return list(query["$and"]) if query.keys() == {"$and"} else [query] if query else []


def matches_missing(query: Mapping[str, Any]) -> bool:
    """Whether one compiled condition holds for a document that has no such field.

    Example:

    >>> matches_missing({"a": {"$ne": 1}}), matches_missing({"a": {"$lt": 1}})
    (True, False)
    """
    ((operator, value),) = next(iter(query.values())).items()
    if operator in ("$eq", "$in"):
        return value is None if operator == "$eq" else None in value
    if operator in ("$ne", "$nin"):
        return value is not None if operator == "$ne" else None not in value
    return False


_KINDS: tuple[tuple[Any, str], ...] = (
    (bool, "True or False"),
    ((int, float), "a number"),
    (str, "a text"),
    (datetime, "an aware datetime"),
)


def _typed(schema: Schema, name: str, condition: str, value: Any) -> Any:
    """The value of a condition; one of another type would match nothing, without a word."""
    if value is None or name.startswith(PREDICTION):
        return value
    if name in schema.labels and isinstance(value, str) and schema.labels[name].names is not None:
        return int(np.asarray(schema.labels[name].check(value, f"`{condition}`")))
    declared = float if name in schema.labels else tag_type(schema, name)
    if _kind(type(value)) != _kind(declared):
        raise ValueError(
            f"`{condition}` must be {_kind(declared)}, as `{name}` is. Received: {value!r}"
        )
    if declared is float and name in schema.labels:
        return _rounded(schema.labels[name].dtype, value)
    if isinstance(value, datetime):  # what a document can hold of it
        return value.replace(microsecond=value.microsecond // 1000 * 1000)
    return value


def _rounded(dtype: np.dtype[Any] | None, value: Any) -> Any:
    """The number that a column of labels has for this one, if it has one."""
    if dtype is None or dtype.kind != "f":
        return value
    with np.errstate(over="ignore"):
        found = float(np.asarray(value, dtype))
    return value if math.isinf(found) else found


def tag_type(schema: Schema, name: str) -> type:
    """The Python type of a tag, of `key` or of `added`."""
    return {"key": str, "added": datetime}.get(name) or TAGS[schema.tags[name]]


def _kind(of: type) -> str:
    return next((text for kind, text in _KINDS if issubclass(of, kind)), of.__name__)
