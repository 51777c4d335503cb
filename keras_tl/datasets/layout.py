"""Which fields, labels and tags a batch has, and where: `(x, y, sample_weight)`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_tl.datasets.schema import Schema

Batch = tuple[Any, ...]
Names = str | Sequence[str] | None


class Layout:
    """What is read for a batch, and how it is handed to Keras.

    Args:
        schema: of the dataset.
        chosen: the fields, labels, tags and predictions that a view is limited to, or `None`.
        x: a name for an array, several for a dict; default: all fields but labels, where one is an
            array.
        y: as `x`; default: all labels; `()` for none.
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

        tensors, labels = of(schema.tensors), of(schema.labels)
        self._x = _given(x, tensors, "x")
        self._y = _given(y, labels, "y")
        self._weight = sample_weight
        if sample_weight is not None and not isinstance(sample_weight, str):
            raise ValueError(f"`sample_weight` must be a name. Received: {sample_weight!r}")
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
            used = [n for n in used if n in known or n.startswith("prediction.")]
            used += [*tensors, *labels, *(n for n in chosen or () if n not in schema.fields)]
        used = list(dict.fromkeys(used))
        self.fields = [name for name in used if name in schema.tensors]
        self.extra = [name for name in used if name not in schema.tensors]

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
    """Bytes of columns, about: objects count as kilobytes."""
    sizes = (
        getattr(v, "nbytes", 0) if getattr(v, "dtype", None) != np.dtype(object) else 1024 * len(v)
        for v in columns.values()
    )
    return sum(int(size) for size in sizes)
