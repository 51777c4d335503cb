"""Every collection that keras_tl keeps: its indexes and the fields that each document has."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pymongo.database import Database


class Collection(NamedTuple):
    """What a collection promises to those who read it."""

    required: list[str] = []
    indexes: list[tuple[list[tuple[str, int]], dict[str, Any]]] = []
    options: dict[str, Any] = {}


#: Raised when documents change so that older code would misread them.
SCHEMA = 1

# Hyper-parameters and metrics of runs, under whatever names: sorted and compared by index.
_WILDCARD = {
    "wildcardProjection": {"params": 1, "tags": 1, "last": 1, "best": 1, "min": 1, "max": 1}
}
_ZSTD = {"wiredTiger": {"configString": "block_compressor=zstd"}}

#: Fields that each document has, indexes as keys and options, and options of the collection.
COLLECTIONS: dict[str, Collection] = {
    "meta": Collection(),
    "runs": Collection(
        ["name", "attempts", "state", "started"],
        [
            ([("model", 1), ("started", -1)], {}),
            ([("started", -1)], {}),
            ([("state", 1)], {}),
            ([("parent", 1), ("started", -1)], {"sparse": True}),
            ([("$**", 1)], _WILDCARD),
        ],
    ),
    "events": Collection(
        ["run", "attempt", "rank", "kind", "first_step", "last_step", "n", "checksum"],
        [([("run", 1), ("kind", 1), ("first_step", 1)], {})],
        {"storageEngine": _ZSTD},
    ),
    "orders": Collection(["run", "action", "values", "at"], [([("run", 1), ("state", 1)], {})]),
    "patches": Collection(["patch"]),
    "models": Collection(["aliases", "rev"]),
    "versions": Collection(
        ["model", "version", "run", "attempt", "step", "tensors", "created"],
        [
            ([("model", 1), ("version", -1)], {"unique": True}),
            ([("run", 1), ("step", 1)], {}),
            ([("data.snapshot", 1)], {"sparse": True}),
        ],
    ),
    "transitions": Collection(
        ["model", "alias", "version", "at"],
        [([("model", 1), ("at", -1)], {})],
    ),
    "blobs.files": Collection(
        ["filename", "length", "chunkSize"],
        [([("filename", 1)], {"unique": True}), ([("ref_at", 1)], {})],
    ),
    "blobs.chunks": Collection(
        ["files_id", "n", "data"], [([("files_id", 1), ("n", 1)], {"unique": True})]
    ),
    "leases": Collection(["token"]),
    "datasets": Collection(
        ["slug", "uid", "schema", "rows", "next"], [([("slug", 1)], {"unique": True})]
    ),
    "snapshots": Collection(
        ["dataset", "uid", "root", "names", "n", "packs", "buckets", "blobs"],
        [
            ([("uid", 1), ("names", 1)], {"unique": True}),
            ([("uid", 1), ("root", 1)], {}),
            ([("uid", 1), ("buckets", 1)], {}),
            ([("blobs", 1)], {}),
        ],
    ),
    "views": Collection(["dataset", "uid", "name", "plan"], [([("uid", 1), ("name", 1)], {})]),
    # What happened to samples, one document a block, for those who follow a dataset.
    "outbox": Collection(
        ["dataset", "kind", "n", "at"],
        [([("at", 1)], {"expireAfterSeconds": 7 * 86400}), ([("dataset", 1), ("at", 1)], {})],
    ),
}


def ensure(db: Database[dict[str, Any]]) -> None:
    """Create what is missing of the collections and indexes.

    They exist before any transaction: one that has to create a collection fails on old servers.

    Raises:
        ValueError: if the server is a standalone one, which has no transactions.
        RuntimeError: if a newer keras_tl wrote the store.
    """
    from pymongo import IndexModel, WriteConcern
    from pymongo.errors import OperationFailure

    hello = db.client.admin.command("hello")
    if "setName" not in hello and hello.get("msg") != "isdbgrid":
        raise ValueError(
            "`mongodb` must be a replica set (one node is enough), since versions are committed "
            "in transactions: start mongod with `--replSet rs0`, run `rs.initiate()` once, or "
            "use `keras-tl up`. Received: a standalone mongod"
        )
    found = db["meta"].find_one({"_id": "schema"})
    if found is not None and found["n"] > SCHEMA:
        raise RuntimeError(
            f"This store was written by a newer keras_tl (schema {found['n']}, this one knows "
            f"{SCHEMA}): upgrade keras_tl with `pip install -U keras_tl`."
        )
    digest = hashlib.sha256(repr(COLLECTIONS).encode()).hexdigest()
    if found is None or found["n"] < SCHEMA or found.get("digest") != digest:
        existing, meta = set(db.list_collection_names()), db["meta"]
        # What waits for a majority is the digest, which comes last.
        db = db.with_options(write_concern=WriteConcern(w=1))
        for name, (required, indexes, options) in COLLECTIONS.items():
            if name not in existing:
                if required:
                    options = {**options, "validator": {"$jsonSchema": {"required": required}}}
                try:
                    db.create_collection(name, check_exists=False, **options)
                except OperationFailure:
                    if name not in db.list_collection_names():  # another process was faster
                        raise
            if indexes:
                db[name].create_indexes([IndexModel(keys, **about) for keys, about in indexes])
        meta.update_one(
            {"_id": "schema"},
            {"$max": {"n": SCHEMA}, "$set": {"digest": digest}},
            upsert=True,
        )
