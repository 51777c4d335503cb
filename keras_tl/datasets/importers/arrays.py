"""Arrays in memory or in files, and Keras' own datasets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_tl.datasets.importers.kinds import dataset_for, numbered, of_column, tag_types
from keras_tl.datasets.schema.fields import Field
from keras_tl.datasets.schema.labels import Label
from keras_tl.datasets.storing.writing import insert

if TYPE_CHECKING:
    from keras_tl.datasets.collection import Dataset
    from keras_tl.datasets.importers.importing import Importing

#: What `keras.datasets` has, with the names of the classes where they are few and known.
KERAS: dict[str, Sequence[str] | None] = {
    "mnist": None,
    "fashion_mnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    "cifar10": (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    ),
    "cifar100": None,
    "imdb": ("negative", "positive"),
    "reuters": None,
    "california_housing": None,
    "boston_housing": None,
}


def from_numpy(
    catalog: Importing,
    key: str,
    columns: Mapping[str, Any],
    fields: Mapping[str, Field] | None,
    tags: Mapping[str, Any] | None,
    keys: Sequence[str] | None,
    prefix: str,
    replace: bool = False,
) -> Dataset:
    """See `Importing.from_numpy`."""
    if not columns:
        raise ValueError("`from_numpy` must be given columns, as `x=array`. Received: none")
    columns = {name: _column(name, column) for name, column in columns.items()}
    kinds = {name: partial(of_column, name, column) for name, column in columns.items()}
    found = dataset_for(catalog, key, kinds, fields, tag_types(tags))
    for name, column in columns.items():
        if isinstance(found.schema.fields[name], Label) and getattr(column, "shape", ())[1:] == (
            1,
        ):
            columns[name] = column[:, 0]
    if keys is None:
        keys = numbered(prefix, 0, len(next(iter(columns.values()))))
    insert(found, columns, keys, tags, replace, keep=True)
    return found


def _column(name: str, column: Any) -> Any:
    """The column, as an array if it is one, and without reading it if it is one in a file."""
    if isinstance(column, (list, tuple)):
        return list(column)
    in_file = isinstance(getattr(column, "dtype", None), np.dtype) and hasattr(column, "shape")
    array = column if in_file else np.asarray(column)
    if not array.shape:
        raise ValueError(
            f"`{name}` must be an array or a list with a value a sample. "
            f"Received: {type(column).__name__}"
        )
    return array


def from_keras(catalog: Importing, name: str, key: str | None, options: Any) -> Dataset:
    """See `Importing.from_keras`."""
    import keras

    if name not in KERAS:
        raise ValueError(f"`name` must be one of {', '.join(KERAS)}. Received: {name!r}")
    parts = dict(
        zip(("train", "test"), getattr(keras.datasets, name).load_data(**options), strict=True)
    )
    parts = {split: (_images(x), np.asarray(y)) for split, (x, y) in parts.items()}
    labels = {split: y[:, 0] if y.ndim == 2 else y for split, (_, y) in parts.items()}
    given = None
    if all(y.dtype.kind in "iu" for y in labels.values()):
        classes = 1 + max(int(y.max()) for y in labels.values())
        names = KERAS[name]
        given = {"y": Label(names=names) if names and len(names) == classes else Label(classes)}
    for split, (x, _) in parts.items():
        found = from_numpy(
            *(catalog, name if key is None else key, {"x": x, "y": labels[split]}, given),
            *({"split": split}, None, f"{split}-"),
        )
    return found


def _images(x: Any) -> Any:
    """Grey pictures get the axis of their one channel."""
    x = np.asarray(x)
    return x[..., None] if x.dtype == np.uint8 and x.ndim == 3 else x
