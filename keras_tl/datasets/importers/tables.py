"""Rows of tables: columns of CSV and Parquet files become fields and tags, some rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from keras_tl.datasets.importers.kinds import (
    CLASSES,
    dataset_for,
    numbered,
    refuse_negative,
    tag_types,
)
from keras_tl.datasets.schema.fields import Array, Field
from keras_tl.datasets.schema.labels import Label
from keras_tl.datasets.storing.writing import insert

if TYPE_CHECKING:
    from keras_tl.datasets.collection import Dataset
    from keras_tl.datasets.importers.importing import Importing

ROWS = 2048  # rows in memory at once: packs of any dataset become full


class Table(Protocol):
    """A file of rows."""

    columns: list[str]

    def type(self, column: str) -> type:
        """The Python type of a column's values: a tag's type, or `object`."""

    def rows(self, columns: Sequence[str]) -> Iterator[dict[str, list[Any]]]:
        """The values of the columns, at most `ROWS` rows at a time; `None` where one is missing."""


def load(
    catalog: Importing,
    key: str,
    table: Table,
    x: Sequence[str] | None,
    y: str | None,
    fields: Mapping[str, Field] | None,
    tag_columns: Sequence[str],
    tags: Mapping[str, Any] | None,
    key_column: str | None,
    prefix: str,
    replace: bool,
) -> Dataset:
    """See `Importing.from_csv`."""
    x, fields = list(x or ()), dict(fields or {})
    single = [name for name in (y, key_column) if name is not None]
    wanted = list(dict.fromkeys([*x, *fields, *tag_columns, *single]))
    unknown = [name for name in wanted if name not in table.columns]
    if unknown:
        raise ValueError(
            f"Columns must be among {', '.join(map(repr, table.columns))}. "
            f"Received: {', '.join(map(repr, unknown))}"
        )
    kinds: dict[str, Callable[[], Field]] = {}
    if x:
        kinds["x"] = lambda: Array((len(x),), "float32")
    kinds |= {name: lambda kind=kind: kind for name, kind in fields.items()}  # type: ignore[misc]
    if y is not None:
        kinds["y"] = partial(_label, table, y)
    if not x and not fields:
        raise ValueError("`x` or `fields` must name columns. Received: neither")
    if (x and "x" in fields) or (y is not None and "y" in fields):
        raise ValueError("`fields` must not name `x` or `y`, if these are given. Received: both")
    types = {name: partial(table.type, name) for name in tag_columns}
    found = dataset_for(catalog, key, kinds, fields, {**types, **tag_types(tags)})
    done = 0
    for rows in table.rows(wanted):
        count = len(rows[wanted[0]])
        columns: dict[str, Any] = {name: rows[name] for name in fields}
        if x:
            columns["x"] = np.stack([_numbers(name, rows[name], done) for name in x], axis=1)
        if y is not None:
            columns["y"] = [int(v) if isinstance(v, bool) else v for v in rows[y]]
        if key_column is None:
            keys = numbered(prefix, done, done + count)
        else:
            keys = _keys(rows[key_column], prefix, done)
        tagged = {**(tags or {}), **{name: rows[name] for name in tag_columns}}
        insert(found, columns, keys, tagged, replace, keep=True)
        done += count
    return found


def _label(table: Table, name: str) -> Label:
    """What a column of labels is, after a look at all of it."""
    kind = table.type(name)
    if kind is float:
        return Label(dtype="float32")
    if kind not in (int, bool, str):
        raise ValueError(f"`y` must name a column of numbers or text. Received: {name!r}")
    seen: set[Any] = set()
    for rows in table.rows([name]):
        values = {value for value in rows[name] if value is not None}
        seen = seen | values if kind is str else {min(seen | values)} if values else seen
        if len(seen) > CLASSES:
            raise ValueError(
                f"`y` must name a column of {CLASSES} classes at most. Received: {name!r}"
            )
    if kind is str and seen:
        return Label(names=sorted(seen))
    if kind is str:
        raise ValueError(f"`y` must name a column that has values. Received: {name!r}")
    refuse_negative("y", int(min(seen, default=0)))
    return Label()


def _numbers(name: str, values: list[Any], done: int) -> np.ndarray:
    try:
        return np.array(values, "float64")  # None becomes NaN
    except (TypeError, ValueError):
        for row, value in enumerate(values):
            if value is not None and not isinstance(value, (int, float)):
                raise ValueError(
                    f"`x` must name columns of numbers. Received: {name!r}, which has {value!r} in "
                    f"row {done + row}"
                ) from None
        raise


def _keys(values: list[Any], prefix: str, done: int) -> list[str]:
    for row, value in enumerate(values):
        if value is None:
            raise ValueError(
                f"`key_column` must have a value in each row. Received: none in row {done + row}"
            )
    return [f"{prefix}{value}" for value in values]
