"""`hub.datasets`: the datasets of a project."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from keras_tl.datasets.collection import Dataset
from keras_tl.datasets.importers.importing import Importing
from keras_tl.datasets.schema.fields import Field
from keras_tl.datasets.schema.names import check_key, slug
from keras_tl.datasets.schema.schema import Schema
from keras_tl.datasets.storing import collecting
from keras_tl.storage import hooks
from keras_tl.storage.connection import Connection

if TYPE_CHECKING:
    from keras_tl.datasets.snapshots.seen import Seen

#: Of each dataset: indexes as keys and options, and options of the collection.
COLLECTIONS: dict[str, tuple[list[tuple[Any, dict[str, Any]]], dict[str, Any]]] = {
    "packs": ([], {}),
    "heads": (
        [
            ("blobs", {"sparse": True}),
            ("died", {"sparse": True}),
            ("gone.key", {"sparse": True}),
        ],
        {},
    ),
    "samples": (
        # Whose row is this? views ask it when they are listed. Nobody else has it, but a unique
        # index would take twice the room.
        [("at", {})],
        {"storageEngine": {"wiredTiger": {"configString": "block_compressor=zstd"}}},
    ),
    "predictions": ([([("sample", 1), ("model", 1), ("version", 1)], {})], {}),
}

_EXISTS = 48
_BESIDE = ("views", "snapshots")  # whose documents have the `uid` of their dataset
_OURS = f"^({'|'.join(COLLECTIONS)})\\."


class Datasets(Importing):
    """The datasets of a project: `hub.datasets`.

    Args:
        connection: where they are kept.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def create(
        self,
        key: str,
        /,
        *,
        tags: Mapping[str, type | str] | None = None,
        index: bool = True,
        **fields: Field,
    ) -> Dataset:
        """Makes a dataset, or returns it if it exists with the same fields and at least these tags.

        Args:
            key: its key.
            tags: types of tags by name: `str`, `int`, `float`, `bool`, `datetime.datetime`.
            index: whether indexes on the tags that queries visit are made by themselves.
            **fields: kinds of fields by name: `x=Image(32, 32), y=Label(10)`.

        Raises:
            ValueError: if it exists with other fields or without one of the tags, or a name or a
                kind is none.

        Example:

        ```python
        ds = hub.datasets.create("cifar", x=Image(32, 32), y=Label(10), tags={"split": str})
        ```
        """
        from pymongo.errors import DuplicateKeyError

        check_key(key)
        if not key.isprintable():
            raise ValueError(f"`key` must be printable. Received: {key!r}")
        if not isinstance(index, bool):
            raise ValueError(f"`index` must be True or False. Received: {index!r}")
        schema = Schema(fields, tags)
        config = schema.config()
        # The document comes first, and says that the collections may be missing until they are
        # made: whoever opens the dataset after a kill in between makes them.
        uid = f"{int(time.time()):08x}{os.urandom(4).hex()}"
        document = {
            **{"_id": key, "slug": slug(key, uid), "uid": uid},
            **{"schema": {"fields": config["fields"]}, "tags": config["tags"]},
            **{"rows": schema.rows, "next": 0, "ready": False},
            **{"indexes": {}, "usage": {}, "index": index},
        }
        datasets = self.connection.db["datasets"]
        try:
            datasets.insert_one(document)
        except DuplicateKeyError:
            found = self[key]
            # Tags may have been declared since: the script that made it can be run again.
            if found.schema.config()["fields"] != config["fields"] or not (
                config["tags"].items() <= found.schema.tags.items()
            ):
                raise ValueError(
                    f"`fields` and `tags` must be those that the dataset {key!r} has: "
                    f"{found.schema!r}. Received: {schema!r}"
                ) from None
            return found
        hooks.phase("dataset-created")
        return self[key]

    def __getitem__(self, key: str) -> Dataset:
        check_key(key)
        document = self.connection.db["datasets"].find_one({"_id": key})
        if document is None:
            raise self._absent(key)
        if not document["ready"]:
            self._prepare(document)
        return Dataset(self.connection, document)

    def _absent(self, key: str) -> KeyError:
        return KeyError(
            f"`key` must be the key of a dataset of {self.connection.project!r}. Received: {key!r}"
        )

    def _prepare(self, document: Mapping[str, Any]) -> None:
        """Makes what is missing of the collections and indexes; they exist before transactions."""
        from pymongo import IndexModel
        from pymongo.errors import CollectionInvalid, OperationFailure

        db = self.connection.db
        for name, (indexes, options) in COLLECTIONS.items():
            collection = db[f"{name}.{document['slug']}"]
            try:
                db.create_collection(collection.name, **options)
            except CollectionInvalid:
                pass  # it is there
            except OperationFailure as error:
                if error.code != _EXISTS:  # by another process, which was faster
                    raise
            if indexes:
                collection.create_indexes([IndexModel(keys, **about) for keys, about in indexes])
        now = [{"$set": {"ready": True, "created": "$$NOW"}}]
        db["datasets"].update_one({"_id": document["_id"], "uid": document["uid"]}, now)

    def __contains__(self, key: object) -> bool:
        try:
            check_key(key)  # a mapping would be a query
        except ValueError:
            return False
        return self.connection.db["datasets"].find_one({"_id": key}, {"_id": 1}) is not None

    def __iter__(self) -> Iterator[str]:
        for document in self.connection.db["datasets"].find({}, {"_id": 1}).sort("_id", 1):
            yield document["_id"]

    def saw(self, key: str, sample: str) -> list[Seen]:
        """The versions of models that were trained on a sample, by way of a snapshot.

        Args:
            key: the dataset's key.
            sample: the sample's key, which may have been edited or deleted since.

        Returns:
            `Seen(model, version, snapshot)`, by model and version.

        Raises:
            KeyError: if there is no such dataset.
        """
        from keras_tl.datasets.snapshots.seen import saw

        return saw(self[key], sample)

    def delete(self, key: str, *, force: bool = False) -> None:
        """Removes a dataset with its samples, predictions, views and snapshots.

        Killed in between, it is gone, and what is left of it is taken by `gc`.

        Args:
            key: its key.
            force: whether it goes even if versions of models were trained on its snapshots: nobody
                can then tell any more which samples they have seen.

        Raises:
            KeyError: if there is no such dataset.
            ValueError: if versions were trained on its snapshots, unless `force`.
        """
        check_key(key)
        db = self.connection.db
        found = db["datasets"].find_one({"_id": key}, {"uid": 1})
        if found is None:
            raise self._absent(key)
        if not force:
            self._check_unseen(key, found["uid"])
        document = db["datasets"].find_one_and_delete({"_id": key, "uid": found["uid"]})
        if document is None:
            raise self._absent(key)
        hooks.phase("dataset-deleted")
        for name in _BESIDE:
            db[name].delete_many({"uid": document["uid"]})
        for name in COLLECTIONS:
            db.drop_collection(f"{name}.{document['slug']}")

    def _check_unseen(self, key: str, uid: str) -> None:
        trained = {"data.uid": uid, "data.snapshot": {"$gt": ""}}
        versions = self.connection.db["versions"]
        order = [("model", 1), ("version", 1)]
        seen = versions.find_one(trained, {"model": 1, "version": 1}, sort=order)
        if seen is not None:
            others = versions.count_documents(trained) - 1
            raise ValueError(
                "`key` must be of a dataset on whose snapshots no version was trained, unless "
                f"`force=True`: version {seen['version']} of {seen['model']!r} was"
                f"{f', and {others} more' if others else ''}. Received: {key!r}"
            )

    def gc(self, grace: float = collecting.GRACE, dry_run: bool = False) -> dict[str, int]:
        """Runs `Dataset.gc` on each dataset, and removes what is left of deleted ones.

        Args:
            grace: as there.
            dry_run: count and remove nothing.

        Returns:
            The sums, and `collections` of datasets that were deleted.
        """
        db = self.connection.db
        # Names are listed first: a collection whose dataset is not listed behind that is of a
        # deleted one, since a document comes before its collections.
        names = db.list_collection_names(filter={"name": {"$regex": _OURS}})
        uids = {uid for name in _BESIDE for uid in db[name].distinct("uid")}
        there = list(db["datasets"].find({}, {"slug": 1, "uid": 1}))
        slugs = {document["slug"] for document in there}
        left = [name for name in names if name.partition(".")[2] not in slugs]
        done = {"packs": 0, "bytes": 0, "orphans": 0, "collections": len(left)}
        if not dry_run:
            for name in left:
                db.drop_collection(name)
            gone = list(uids - {document["uid"] for document in there})
            for name in _BESIDE:
                db[name].delete_many({"uid": {"$in": gone}})
        for key in self:
            for name, count in self[key].gc(grace, dry_run).items():
                done[name] += count
        return done
