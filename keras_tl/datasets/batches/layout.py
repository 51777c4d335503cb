"""Which fields, labels and tags a batch has, and where: `(x, y, sample_weight)`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from keras_tl.datasets.schema.schema import Schema
from keras_tl.datasets.views.conditions import PREDICTION

Batch = tuple[Any, ...]
Names = str | Sequence[str] | None


class Layout:
    """What is read for a batch, and how it is handed to Keras.

    Args:
        schema: of the dataset.
        chosen: the fields, labels, tags and predictions that a view is limited to, or `None`.
        x: a name for an array, several for a dict; default: all fields but labels, a field called
            `y`, and what `y` and `sample_weight` name; where one is an array.
        y: as `x`; default: all other labels, and a field called `y`; `()` for none.
        sample_weight: a name, or `None`.
        mapped: whether a `map` makes what it wants of the names, and gets all of them.

    Attributes:
        fields: what packs hold.
        extra: labels, tags and predictions.

    Raises:
        ValueError: for names that are not there, or no `x`.

    Example:

    >>> from keras_tl.datasets import Array, Label, Schema
    >>> layout = Layout(Schema({"x": Array((2,)), "y": Label(2)}), None, None, None, None, False)
    >>> layout.fields, layout.extra
    (['x'], ['y'])
    """

    def __init__(
        self,
        schema: Schema,
        chosen: Sequence[str] | None,
        x: Names,
        y: Names,
        sample_weight: str | None,
        mapped: bool,
    ) -> None:
        def of(names: Mapping[str, Any]) -> list[str]:
            return [name for name in names if chosen is None or name in chosen]

        if sample_weight is not None and not isinstance(sample_weight, str):
            raise ValueError(f"`sample_weight` must be a name. Received: {sample_weight!r}")
        self._weight = sample_weight
        tensors, labels = of(schema.tensors), of(schema.labels)
        targets = [n for n in of(schema.fields) if n in labels or n == "y"]
        targets = [n for n in targets if n != sample_weight]
        self._y = _given(y, targets, "y")
        others = {"y", *_listed(self._y), *_listed(sample_weight)}
        self._x = _given(x, [name for name in tensors if name not in others], "x")
        if not _listed(self._x):
            raise ValueError(
                f"`x` must name one field at least. Received: x={x!r}, of a view of "
                f"{tensors or 'no fields'}"
            )
        if sample_weight is not None and not _listed(self._y):
            raise ValueError(f"`sample_weight` needs a `y`. Received: y={y!r}, and no labels")
        used = [*_listed(self._x), *_listed(self._y), *_listed(sample_weight)]
        if mapped:
            known = {*schema.fields, *schema.tags}
            used = [n for n in used if n in known or n.startswith(PREDICTION)]
            used += [*tensors, *labels, *(n for n in chosen or () if n not in schema.fields)]
        used = list(dict.fromkeys(used))
        self.fields = [name for name in used if name in schema.tensors]
        self.extra = [name for name in used if name not in schema.tensors]
        self._labels = schema.labels

    def check_labelled(self, columns: Mapping[str, np.ndarray]) -> None:
        """Refuses samples without what they are trained for.

        Args:
            columns: those of `extra`, of all samples.

        Raises:
            ValueError: if one has no value for `y` or `sample_weight`.
        """
        for what, names in (("y", _listed(self._y)), ("sample_weight", _listed(self._weight))):
            for name in names:
                count = int(self.missing(name, columns[name]).sum()) if name in columns else 0
                if count:
                    has = f"{name}__exists=True"
                    has = f'**{{"{name}__exists": True}}' if "." in name else has
                    without = " `y=()` leaves labels out." if what == "y" else ""
                    raise ValueError(
                        f"`{what}` must be there for each sample: `where({has})` has those with "
                        f"one.{without} Received: {count} of {len(columns[name])} samples "
                        f"without `{name}`"
                    )

    def missing(self, name: str, column: np.ndarray) -> np.ndarray:
        """Which rows of a label, a tag or a prediction are missing: a mask."""
        kind = column.dtype.kind
        if kind == "O":
            return np.fromiter((value is None for value in column), np.bool_, len(column))
        if kind in "mM":
            return np.isnat(column)
        if kind == "f":
            found: np.ndarray = np.isnan(column).reshape(len(column), -1).any(1)
            return found
        return column == -1 if name in self._labels else np.zeros(len(column), np.bool_)

    def named(self, batch: Batch) -> Iterator[tuple[str, Any]]:
        """The columns of a batch with their names, in the order that `keras.tree` has."""
        for names, part in zip((self._x, self._y, self._weight), batch, strict=False):
            if isinstance(names, list):
                yield from sorted(part.items())
            else:
                yield str(names), part

    def check_arrays(self, batch: Batch) -> None:
        """Refuses what is no array of numbers.

        Raises:
            ValueError: if a column has texts, bytes or values of several sizes.
        """
        for name, column in self.named(batch):
            if getattr(column, "dtype", None) == np.dtype(object):
                raise ValueError(
                    f"`{name}` must be numbers in one array for a model: `batches(map=...)` makes "
                    "them of texts, encoded images and values whose size varies. Received: a "
                    f"column of {type(column[0]).__name__}"
                )

    def batch(self, columns: Mapping[str, Any]) -> Batch:
        """What Keras gets.

        Raises:
            ValueError: a `map` left something out.
        """
        try:
            parts = [_picked(self._x, columns)]
            if _listed(self._y):
                parts.append(_picked(self._y, columns))
            if self._weight is not None:
                parts.append(columns[self._weight])
        except KeyError as error:
            raise ValueError(
                f"`map` must return all that `x`, `y` and `sample_weight` name. Received: "
                f"{sorted(columns)}, without {error}"
            ) from None
        return tuple(parts)


def _given(names: Names, default: list[str], what: str) -> str | list[str]:
    if names is None:
        return default[0] if len(default) == 1 else default
    if isinstance(names, str):
        return names
    listed = list(names)
    if not all(isinstance(name, str) for name in listed) or len(set(listed)) != len(listed):
        raise ValueError(f"`{what}` must be a name, or several, none twice. Received: {names!r}")
    return listed


def _listed(names: str | list[str] | None) -> list[str]:
    return [names] if isinstance(names, str) else names or []


def _picked(names: str | list[str], columns: Mapping[str, Any]) -> Any:
    return columns[names] if isinstance(names, str) else {name: columns[name] for name in names}


def nbytes(columns: Mapping[str, Any]) -> int:
    """Bytes of columns, about: objects of a kind that is not known count as kilobytes."""
    return sum(_bytes(column) for column in columns.values())


def _bytes(column: Any) -> int:
    if getattr(column, "dtype", None) != np.dtype(object):
        return int(getattr(column, "nbytes", 0))
    return sum(
        len(value) if isinstance(value, str | bytes) else int(getattr(value, "nbytes", 1024))
        for value in column.flat
    )
