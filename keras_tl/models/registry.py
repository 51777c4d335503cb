"""`hub.models`: the models of a project and their versions."""

from __future__ import annotations

import datetime
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from keras_tl.models import resuming, state, versions
from keras_tl.models.buckets import name
from keras_tl.models.outbox import outbox
from keras_tl.models.plain import plain
from keras_tl.storage.blobs import Blobs
from keras_tl.storage.connection import Connection


class Version:
    """One version of a model, as a document: all of it is there, or it would not be.

    Attributes:
        number: 1, 2, ... in the order of commits.
        step: batches trained when it was taken.
        metrics: values of the metrics then.
        parent: number of the version before it on its chain, or `None`.
        cursor: offsets of the stream it was trained on, or `None`.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document
        self.number: int = document["version"]
        self.step: int = document["step"]
        self.epoch: int = document["epoch"]
        self.metrics: dict[str, float] = {name(k): v for k, v in document["metrics"].items()}
        self.parent: int | None = document["parent"]
        self.cursor: dict[str, Any] | None = document["cursor"]
        self.run: str = document["run"]
        self.created: datetime.datetime = document["created"]

    def __repr__(self) -> str:
        return f"Version({self.document['model']!r}, {self.number}, step={self.step})"


class Versions:
    """The versions of one model: `hub.models["digits"]`.

    Args:
        connection: where they are kept.
        key: the model's key.
    """

    def __init__(self, connection: Connection, key: str) -> None:
        self.connection = connection
        self.key = key

    def __repr__(self) -> str:
        return f"Versions({self.key!r})"

    def __iter__(self) -> Iterator[Version]:
        """The versions, newest first."""
        for document in self._collection.find({"model": self.key}).sort("version", -1):
            yield Version(document)

    def __len__(self) -> int:
        return int(self._collection.count_documents({"model": self.key}))

    @property
    def _collection(self) -> Any:
        return self.connection.db["versions"]

    @property
    def aliases(self) -> dict[str, int]:
        """Names of versions: `latest`, `best`."""
        found = self.connection.db["models"].find_one({"_id": self.key})
        return dict(found["aliases"]) if found else {}

    def version(self, version: int | str = "latest") -> Version:
        """One version, by number or alias.

        Raises:
            KeyError: if there is none.
        """
        number = self.aliases.get(version) if isinstance(version, str) else version
        found = self._collection.find_one({"model": self.key, "version": number})
        if found is None:
            raise KeyError(
                f"`version` must be one of the model {self.key!r}. Received: {version!r}"
            )
        return Version(found)

    def chain(self, version: int | str = "latest") -> list[Version]:
        """A version and those it was trained from, newest first.

        Every record of a stream is trained once on such a chain.
        """
        found = [self.version(version)]
        while found[-1].parent is not None:
            found.append(self.version(found[-1].parent))
        return found

    def load(self, version: int | str = "latest") -> keras.Model:
        """The model as it was, built and compiled, without running code from the store.

        Raises:
            KeyError: if there is no such version.
            ValueError: if Keras refuses its config or a tensor is damaged.
        """
        document = self.version(version).document
        if document["config"] is None:
            raise ValueError(
                f"`load` needs a config, which Keras could not make of the model {self.key!r}: "
                "build the model and use `restore_into`. Received: a version without one"
            )
        model = state.revive(Blobs(self.connection.db).get(document["config"]).decode())
        resuming.restore(self.connection, document, model)
        return model

    def restore_into(self, model: keras.Model, version: int | str = "latest") -> Version:
        """Put weights, optimizer and seeds of a version into a model of the same making.

        Raises:
            KeyError: if there is no such version.
            ValueError: if the model is another one, or a tensor is damaged.
        """
        found = self.version(version)
        resuming.restore(self.connection, found.document, model)
        return found

    def save(
        self,
        model: keras.Model,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> Version:
        """Save a model now, outside of `fit`, and wait until it is committed.

        Raises:
            pymongo.errors.PyMongoError: if the server does not take it.
        """
        manifest, bundle = state.capture(model)
        config = state.describe(model)
        if config is not None:
            bundle[versions.CONFIG] = np.frombuffer(config.encode(), np.uint8)
        identity = uuid.uuid4().hex
        optimizer = getattr(model, "optimizer", None)
        about = {
            **{"id": identity, "model": self.key, "run": identity, "attempt": identity},
            **{"number": 0, "began": time.time(), "base": self.aliases.get("latest")},
            "step": int(keras.ops.convert_to_numpy(optimizer.iterations)) if optimizer else 0,
            **{"epoch": 0, "batch": 0, "manifest": manifest, "callbacks": [], "cursor": None},
            **{"metrics": dict(metrics or {}), "best": None},
            "tags": {name: plain(value, name) for name, value in (tags or {}).items()},
        }
        return Version(versions.commit(self.connection.db, about, bundle))


class Models:
    """The models of a project: `hub.models`.

    Args:
        connection: where they are kept.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def __getitem__(self, key: str) -> Versions:
        if not isinstance(key, str) or not key:
            raise ValueError(f"`key` must be a string that is not empty. Received: {key!r}")
        return Versions(self.connection, key)

    def __contains__(self, key: object) -> bool:
        return self.connection.db["versions"].find_one({"model": key}, {"_id": 1}) is not None

    def __iter__(self) -> Iterator[str]:
        for document in self.connection.db["models"].find({}, {"_id": 1}).sort("_id", 1):
            yield document["_id"]

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until what callbacks have saved is committed; whether it is."""
        return outbox(self.connection).flush(timeout)
