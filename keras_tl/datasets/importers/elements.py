"""Elements of a `tf.data.Dataset`; TensorFlow itself is not imported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from keras_tl.datasets.importers.kinds import dataset_for, numbered, of_samples, tag_types
from keras_tl.datasets.schema.fields import Field
from keras_tl.datasets.storing.writing import insert

if TYPE_CHECKING:
    from keras_tl.datasets.collection import Dataset
    from keras_tl.datasets.importers.importing import Importing

_INFINITE = -1  # tf.data.INFINITE_CARDINALITY
_PACKS = 8  # packs in memory at once, of 4 MB at most if their samples are smaller


def from_tf_dataset(
    catalog: Importing,
    key: str,
    dataset: Any,
    fields: Mapping[str, Field] | None,
    tags: Mapping[str, Any] | None,
    prefix: str,
    replace: bool,
) -> Dataset:
    """See `Importing.from_tf_dataset`."""
    if not hasattr(dataset, "element_spec") or not hasattr(dataset, "as_numpy_iterator"):
        raise ValueError(
            f"`dataset` must be a `tf.data.Dataset`. Received: {type(dataset).__name__}"
        )
    if int(dataset.cardinality()) == _INFINITE:
        raise ValueError("`dataset` must have an end, as `dataset.take(n)`. Received: one without")
    specs = _named(dataset.element_spec)
    kinds = {name: partial(_kind, name, spec) for name, spec in specs.items()}
    found = dataset_for(catalog, key, kinds, fields, tag_types(tags))
    if not all(hasattr(s, "shape") and s.shape.is_fully_defined() for s in specs.values()):
        insert(found, _one_by_one(dataset, prefix), None, tags, replace, keep=True)
        return found
    done = 0  # elements of one shape come in batches, in a tenth of the time
    for batch in dataset.batch(_PACKS * found.rows).as_numpy_iterator():
        columns = _named(batch)
        keys = numbered(prefix, done, done + len(next(iter(columns.values()))))
        insert(found, columns, keys, tags, replace, keep=True)
        done += len(keys)
    return found


def _one_by_one(dataset: Any, prefix: str) -> Iterator[dict[str, Any]]:
    for number, element in enumerate(dataset.as_numpy_iterator()):
        yield {**_named(element), "key": f"{prefix}{number:08d}"}


def _named(element: Any) -> dict[str, Any]:
    """`(x, y)`, `(x, y, sample_weight)`, a mapping, or a mapping in the place of one of them."""
    parts = element if isinstance(element, tuple) else (element,)
    names = ("x", "y", "sample_weight")
    named: dict[str, Any] = {}
    if len(parts) <= len(names):
        for name, part in zip(names, parts, strict=False):
            mine = part if isinstance(part, Mapping) else {name: part}
            if named.keys() & mine.keys() or any(
                isinstance(v, (tuple, dict)) for v in mine.values()
            ):
                break
            named.update(mine)
        else:
            return named
    raise ValueError(
        "`dataset` must have elements x, (x, y) or (x, y, sample_weight), each a tensor or a "
        f"mapping of names to tensors, no name twice. Received: {element!r}"
    )


def _kind(name: str, spec: Any) -> Field:
    shape, dtype = getattr(spec, "shape", None), getattr(spec, "dtype", None)
    if dtype is None or not hasattr(dtype, "as_numpy_dtype") or hasattr(spec, "ragged_rank"):
        raise ValueError(f"`dataset` must have dense tensors. Received: {name!r}, {spec!r}")
    if shape is None or shape.rank is None:
        raise ValueError(
            f"`fields` must tell the kind of {name!r}. Received: a tensor of any shape"
        )
    return of_samples(shape.as_list(), dtype.as_numpy_dtype)
