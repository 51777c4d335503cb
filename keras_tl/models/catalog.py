"""`hub.models`: the models of a project."""

from __future__ import annotations

from collections.abc import Iterator

from keras_tl.models import garbage, retention
from keras_tl.models.outbox import outbox
from keras_tl.models.registry import Versions
from keras_tl.storage.connection import Connection


class Models:
    """The models of a project: `hub.models`.

    Args:
        connection: where they are kept.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def __getitem__(self, key: str) -> Versions:
        if not isinstance(key, str) or not key or not key.isprintable():
            raise ValueError(
                f"`key` must be a string of printable characters, not empty. Received: {key!r}"
            )
        return Versions(self.connection, key)

    def __contains__(self, key: object) -> bool:
        query = {"model": key, "deleted": None}
        return self.connection.db["versions"].find_one(query, {"_id": 1}) is not None

    def __iter__(self) -> Iterator[str]:
        for document in self.connection.db["models"].find({}, {"_id": 1}).sort("_id", 1):
            yield document["_id"]

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until what callbacks have saved is committed; whether it is."""
        return outbox(self.connection).flush(timeout)

    def delete(self, key: str, *, force: bool = False) -> None:
        """Remove a model: its versions, aliases and their history; its runs stay.

        Args:
            key: the model's key.
            force: also while a run trains it, whose next save makes the model anew.

        Raises:
            KeyError: if there is no such model.
            ValueError: if a run trains it and `force` is not given.
        """
        retention.delete_model(self.connection, key, force)

    def gc(self, grace: float = garbage.GRACE, dry_run: bool = False) -> dict[str, int]:
        """Delete tensors that no version refers to, and what killed uploads left.

        What datasets and their snapshots refer to stays. It is safe beside processes that save and
        load.

        Args:
            grace: s for which anything is spared that was uploaded, or whose version was deleted,
                lately; longer than the longest upload or load.
            dry_run: count and delete nothing.

        Returns:
            `deleted` blobs, their `bytes`, and `orphans`: uploads that never ended.

        Raises:
            ValueError: if `grace` is negative, or the manifest of a version is damaged.
        """
        return garbage.collect(self.connection, grace, dry_run)
