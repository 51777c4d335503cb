"""Follows the versions of a model as they are committed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from keras_tl.storage.bell import Listener
from keras_tl.storage.connection import Connection

log = logging.getLogger("keras_tl")

#: The kind of ring that `MongoBroadcast` gives for a version of a `model`.
PUBLISHED = "version.published"


def follow(
    connection: Connection, key: str, after: int | None = None, poll: float = 1.0
) -> Iterator[dict[str, Any]]:
    """Each version of a model, for ever: those that there are and each that is committed.

    In the order of their numbers, each once and none left out but those that are deleted by then.
    A look at MongoDB each `poll` seconds finds them, and one at once when a `MongoBroadcast`
    rings; an outage of either is waited for.

    Args:
        connection: where the versions are.
        key: the model's key.
        after: number of the last version that is known; 0 for all. Default: begin with the one
            that `latest` points to.
        poll: s between two looks.

    Yields:
        Documents of versions.

    Raises:
        ValueError: if `poll` is not positive.
        pymongo.errors.PyMongoError: if MongoDB refuses to answer, as without the right to read.
    """
    if not poll > 0:
        raise ValueError(f"`poll` must be a positive number of seconds. Received: {poll!r}")
    return _follow(connection, key, after, poll)


def _follow(
    connection: Connection, key: str, after: int | None, poll: float
) -> Iterator[dict[str, Any]]:
    from pymongo.errors import CursorNotFound, PyMongoError

    away = False
    with Listener(connection, PUBLISHED, model=key) as listener:
        while True:
            try:
                if after is None:
                    model = connection.db["models"].find_one({"_id": key}, {"aliases.latest": 1})
                    latest = (model or {}).get("aliases", {}).get("latest", 1)
                    after = latest - 1
                # A version's number is given in the transaction that commits it, which conflicts
                # with that of any other version of the model: no lower number comes later.
                query = {"model": key, "version": {"$gt": after}, "deleted": None}
                # Not one cursor for them all: who follows may take hours over a version.
                found = list(connection.db["versions"].find(query).sort("version", 1).limit(100))
                if away:
                    away = False
                    log.warning("MongoDB at %s is back.", connection.address)
            except PyMongoError as error:
                if not (_passes(error) or isinstance(error, CursorNotFound)):
                    raise
                if not away:
                    away = True
                    log.warning(
                        "MongoDB at %s does not answer (%s): new versions of %r are waited for.",
                        connection.address,
                        type(error).__name__,
                        key,
                    )
                found = []
            for document in found:
                after = document["version"]
                yield document
            if not found:
                listener.wait(poll)


def _passes(error: Any) -> bool:
    """Whether the server is away, and not of another opinion."""
    from pymongo.errors import ConnectionFailure

    return isinstance(error, ConnectionFailure) or bool(error.timeout)
