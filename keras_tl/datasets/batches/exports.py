"""Samples of a view for NumPy, pandas, tf.data, torch and grain."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_tl.datasets.reading.source import Source

if TYPE_CHECKING:
    from keras_tl.datasets.batches.batches import Batches
    from keras_tl.datasets.views.view import View

_AT_A_TIME = 256


def to_numpy(view: View, cache: str | None) -> dict[str, np.ndarray]:
    """See `Reading.to_numpy`."""
    fields, extra = _chosen(view)
    resolved = view.resolve(extra)
    source = Source(view.dataset, fields, cache)
    found = source.take(resolved.at[:0]) if not len(resolved.at) else {}
    for begin, end, part in source.stream(resolved.at, _AT_A_TIME):
        for name, column in part.items():
            if name not in found:
                found[name] = np.empty((len(resolved.at), *column.shape[1:]), column.dtype)
            found[name][begin:end] = column
    names = view.chosen if view.chosen is not None else view.dataset.schema.fields
    return {name: (found if name in found else resolved.columns)[name] for name in names}


def to_pandas(view: View, fields: Sequence[str]) -> Any:
    """See `Reading.to_pandas`."""
    pandas = _imported("pandas", "pandas")
    schema = view.dataset.schema
    chosen = view.chosen if view.chosen is not None else (*schema.labels, *schema.tags)
    names = list(dict.fromkeys([*(n for n in chosen if n not in schema.tensors), *fields]))
    tensors = [name for name in names if name in schema.tensors]
    resolved = view.resolve(["key", *(name for name in names if name not in tensors)])
    columns = resolved.columns | Source(view.dataset, tensors).take(resolved.at)
    table = {name: _series(columns[name]) for name in names}
    return pandas.DataFrame(table, index=pandas.Index(columns["key"], name="key"))


def to_tf_dataset(batches: Batches) -> Any:
    """See `Reading.to_tf_dataset`."""
    tf = _imported("tensorflow", "tensorflow")
    import keras

    def plain(batch: Any) -> Any:
        columns = [_plain(name, column) for name, column in batches.named(batch)]
        return keras.tree.pack_sequence_as(batch, columns)

    def spec(value: np.ndarray) -> Any:
        return tf.TensorSpec((None, *value.shape[1:]), tf.as_dtype(value.dtype))

    dataset = tf.data.Dataset.from_generator(
        lambda: map(plain, batches),
        output_signature=keras.tree.map_structure(spec, plain(batches[0])),
    )
    if batches.view.base is None:  # it may have more batches, or fewer, in another epoch
        return dataset
    return dataset.apply(tf.data.experimental.assert_cardinality(len(batches)))


def to_torch(batches: Batches) -> Any:
    """See `Reading.to_torch`."""
    _imported("torch", "torch")
    from keras_tl.datasets.batches.torched import Rows

    return Rows(batches)


def to_grain(view: View, cache: str | None) -> Any:
    """See `Reading.to_grain`."""
    grain = _imported("grain", "grain")
    return grain.MapDataset.source(Samples(view, cache))


class Samples(Sequence[dict[str, Any]]):
    """The samples of a view by their positions.

    Args:
        view: the view, which is resolved once.
        cache: as for `batches`.
    """

    def __init__(self, view: View, cache: str | None = "auto") -> None:
        self._fields, self._extra = _chosen(view)
        self._resolved = view.resolve(self._extra)
        self._source = Source(view.dataset, self._fields, cache)

    def __len__(self) -> int:
        return len(self._resolved.at)

    def __getitem__(self, index: Any) -> Any:
        positions = np.array([range(len(self))[index]])
        return self._read(positions)[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Several samples, read together."""
        return self._read(np.asarray(indices, np.int64) % max(1, len(self)))

    def _read(self, positions: np.ndarray) -> list[dict[str, Any]]:
        columns = self._source.take(self._resolved.at[positions])
        columns |= {name: self._resolved.columns[name][positions] for name in self._extra}
        return [{n: column[row] for n, column in columns.items()} for row in range(len(positions))]


def _chosen(view: View) -> tuple[list[str], list[str]]:
    """The fields that packs hold, and labels, tags and predictions."""
    schema = view.dataset.schema
    names = list(schema.fields) if view.chosen is None else list(view.chosen)
    return [n for n in names if n in schema.tensors], [n for n in names if n not in schema.tensors]


def _series(column: np.ndarray) -> Any:
    return column if column.ndim == 1 else list(column)


def _plain(name: str, column: np.ndarray) -> np.ndarray:
    """Text and bytes as TensorFlow takes them: objects, as NumPy's own cut zeros off."""
    if column.dtype != object:
        return column
    for value in column:
        if value is None:
            raise ValueError(
                f"`{name}` must be there for each sample: `tf.data` has no missing text; "
                f"`where({name}__exists=True)`. Received: None"
            )
        if not isinstance(value, str | bytes):
            raise ValueError(
                f"`map` must make `{name}`, whose size varies, one array: `tf.data` takes no "
                f"others. Received: {type(value).__name__}s"
            )
    found = np.empty(len(column), object)
    found[:] = [value.encode() if isinstance(value, str) else value for value in column]
    return found


def _imported(name: str, extra: str) -> ModuleType:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"This needs {name}: `pip install 'keras_tl[{extra}]'`.") from error
