"""`view.freeze("v1")`: the samples of a view as they are, for good."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_tl.datasets.schema.names import check_key
from keras_tl.datasets.snapshots import held, merkle
from keras_tl.datasets.snapshots.frozen import Frozen
from keras_tl.datasets.views.live import Live
from keras_tl.datasets.views.plan import Plan, describe, from_document
from keras_tl.datasets.views.rows import evaluate
from keras_tl.datasets.views.saved import MOST_BYTES, kept
from keras_tl.datasets.views.view import View
from keras_tl.storage import hooks
from keras_tl.storage.blobs import Blobs
from keras_tl.storage.frozen import FrozenRows, RowChanges, compare

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession

    from keras_tl.datasets.collection import Dataset


class Snapshot(View):
    """Samples with their keys, labels and tags as they were when they were frozen.

    It is a view: it can be read in batches, counted and, by labels and tags as they were, narrowed
    down by `where`, `folds` and their like. Its order is that of storage. What happens to the
    dataset later (labels, edits, deletions) does not change what it reads.

    Args:
        dataset: the dataset.
        document: of the snapshot, in the collection `snapshots`.

    Attributes:
        id: the root of the Merkle tree over its samples (see `merkle`): another one as soon as one
            byte of one sample, a label or a tag differs.
        names: what it is called.
        created: when it was frozen first.

    Example:

    ```python
    before = ds.where(split="train").freeze("v1")
    ds.update(["k7"], y=3)
    print(before.diff(ds.where(split="train").freeze("v2")))  # 1 relabelled
    ```
    """

    def __init__(self, dataset: Dataset, document: Mapping[str, Any]) -> None:
        super().__init__(dataset, base=self)
        self.id: str = document["root"]
        self.names: tuple[str, ...] = tuple(document["names"])
        self.created: datetime = document["created"]
        self._document = document

    def __repr__(self) -> str:
        names = ", ".join(self.names)
        return f"Snapshot({self.dataset.key!r}, {names!r}, id={self.id[:12]!r}, n={self.count})"

    @property
    def count(self) -> int:
        """How many samples there are."""
        return int(self._document["n"])

    @property
    def query(self) -> str:
        """The view that was frozen, in words."""
        return describe(self._origin)

    @cached_property
    def _origin(self) -> Plan:
        return from_document(self._document["plan"])

    @cached_property
    def store(self) -> Frozen:
        """Its rows, read once."""
        blobs = Blobs(self.dataset.connection.db)
        self.dataset.check_exists()
        rows = FrozenRows.loads(blobs.get(self._document["blobs"][0]))
        return Frozen(self.dataset, rows, self._origin)

    def diff(self, other: Snapshot) -> RowChanges:
        """What changed from this snapshot to another one.

        Returns:
            Keys: `added`, `removed`, `changed` (other tensors), `relabelled`, `retagged`.

        Raises:
            ValueError: if `other` is no snapshot.
        """
        if not isinstance(other, Snapshot):
            raise ValueError(f"`other` must be a snapshot (see `freeze`). Received: {other!r}")
        return compare(self.store.rows, other.store.rows)


class Snapshots:
    """The snapshots of a dataset: `ds.snapshots`.

    Args:
        dataset: the dataset.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getitem__(self, name: str) -> Snapshot:
        """A snapshot by its name or its id.

        Raises:
            KeyError: if there is none.
        """
        check_key(name, "name")
        one = {"root" if _is_id(name) else "names": name}
        found = self._collection.find_one({**self._own, **one}, _ABOUT)
        if found is None:
            self.dataset.check_exists()
            raise KeyError(
                f"`name` must be the name or the id of a snapshot of {self.dataset.key!r}: "
                f"{', '.join(self) or 'there are none'}. Received: {name!r}"
            )
        return Snapshot(self.dataset, found)

    def __contains__(self, name: object) -> bool:
        either = [{"names": {"$eq": name}}, {"root": {"$eq": name}}]
        return isinstance(name, str) and bool(
            self._collection.count_documents({**self._own, "$or": either}, limit=1)
        )

    def __iter__(self) -> Iterator[str]:
        """The names, the oldest snapshot first."""
        for found in self._collection.find(self._own, {"names": 1}).sort("created", 1):
            yield from found["names"]

    def __repr__(self) -> str:
        return f"Snapshots({list(self)})"

    def delete(self, name: str) -> None:
        """Removes a name and, with the last one, the snapshot; `gc` then takes its old rows.

        Raises:
            KeyError: if there is no such name.
            ValueError: if it is the last one, and a version of a model was trained on the snapshot.
        """
        snapshot = self[name]
        if name not in snapshot.names:
            raise KeyError(f"`name` must be the name of a snapshot. Received: {name!r}")
        trained = {"data.uid": self.dataset.uid, "data.snapshot": snapshot.id}
        if len(snapshot.names) == 1:
            found = self.dataset.connection.db["versions"].find_one(
                trained, {"model": 1, "version": 1}
            )
            if found is not None:
                raise ValueError(
                    f"`name` must be of a snapshot that no version was trained on: version "
                    f"{found['version']} of {found['model']!r} was. Received: {name!r}"
                )
        as_seen = {"_id": snapshot._document["_id"], "names": list(snapshot.names)}
        if len(snapshot.names) == 1:
            # Before it: what dies later has a time of its own, and a kill in between spares packs.
            self._spare(snapshot)
            self._collection.delete_one(as_seen)
        else:
            self._collection.update_one(as_seen, {"$pull": {"names": name}})

    def _spare(self, snapshot: Snapshot) -> None:
        """Lets the grace of `gc` begin anew for the packs that the snapshot alone has kept."""
        one = {"_id": snapshot._document["_id"]}
        found = self._collection.find_one(one, {"packs": 1})
        for group in held.groups(held.numbers(found["packs"])) if found else ():
            dead = {"_id": {"$in": group}, "live": 0}
            self.dataset.heads.update_many(dead, {"$set": {"died": self.dataset.now()}})

    @property
    def _own(self) -> dict[str, Any]:
        return {"uid": self.dataset.uid}

    @property
    def _collection(self) -> Any:
        return self.dataset.connection.db["snapshots"]


_ABOUT = {"packs": 0, "buckets": 0}


def _is_id(name: str) -> bool:
    return re.fullmatch("[0-9a-f]{64}", name) is not None


def freeze(view: View, name: str) -> Snapshot:
    """Freezes a view (see `View.freeze`).

    Killed before the transaction, a blob without a snapshot stays, which `gc` takes; after it, the
    snapshot is there.
    """
    if _is_id(check_key(name, "name")):
        raise ValueError(f"`name` must be other than 64 hex digits, an id. Received: {name!r}")
    dataset, db = view.dataset, view.dataset.connection.db
    blobs = Blobs(db)
    # Of a snapshot's view, the steps behind the snapshot, too: chance tells them apart by that.
    plan = (*(view.base._origin if view.base is not None else ()), *view.plan)
    steps = kept(plan)
    while True:
        rows = view._ask(lambda store: _frozen(store, view.plan))
        root = merkle.root(rows)
        document: dict[str, Any] = {
            **{"_id": f"{dataset.uid}/{root}", "dataset": dataset.key, "uid": dataset.uid},
            **{"root": root, "names": [name], "n": len(rows.at), "created": dataset.now()},
            **{"plan": steps, **held.packed(rows.at, dataset.rows)},
            "blobs": blobs.put_many([rows.dumps(dataset.schema.tags)]),
        }
        if len(document["packs"]) > MOST_BYTES:
            raise ValueError(
                f"`view` must be one whose packs are told in {MOST_BYTES} bytes. Received: "
                f"{len(document['packs'])} bytes, for {len(rows.at)} samples"
            )
        hooks.phase("snapshot-uploaded")
        with db.client.start_session() as session:
            done = session.with_transaction(lambda s: _publish(dataset, blobs, document, s))  # noqa: B023
        if done:
            hooks.phase("snapshot-committed")
            return dataset.snapshots[name]


def _publish(
    dataset: Dataset, blobs: Blobs, document: dict[str, Any], session: ClientSession
) -> bool:
    """Writes the document, or its name into the one that is there, in a transaction.

    Returns:
        Whether it did; `gc` may have come first, and then all is looked up again.
    """
    snapshots = dataset.connection.db["snapshots"]
    (name,) = document["names"]
    named = snapshots.find_one({"uid": dataset.uid, "names": name}, {"root": 1}, session=session)
    if named is not None and named["root"] != document["root"]:
        raise ValueError(
            f"`name` must be one that no other snapshot of {dataset.key!r} has: it is that of "
            f"{named['root'][:12]}, and not of {document['root'][:12]}. Received: {name!r}"
        )
    one = {"_id": document["_id"]}
    if snapshots.find_one(one, {"_id": 1}, session=session) is not None:
        snapshots.update_one(one, {"$addToSet": {"names": name}}, session=session)
        return True
    packs = held.numbers(document["packs"])
    there = sum(
        dataset.heads.count_documents({"_id": {"$in": group}}, session=session)
        for group in held.groups(packs)
    )
    if there != len(packs) or not blobs.touch(document["blobs"], session):
        session.abort_transaction()
        return False
    snapshots.insert_one(document, session=session)
    dataset.hold(session)
    return True


def _frozen(store: Any, plan: Plan) -> FrozenRows:
    """The rows of a plan with all that is known of them."""
    found = evaluate(plan, store)
    rows = replace(found, at=np.sort(found.at))
    if isinstance(store, Frozen):
        return store.rows.take(store.places(rows.at))
    assert isinstance(store, Live)
    tags = list(store.schema.tags)
    keys, added, *values = store.table(rows, ["_id", "added", *(f"tags.{name}" for name in tags)])
    labels = store.labels(rows.at, list(store.schema.labels))
    columns = dict(zip(tags, values, strict=True))
    return FrozenRows(keys, rows.at, store.digests(rows.at), labels, columns, added)
