"""Labels and tags that change, samples that go: in transactions of a thousand samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_tl.datasets.schema.names import check_keys
from keras_tl.datasets.storing import heads, outbox
from keras_tl.datasets.views.view import View
from keras_tl.storage import hooks

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession

    from keras_tl.datasets.collection import Dataset

_BATCH = 1000  # samples a transaction


def keys_of(dataset: Dataset, samples: str | Iterable[str] | View) -> list[str]:
    """The keys of what an edit of a dataset was asked for.

    Raises:
        ValueError: if it is none of a key, keys and a view of the dataset.
    """
    if isinstance(samples, View):
        if samples.dataset.uid != dataset.uid:
            raise ValueError(
                f"`samples` must be a view of the same dataset, {dataset.key!r}. "
                f"Received: a view of {samples.dataset.key!r}"
            )
        return samples.keys()
    if not isinstance(samples, (str, Iterable)) or isinstance(samples, Mapping):
        raise ValueError(f"`samples` must be a key, keys or a view. Received: {samples!r}")
    return check_keys([samples] if isinstance(samples, str) else samples, "samples")


def parts(n: int) -> Iterator[slice]:
    """Slices of what one transaction takes."""
    return (slice(at, at + _BATCH) for at in range(0, n, _BATCH))


def is_column(value: Any) -> bool:
    """Whether a value is one for each sample, not one for all."""
    return isinstance(value, (list, tuple)) or getattr(value, "shape", ()) != ()


def check_exist(
    dataset: Dataset, keys: Sequence[str], session: ClientSession | None = None
) -> None:
    """Raises a `KeyError` for the first of the keys that no sample has."""
    for part in parts(len(keys)):
        query = {"_id": {"$in": list(keys[part])}}
        there = {d["_id"] for d in dataset.samples.find(query, {"_id": 1}, session=session)}
        for key in keys[part]:
            if key not in there:
                raise _absent(dataset, key)


def _absent(dataset: Dataset, key: str) -> KeyError:
    return KeyError(
        f"`samples` must have keys of samples of {dataset.key!r}. Received: {key!r}, which is none"
    )


def update(dataset: Dataset, samples: str | Iterable[str] | View, values: Mapping[str, Any]) -> int:
    """Changes labels and tags (see `Dataset.update`)."""
    keys = keys_of(dataset, samples)
    if any(name not in dataset.schema.labels for name in values):
        dataset.refresh()  # a tag may have been declared elsewhere
    labels, tags = _checked(dataset, keys, values)
    check_exist(dataset, keys)
    for part in parts(len(keys)):
        change = _Update(
            dataset,
            keys[part],
            {name: column[part] for name, column in labels.items()},
            {name: column[part] for name, column in tags.items()},
        )
        with dataset.connection.client.start_session() as session:
            session.with_transaction(change)
        hooks.phase("dataset-edited")
    if keys:
        outbox.ring(dataset)
    return len(keys)


def _checked(
    dataset: Dataset, keys: Sequence[str], values: Mapping[str, Any]
) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """Columns of labels and of tags."""
    n, schema = len(keys), dataset.schema
    labels: dict[str, list[Any]] = {}
    tags: dict[str, list[Any]] = {}
    for name, value in values.items():

        def where(row: int, name: str = name) -> str:
            return f"`{name}` of sample {keys[row]!r}" if n else f"`{name}`"

        if name in schema.labels:
            column = value if is_column(value) else [value] * n
            if len(column) != n:
                raise ValueError(
                    f"`{name}` must have a value a sample: {n}. Received: {len(column)}"
                )
            kind = schema.labels[name]
            labels[name] = kind.plain(np.asarray(kind.check_column(column, where)))
        elif name in schema.tags:
            tags[name] = schema.check_tag_column(name, value, n, where)
        else:
            known = ", ".join([*schema.labels, *schema.tags]) or "none"
            raise ValueError(
                f"`update` changes the labels and tags of the dataset: {known} (tensors change by "
                f"`insert` with `replace=True`). Received: {name!r}"
            )
    return labels, tags


class _Update:
    """A transaction that changes samples; it may be run again."""

    def __init__(
        self,
        dataset: Dataset,
        keys: list[str],
        labels: dict[str, list[Any]],
        tags: dict[str, list[Any]],
    ) -> None:
        self.dataset, self.keys, self.labels, self.tags = dataset, keys, labels, tags

    def __call__(self, session: ClientSession) -> None:
        from pymongo import UpdateOne

        dataset = self.dataset
        found = _addresses(dataset, self.keys, session)
        absent = [key for key in self.keys if key not in found]
        if absent:
            raise _absent(dataset, absent[0])
        changes = []
        rows: dict[int, dict[str, Any]] = {}
        for i, key in enumerate(self.keys):
            labels = {name: values[i] for name, values in self.labels.items()}
            tags = {f"tags.{name}": values[i] for name, values in self.tags.items()}
            kept = {f"labels.{name}": value for name, value in labels.items()}
            kept |= {path: value for path, value in tags.items() if value is not None}
            gone = {path: "" for path, value in tags.items() if value is None}
            change = {"$set": kept} if kept else {}
            if gone:
                change["$unset"] = gone
            changes.append(UpdateOne({"_id": key}, change))
            rows[found[key]] = labels
        if self.labels or self.tags:
            dataset.samples.bulk_write(changes, ordered=False, session=session)
        if self.labels:
            heads.relabel(dataset, rows, session)
        kind = "labelled" if self.labels else "updated"
        outbox.tell(dataset, outbox.of_keys(dataset, kind, self.keys), session)
        hooks.phase("dataset-editing")


def delete(dataset: Dataset, samples: str | Iterable[str] | View) -> int:
    """Removes samples (see `Dataset.delete`)."""
    keys = keys_of(dataset, samples)
    deleted = 0
    for part in parts(len(keys)):
        with dataset.connection.client.start_session() as session:
            deleted += session.with_transaction(lambda s: _delete(dataset, keys[part], s))  # noqa: B023
        hooks.phase("dataset-edited")
    if deleted:
        outbox.ring(dataset)
    return deleted


def _delete(dataset: Dataset, keys: list[str], session: ClientSession) -> int:
    found = _addresses(dataset, keys, session)
    if not found:
        return 0
    there = list(found)
    dataset.samples.delete_many({"_id": {"$in": there}}, session=session)
    rows = {at: key for key, at in found.items()}
    heads.kill(dataset, rows, dataset.now(), session)
    dataset.predictions.delete_many({"sample": {"$in": there}}, session=session)
    outbox.tell(dataset, outbox.of_keys(dataset, "deleted", there), session)
    hooks.phase("dataset-editing")
    return len(there)


def _addresses(dataset: Dataset, keys: list[str], session: ClientSession) -> dict[str, int]:
    found = dataset.samples.find({"_id": {"$in": keys}}, {"at": 1}, session=session)
    return {document["_id"]: document["at"] for document in found}
