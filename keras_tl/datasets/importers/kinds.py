"""Which kind a column becomes where nobody said it, and the dataset that an import goes into."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_tl.datasets.schema.fields import Array, Bytes, Field, Text
from keras_tl.datasets.schema.labels import Label
from keras_tl.datasets.schema.media import Image
from keras_tl.datasets.schema.names import check_name

if TYPE_CHECKING:
    from keras_tl.datasets.collection import Dataset
    from keras_tl.datasets.importers.importing import Importing


CLASSES = 10_000  # of a column of text, at most


def of_samples(shape: Sequence[int | None], dtype: Any) -> Field:
    """The kind of samples of one shape and dtype.

    Example:

    >>> of_samples((32, 32, 3), "uint8").row_bytes, of_samples((), "float32")
    (3072, Label(num_classes=None, names=None, dtype='float32'))
    """
    shape, dtype = tuple(shape), np.dtype(dtype)
    if dtype.kind in "UT":
        return Text()
    if dtype.kind in "SO":
        return Bytes()
    if shape == ():
        return Label(dtype=dtype.name if dtype.name in _NUMBERS else "int64")
    if dtype == np.uint8 and len(shape) == 3 and shape[2] in (1, 3, 4):
        return Image(*shape)
    return Array(shape, dtype)


_NUMBERS = ("float16", "float32", "float64")


def of_column(name: str, column: Any) -> Field:
    """The kind of a column: an array with a row a sample, or a list.

    Args:
        name: of the field, for errors.
        column: numbers or text by sample. One number a sample is a label; text is `Text`, bytes are
            `Bytes`; uint8 of shape `(height, width, 1 | 3 | 4)` is an `Image`; other arrays are
            `Array`, with `None` where their sizes differ. A column called `y` of text is a label
            with these classes, and one of shape `(n, 1)` of integers or text is a label, too.

    Raises:
        ValueError: if it is none of these, has integers below 0, of which -1 could mean that a
            label is missing, or more classes than `CLASSES`.
    """
    if not hasattr(column, "dtype") or column.dtype == object:
        return _of_list(name, list(column))
    shape = column.shape[1:]
    if name == "y" and shape == (1,) and column.dtype.kind in "iuUT":  # as `keras.datasets` has it
        shape = ()
    if name == "y" and shape == () and column.dtype.kind in "UT" and len(column):
        return _of_classes(name, np.asarray(column).reshape(-1).tolist())
    if shape == () and column.dtype.kind == "i" and len(column):
        refuse_negative(name, int(np.min(column)))
    return of_samples(shape, column.dtype)


def _of_classes(name: str, values: list[str]) -> Label:
    names = sorted(set(values))
    if len(names) > CLASSES:
        raise ValueError(
            f"`{name}` must be given a kind in `fields`, as it has more than {CLASSES} texts: "
            f"`Label(names=[...])` or `Text()`. Received: {len(names)}"
        )
    return Label(names=names)


def refuse_negative(name: str, least: int) -> None:
    """Raises `ValueError` for integer labels below 0, unless somebody said what they are."""
    if least < 0:
        raise ValueError(
            f"`{name}` must be given a kind in `fields`, as it has integers below 0: `Label()` "
            f"takes -1 for a missing label, `Array((), 'int64')` for a number. Received: {least}"
        )


def _of_list(name: str, values: list[Any]) -> Field:
    there = [value for value in values if value is not None]
    if name == "y" and there and all(isinstance(value, str) for value in there):
        return _of_classes(name, there)
    for kind, field in ((str, Text()), (bytes, Bytes())):
        if there and all(isinstance(value, kind) for value in there):
            return field
    try:
        rows = [np.asarray(value) for value in there]
        dtype = np.result_type(*{row.dtype for row in rows})
        dimensions = {row.ndim for row in rows}
        if len(dimensions) != 1 or dtype.kind not in "biufc":
            raise TypeError
    except (TypeError, ValueError):
        raise ValueError(
            f"`{name}` must be an array, or a list of arrays of one rank, numbers, texts or bytes. "
            f"Received: a list of {', '.join(sorted({type(v).__name__ for v in values})) or 'none'}"
        ) from None
    if dimensions == {0} and dtype.kind == "i":
        refuse_negative(name, int(min(rows)))
    sizes = [{row.shape[axis] for row in rows} for axis in range(dimensions.pop())]
    return of_samples([s.pop() if len(s) == 1 else None for s in sizes], dtype)


def tag_type(name: str, value: Any) -> type:
    """The Python type of a tag's values: of one for all samples, or of a column.

    Raises:
        ValueError: if no value tells it.
    """
    column = value.tolist() if hasattr(value, "tolist") else value
    values = column if isinstance(column, (list, tuple)) else [column]
    types = {type(v) for v in values if v is not None}
    for kind in (bool, int, float, str):
        if types == {kind}:
            return kind
    if types == {int, float}:
        return float
    if types and all(issubclass(kind, datetime) for kind in types):
        return datetime
    listed = ", ".join(sorted(kind.__name__ for kind in types)) or "no value"
    raise ValueError(
        f"`tags[{name!r}]` must be of one type: text, a number, a bool or an aware datetime. "
        f"Received: {listed}"
    )


def dataset_for(
    catalog: Importing,
    key: str,
    kinds: Mapping[str, Callable[[], Field]],
    given: Mapping[str, Field] | None,
    tags: Mapping[str, Callable[[], type]],
) -> Dataset:
    """The dataset of a key, as it is or made for this import; tags that it has not are declared.

    Args:
        catalog: where datasets are.
        key: of the dataset.
        kinds: tells of each field what it would become; not asked where the dataset exists.
        given: the kinds that the user chose.
        tags: tells of each tag its type; not asked where the dataset has it.

    Raises:
        ValueError: if the dataset is there without one of the fields, or with another kind than the
            one that was chosen, or `given` names no field.
    """
    given = dict(given or {})
    if given.keys() - kinds.keys():
        raise ValueError(
            f"`fields` must name some of {', '.join(kinds)}. "
            f"Received: {', '.join(map(repr, given.keys() - kinds.keys()))}"
        )
    if key not in catalog:
        fields: dict[str, Any] = {
            check_name(name, "fields"): given[name] if name in given else kind()
            for name, kind in kinds.items()
        }
        return catalog.create(key, tags={name: tell() for name, tell in tags.items()}, **fields)
    found = catalog[key]
    schema = found.schema
    for name in kinds:
        if name not in schema.fields:
            raise ValueError(
                f"`key` must be free, or of a dataset with the field {name!r}. Received: {key!r}, "
                f"which has {', '.join(schema.fields)}"
            )
        if name in given and given[name] != schema.fields[name]:
            raise ValueError(
                f"`fields[{name!r}]` must be as in the dataset {key!r}: {schema.fields[name]}. "
                f"Received: {given[name]}"
            )
    missing = {name: tell() for name, tell in tags.items() if name not in schema.tags}
    if missing:
        found.declare(**missing)
    return found


def tag_types(tags: Mapping[str, Any] | None) -> dict[str, Callable[[], type]]:
    """For `dataset_for`: the types of tags of which values are given."""
    return {name: partial(tag_type, name, value) for name, value in (tags or {}).items()}


def numbered(prefix: str, begin: int, end: int) -> list[str]:
    """Keys of samples that have none of their own: their numbers behind a prefix.

    Example:

    >>> numbered("test-", 8, 10)
    ['test-00000008', 'test-00000009']
    """
    return [f"{prefix}{number:08d}" for number in range(begin, end)]
