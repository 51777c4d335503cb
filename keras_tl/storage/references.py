"""Who refers to blobs, beside the versions of models: heads of datasets, and snapshots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pymongo.database import Database


def of_datasets(db: Database[dict[str, Any]], names: set[str]) -> set[str]:
    """Those of the blobs `names` that a dataset or a snapshot refers to, as of now."""
    query = {"blobs": {"$in": list(names)}}
    collections = [db["snapshots"]]
    collections += (db[f"heads.{d['slug']}"] for d in db["datasets"].find({}, {"slug": 1}))
    found: set[str] = set()
    for collection in collections:
        for document in collection.find(query, {"blobs": 1}):
            found.update(names.intersection(document["blobs"]))
    return found
