"""`MongoBroadcast`: tells those who follow a model of each new version."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import keras

from keras_tl.callbacks import states
from keras_tl.callbacks.checkpoint import MongoCheckpoint
from keras_tl.models.follow import PUBLISHED
from keras_tl.models.outbox import outbox
from keras_tl.storage import bell
from keras_tl.storage.connection import Connection, connect


class MongoBroadcast(keras.callbacks.Callback):
    """Tells processes that follow a model of each version, as soon as it is committed.

    It rings a bell over Kafka: a process in `hub.models[key].follow()` hears it within
    milliseconds. Without a Kafka, or where a ring is lost, such a process finds the version by
    its own look a second later: no version is missed.

    The versions are those of the `MongoCheckpoint` of the same `fit`.

    Args:
        hub: a `Hub`, or a MongoDB URI.
        model: key of the model.

    Example:

    ```python
    model.fit(x, y, callbacks=[*hub.callbacks("digits"), MongoBroadcast(hub, "digits")])

    # in another process
    for version in hub.models["digits"].follow():
        model = hub.models["digits"].load(version.number)
    ```
    """

    def __init__(self, hub: Any, model: str) -> None:
        super().__init__()
        self.connection = connect(hub)
        self.key = model

    def on_train_begin(self, logs: Any = None) -> None:
        others = states.siblings(self)
        if not any(isinstance(one, MongoCheckpoint) and one.key == self.key for one in others):
            warnings.warn(
                f"`MongoBroadcast` tells of the versions of a checkpoint, and no `MongoCheckpoint` "
                f"of this `fit` saves {self.key!r}.",
                stacklevel=2,
            )
        # For as long as the process has this outbox: a version may be committed after the `fit`.
        told = outbox(self.connection).uploader.on_commit
        ringer = _Ring(self.connection, self.key)
        if ringer not in told:
            told.append(ringer)


class _Ring:
    """Rings for each version of one model; equal to another one that does the same."""

    def __init__(self, connection: Connection, key: str) -> None:
        self.connection = connection
        self.key = key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Ring) and (self.connection, self.key) == (
            other.connection,
            other.key,
        )

    def __hash__(self) -> int:
        return hash((self.connection, self.key))

    def __call__(self, document: Mapping[str, Any]) -> None:
        if document["model"] == self.key:
            bell.ring(self.connection, PUBLISHED, model=self.key, version=document["version"])
