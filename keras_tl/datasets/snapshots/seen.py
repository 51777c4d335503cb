"""Which versions of models have seen a sample: by the snapshots that they were trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from keras_tl.datasets.schema.names import check_key
from keras_tl.datasets.snapshots import held
from keras_tl.datasets.views.plan import from_document
from keras_tl.datasets.views.view import View

if TYPE_CHECKING:
    from keras_tl.datasets.collection import Dataset


class Seen(NamedTuple):
    """A version that was trained on a sample.

    Args:
        model: the model's key.
        version: the version's number.
        snapshot: the id of the snapshot that it was trained on.
    """

    model: str
    version: int
    snapshot: str


def saw(dataset: Dataset, key: str) -> list[Seen]:
    """The versions that were trained on a snapshot, or a part of one, with this sample.

    Args:
        dataset: the dataset.
        key: the sample's key; the sample may have been edited or deleted since.

    Returns:
        They, by model and version.
    """
    rows = _rows(dataset, check_key(key))
    db = dataset.connection.db
    packs = {at // dataset.rows for at in rows}
    about = {"uid": dataset.uid, "buckets": {"$in": held.buckets(packs)}}
    roots = [
        snapshot["root"]
        for snapshot in db["snapshots"].find(about, {"root": 1, "packs": 1})
        if any(held.has(snapshot["packs"], at, dataset.rows) for at in rows)
    ]
    trained = {"data.snapshot": {"$in": roots}, "data.uid": dataset.uid}
    seen = []
    inside: dict[tuple[str, str], bool] = {}  # of the parts of the snapshots, by their text
    for version in db["versions"].find(trained, {"model": 1, "version": 1, "data": 1}):
        data = version["data"]
        part = data["snapshot"], repr(data["query"])
        if part not in inside:
            inside[part] = _within(dataset, data["snapshot"], data["query"], key)
        if inside[part]:
            seen.append(Seen(version["model"], version["version"], data["snapshot"]))
    return sorted(seen)


def _rows(dataset: Dataset, key: str) -> list[int]:
    """The addresses that a sample has and had."""
    now = [d["at"] for d in dataset.samples.find({"_id": key}, {"at": 1})]
    return now + [
        head["_id"] * dataset.rows + gone["row"]
        for head in dataset.heads.find({"gone.key": key}, {"gone": 1})
        for gone in head["gone"]
        if gone["key"] == key
    ]


def _within(dataset: Dataset, snapshot: str, query: Any, key: str) -> bool:
    """Whether the view of a snapshot that a version was trained on has the sample."""
    plan = from_document(query)
    return not plan or key in View(dataset, plan, base=dataset.snapshots[snapshot])
