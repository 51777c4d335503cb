"""A dataset in figures: its schema, samples by label and tag, bytes."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_tl.datasets.storing import heads

if TYPE_CHECKING:
    from keras_tl.datasets.collection import Dataset

_VALUES = 20  # that are listed


def describe(dataset: Dataset) -> dict[str, Any]:
    """Describes a dataset (see `Dataset.describe`)."""
    dataset.refresh()
    schema = dataset.schema
    count = size = packs = 0
    labels: dict[str, Counter[Any]] = {name: Counter() for name in schema.labels}
    fields = {"n": 1, "live": 1, "dead": 1, "bytes": 1, "labels": 1}
    for head in dataset.heads.find({}, fields):
        count += head["live"]
        size += head["bytes"]
        packs += 1
        alive = ~heads.dead_rows(head)
        for name, kind in schema.labels.items():
            column = heads.label_column(dataset, name, head["labels"])[alive]
            values, counts = np.unique(column, return_counts=True)
            labels[name].update(dict(zip(kind.plain(values), counts.tolist(), strict=True)))
    return {
        "key": dataset.key,
        "count": count,
        "packs": packs,
        "bytes": size,
        "stored": _stored(dataset),
        "created": dataset.document["created"].isoformat(),
        "fields": schema.config()["fields"],
        "labels": {name: _label(dataset, name, counter) for name, counter in labels.items()},
        "tags": {name: _tag(dataset, name, count) for name in schema.tags},
    }


def _label(dataset: Dataset, name: str, counter: Counter[Any]) -> dict[str, Any]:
    missing = counter.pop(None, 0)
    common = counter.most_common(_VALUES)
    names = dataset.schema.labels[name].names
    return {
        "values": {str(names[value]) if names else str(value): n for value, n in common},
        "distinct": len(counter),
        "missing": missing,
    }


def _tag(dataset: Dataset, name: str, count: int) -> dict[str, Any]:
    path = f"$tags.{name}"
    there: dict[str, Any] = {"$match": {f"tags.{name}": {"$exists": True}}}
    # All values are never in one document, nor in the server's memory: they may be of any number.
    groups: list[dict[str, Any]] = [there, {"$group": {"_id": path, "n": {"$sum": 1}}}]
    first = [*groups, {"$sort": {"n": -1, "_id": 1}}, {"$limit": _VALUES}]
    sums = {"$group": {"_id": None, "distinct": {"$sum": 1}, "n": {"$sum": "$n"}}}
    common = dataset.samples.aggregate(first, allowDiskUse=True)
    total = dataset.samples.aggregate([*groups, sums], allowDiskUse=True)
    found: dict[str, Any] = next(iter(total), {"distinct": 0, "n": 0})
    return {
        "type": dataset.schema.tags[name],
        "values": {_text(entry["_id"]): entry["n"] for entry in common},
        "distinct": found["distinct"],
        "missing": count - found["n"],
    }


def _text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _stored(dataset: Dataset) -> int | None:
    from pymongo.errors import OperationFailure

    total = 0
    for collection in (dataset.packs, dataset.heads, dataset.samples, dataset.predictions):
        try:
            stats = dataset.connection.db.command("collStats", collection.name)
        except OperationFailure:  # not everybody may ask
            return None
        total += stats["storageSize"] + stats["totalIndexSize"]
    return total
