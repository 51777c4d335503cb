"""`hub.datasets["cifar"]`: a dataset, which is also the view of all its samples."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from keras_tl.datasets.schema.names import check_key
from keras_tl.datasets.schema.schema import Schema
from keras_tl.datasets.storing import block
from keras_tl.datasets.storing.editing import Editing
from keras_tl.datasets.views import indexes

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.collection import Collection

    from keras_tl.datasets.snapshots.snapshots import Snapshots
    from keras_tl.datasets.views.saved import Views
    from keras_tl.storage.connection import Connection


class Dataset(Editing):
    """The samples of one dataset: `hub.datasets["cifar"]`.

    It is the view of all of them, too: whatever a view can do, it can.

    Args:
        connection: where they are kept.
        document: of the dataset, in the collection `datasets`.

    Attributes:
        key: its key.
        slug: what the names of its collections end in.
        uid: tells it from one of the same key that was deleted.
        schema: its fields and tags.
        rows: addresses a pack: a sample's is `pack * rows + row`.
    """

    def __init__(self, connection: Connection, document: Mapping[str, Any]) -> None:
        super().__init__(self)
        self.connection = connection
        self.document = dict(document)
        self.key: str = document["_id"]
        self.slug: str = document["slug"]
        self.uid: str = document["uid"]
        self.rows: int = document["rows"]
        self.schema = Schema.from_config({**document["schema"], "tags": document["tags"]})
        self._clock: tuple[datetime, float] | None = None

    def __repr__(self) -> str:
        return f"Dataset({self.key!r}, {self.schema!r})"

    @property
    def packs(self) -> Collection[dict[str, Any]]:
        """The collection of its packs: immutable, a payload a field."""
        return self._collection("packs")

    @property
    def heads(self) -> Collection[dict[str, Any]]:
        """The collection of its packs' heads: labels, digests, and rows that are dead."""
        return self._collection("heads")

    @property
    def samples(self) -> Collection[dict[str, Any]]:
        """The collection of its samples: where each is, its labels and tags."""
        return self._collection("samples")

    @property
    def predictions(self) -> Collection[dict[str, Any]]:
        """The collection of what models say of its samples."""
        return self._collection("predictions")

    def _collection(self, kind: str) -> Collection[dict[str, Any]]:
        return self.connection.db[f"{kind}.{self.slug}"]

    @property
    def views(self) -> Views:
        """The saved views: `ds.views["good"]`."""
        from keras_tl.datasets.views.saved import Views

        return Views(self)

    @property
    def snapshots(self) -> Snapshots:
        """The frozen views: `ds.snapshots["v1"]`."""
        from keras_tl.datasets.snapshots.snapshots import Snapshots

        return Snapshots(self)

    @property
    def indexes(self) -> list[dict[str, Any]]:
        """The indexes on labels and tags: `fields`, `auto`, `ready`, and when last `used`."""
        return indexes.listed(self)

    def create_index(self, *names: str) -> None:
        """Makes an index on labels and tags, in this order, and waits until it is there.

        Raises:
            ValueError: for a name that is not there.
        """
        indexes.create(self, names)

    def drop_index(self, *names: str) -> None:
        """Drops an index, one that was made by itself, too.

        Raises:
            KeyError: if there is none on these names.
        """
        indexes.drop(self, names)

    def refresh(self) -> Schema:
        """Reads its document again, which others may have changed: tags, indexes; the schema.

        Raises:
            KeyError: if it was deleted.
        """
        found = self.connection.db["datasets"].find_one({"_id": self.key, "uid": self.uid})
        if found is None:
            raise self._deleted()
        self.document = found
        self.schema = Schema.from_config({**found["schema"], "tags": found["tags"]})
        return self.schema

    def _deleted(self) -> KeyError:
        return KeyError(
            f"`dataset` must be one that exists. Received: {self.key!r}, which was deleted"
        )

    def insert(
        self,
        sample: Mapping[str, Any],
        key: str | None = None,
        tags: Mapping[str, Any] | None = None,
        *,
        replace: bool = False,
    ) -> str:
        """Adds one sample; of many, `insert_many` takes a thousandth of the time for each.

        Args:
            sample: values by field; labels may be absent. `key` and `tags` may stand in it, too,
                as `insert_many` takes them.
            key: its key; default: a new one.
            tags: values by tag, of those that the sample does not have of its own.
            replace: whether a sample of that key that has other values gets these.

        Returns:
            The key.

        Raises:
            ValueError: if a value does not fit, the key exists with other values, or `sample` has
                another one.

        Example:

        ```python
        ds.insert({"x": image, "y": 3}, key="a", tags={"split": "train"})
        ```
        """
        if not isinstance(sample, Mapping):
            raise ValueError(
                f"`sample` must be a mapping of fields to values. Received: {sample!r}"
            )
        own = sample.get("key")
        if key is None:
            key = block.fresh_keys(1)[0] if own is None else own
        elif own not in (None, key):
            raise ValueError(f"`key` must be the one in `sample`: {own!r}. Received: {key!r}")
        named = check_key(key)
        self.insert_many([{**sample, "key": named}], tags=tags, replace=replace)
        return named

    def insert_many(
        self,
        samples: Mapping[str, Any] | Iterable[Mapping[str, Any]],
        keys: Iterable[str] | None = None,
        tags: Mapping[str, Any] | None = None,
        *,
        replace: bool = False,
    ) -> int:
        """Adds samples; those that are there already are skipped, so that it can be repeated.

        A sample is the same if its tensors are, and the labels and tags that come with it. What
        is given as columns is checked before anything is written, but for files that it names. Of
        an iterable a few blocks are in memory at a time, and samples before a refused one stay; a
        key that comes again in it is as one that comes again in a later call.

        Args:
            samples: columns by field: arrays or lists with a value a sample; or an iterable of
                mappings `{field: value, ..., "key": ..., "tags": {...}}`, where key and tags may
                be absent.
            keys: of columns: a key a sample; default: new ones.
            tags: by tag: a value a sample, or one for all of them; of an iterable one value, for
                those that have none of their own.
            replace: whether samples that exist with other values get these.

        Returns:
            How many samples were written: new ones and, with `replace`, those that changed.

        Raises:
            ValueError: if something does not fit, naming the sample and the field, or a key exists
                with other values.

        Example:

        ```python
        ds.insert_many({"x": x_train, "y": y_train}, tags={"split": "train"})
        ds.insert_many({"x": load(path), "key": path.name} for path in paths)
        ```
        """
        from keras_tl.datasets.storing.writing import insert

        return insert(self, samples, keys, tags, replace)

    def reserve(self, count: int) -> int:
        """The first of so many numbers for packs, which nobody else gets.

        Raises:
            KeyError: if the dataset was deleted.
        """
        found = self.connection.db["datasets"].find_one_and_update(
            {"_id": self.key, "uid": self.uid}, {"$inc": {"next": count}}, {"next": 1}
        )
        if found is None:
            raise self._deleted()
        number: int = found["next"]
        return number

    def now(self) -> datetime:
        """The server's time, about: it was asked once, and a local clock counts since."""
        if self._clock is None:
            at: datetime = self.connection.db.command("hello")["localTime"]
            self._clock = at.replace(tzinfo=UTC), time.monotonic()
        at, since = self._clock
        return at + timedelta(seconds=time.monotonic() - since)

    def hold(self, session: ClientSession) -> None:
        """Lets transactions that freeze rows, or remove packs, come one after the other.

        Raises:
            KeyError: if the dataset was deleted.
        """
        query = {"_id": self.key, "uid": self.uid}
        held = {"$inc": {"held": 1}}
        datasets = self.connection.db["datasets"]
        if not datasets.update_one(query, held, session=session).matched_count:
            raise self._deleted()

    def check_exists(self, session: ClientSession | None = None) -> None:
        """Raises a `KeyError` if the dataset was deleted."""
        query = {"_id": self.key, "uid": self.uid}
        if self.connection.db["datasets"].find_one(query, {"_id": 1}, session=session) is None:
            raise self._deleted()
