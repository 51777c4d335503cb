"""Which versions of models have seen a sample: by the snapshots that they were trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from keras_tl.datasets.names import check_key
from keras_tl.datasets.plan import from_document
from keras_tl.datasets.view import View

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
    packs = sorted({at // dataset.rows for at in rows})
    wanted = {"$filter": {"input": "$packs", "cond": {"$in": ["$$this.n", packs]}}}
    versions = {
        **{"from": "versions", "localField": "root", "foreignField": "data.snapshot"},
        "pipeline": [{"$project": {"model": 1, "version": 1, "data": 1}}],
        "as": "versions",
    }
    found = dataset.connection.db["snapshots"].aggregate(
        [
            {"$match": {"uid": dataset.uid, "packs.n": {"$in": packs}}},
            {"$project": {"root": 1, "packs": wanted}},
            {"$lookup": versions},
        ]
    )
    seen = []
    for snapshot in found:
        if not any(_has(pack, at, dataset.rows) for pack in snapshot["packs"] for at in rows):
            continue
        inside: dict[str, bool] = {}  # of the parts of the snapshot, by their text
        for version in snapshot["versions"]:
            data = version["data"]
            if data["uid"] != dataset.uid:
                continue
            text = repr(data["query"])
            if text not in inside:
                inside[text] = _within(dataset, snapshot["root"], data["query"], key)
            if inside[text]:
                seen.append(Seen(version["model"], version["version"], snapshot["root"]))
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


def _has(pack: dict[str, Any], at: int, rows: int) -> bool:
    number, row = divmod(at, rows)
    bits = np.frombuffer(pack["rows"], np.uint8)
    return pack["n"] == number and bool(bits[row // 8] >> (row % 8) & 1)


def _within(dataset: Dataset, snapshot: str, query: Any, key: str) -> bool:
    """Whether the view of a snapshot that a version was trained on has the sample."""
    plan = from_document(query)
    return not plan or key in View(dataset, plan, base=dataset.snapshots[snapshot])
