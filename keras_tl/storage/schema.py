"""Every collection that keras_tl keeps: its indexes and the fields that each document has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pymongo.database import Database

#: Raised when documents change so that older code would misread them.
SCHEMA = 1

# name: (required fields, [(index keys, unique)])
COLLECTIONS: dict[str, tuple[list[str], list[tuple[list[tuple[str, int]], bool]]]] = {
    "meta": ([], []),
    "runs": (
        ["name", "attempts", "state", "started"],
        [([("model", 1), ("started", -1)], False), ([("started", -1)], False)],
    ),
    "events": (
        ["run", "attempt", "rank", "kind", "first_step", "last_step", "n", "checksum"],
        [([("run", 1), ("kind", 1), ("first_step", 1)], False)],
    ),
    "models": (["aliases", "rev"], []),
    "versions": (
        ["model", "version", "run", "attempt", "step", "tensors", "created"],
        [([("model", 1), ("version", -1)], True), ([("run", 1), ("step", 1)], False)],
    ),
    "transitions": (
        ["model", "alias", "version", "at"],
        [([("model", 1), ("at", -1)], False)],
    ),
    "blobs.files": (
        ["filename", "length", "chunkSize"],
        [([("filename", 1)], True), ([("ref_at", 1)], False)],
    ),
    "blobs.chunks": (["files_id", "n", "data"], [([("files_id", 1), ("n", 1)], True)]),
    "leases": (["token"], []),
}


def ensure(db: Database[dict[str, Any]]) -> None:
    """Create what is missing of the collections and indexes.

    They exist before any transaction: one that has to create a collection fails on old servers.

    Raises:
        ValueError: if the server is a standalone one, which has no transactions.
        RuntimeError: if a newer keras_tl wrote the store.
    """
    from pymongo.errors import CollectionInvalid, OperationFailure

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
    if found is None or found["n"] < SCHEMA or found.get("collections") != sorted(COLLECTIONS):
        existing = set(db.list_collection_names())
        for name, (required, indexes) in COLLECTIONS.items():
            if name not in existing:
                options: dict[str, Any] = {}
                if required:
                    options["validator"] = {"$jsonSchema": {"required": required}}
                try:
                    db.create_collection(name, **options)
                except (CollectionInvalid, OperationFailure):
                    if name not in db.list_collection_names():  # another process was faster
                        raise
            for keys, unique in indexes:
                db[name].create_index(keys, unique=unique)
        db["meta"].update_one(
            {"_id": "schema"},
            {"$max": {"n": SCHEMA}, "$set": {"collections": sorted(COLLECTIONS)}},
            upsert=True,
        )
