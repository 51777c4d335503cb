"""`ds.views["good"]`: views under names, as questions; no sample is copied."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from keras_tl.datasets.schema.names import check_key
from keras_tl.datasets.views.plan import Plan, from_document, to_document
from keras_tl.datasets.views.view import View

if TYPE_CHECKING:
    from keras_tl.datasets.collection import Dataset

#: Of a plan, and of the packs of a snapshot: both fit a document.
MOST_BYTES = 15 << 19


class Views:
    """The saved views of a dataset: `ds.views`.

    Args:
        dataset: the dataset.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getitem__(self, name: str) -> View:
        """A view by its name, which is evaluated when it is read.

        Raises:
            KeyError: if there is none.
        """
        found = self._collection.find_one({"_id": self._id(name)})
        if found is None:
            self.dataset.check_exists()
            raise KeyError(
                f"`name` must be the name of a view of {self.dataset.key!r}: "
                f"{', '.join(self) or 'there are none'}. Received: {name!r}"
            )
        names, join, snapshot = found["fields"], found["join"], found["snapshot"]
        return View(
            self.dataset,
            from_document(found["plan"]),
            None if names is None else tuple(names),
            None if join is None else (join[0], join[1]),
            None if snapshot is None else self.dataset.snapshots[snapshot],
        )

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in list(self)

    def __iter__(self) -> Iterator[str]:
        """The names, in alphabetical order."""
        for found in self._collection.find({"uid": self.dataset.uid}, {"name": 1}).sort("name", 1):
            yield found["name"]

    def __repr__(self) -> str:
        return f"Views({list(self)})"

    def delete(self, name: str) -> None:
        """Forgets a view; its samples stay.

        Raises:
            KeyError: if there is none.
        """
        if not self._collection.delete_one({"_id": self._id(name)}).deleted_count:
            raise KeyError(f"`name` must be the name of a view. Received: {name!r}")

    def save(self, view: View, name: str) -> None:
        """Keeps a view under a name (see `View.save`)."""
        from pymongo.errors import DuplicateKeyError

        about = {
            **{"dataset": self.dataset.key, "uid": self.dataset.uid, "name": name},
            **{"plan": kept(view.plan), "fields": view.chosen, "join": view.join},
            "snapshot": None if view.base is None else view.base.id,
        }
        one = {"_id": self._id(name)}
        try:
            self.dataset.check_exists()
            self._collection.insert_one({**one, **about, "created": self.dataset.now()})
        except DuplicateKeyError:
            found = self._collection.find_one(one) or {}
            if any(found.get(part) != _stored(value) for part, value in about.items()):
                raise ValueError(
                    f"`name` must be one that no other view of {self.dataset.key!r} has (delete "
                    f"that one first). Received: {name!r}"
                ) from None

    def _id(self, name: str) -> str:
        return f"{self.dataset.uid}/{check_key(name, 'name')}"

    @property
    def _collection(self) -> Any:
        return self.dataset.connection.db["views"]


def kept(plan: Plan) -> list[dict[str, Any]]:
    """A plan as a document that others keep.

    Raises:
        ValueError: if it is longer than a document can be.
    """
    import bson

    found = to_document(plan)
    if (size := len(bson.encode({"plan": found}))) > MOST_BYTES:
        raise ValueError(
            f"`view` must be one whose steps have {MOST_BYTES} bytes at most: give samples that "
            f"many keys name a tag, and ask for that. Received: {size} bytes"
        )
    return found


def _stored(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
