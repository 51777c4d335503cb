"""A version that a stream starts from, on its way to the checkpoint that trains on."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_tl.models import state, versions
from keras_tl.storage.connection import Connection

# By connection and key: the version, and the stream that starts where it stopped.
_announced: dict[tuple[Any, ...], tuple[Mapping[str, Any], weakref.ref[Any]]] = {}


def announce(
    connection: Connection, key: str, version: Mapping[str, Any] | None, stream: Any
) -> None:
    """Say that the `fit` of the model `key` on `stream` goes on from `version`."""
    where = (connection.address, connection.project, key)
    _announced.pop(where, None)
    if version is not None:
        _announced[where] = (version, weakref.ref(stream))


def claim(connection: Connection, key: str) -> tuple[Mapping[str, Any] | None, Any]:
    """The version that was announced for the model `key` and its stream, once."""
    where = (connection.address, connection.project, key)
    version, reference = _announced.pop(where, (None, None))
    stream = reference() if reference is not None else None
    return (version, stream) if stream is not None else (None, None)


def restore(
    connection: Connection,
    version: Mapping[str, Any],
    model: keras.Model,
    *,
    roles: Sequence[str] = state.ROLES[:-1],
    match: str | Sequence[str] | None = None,
) -> None:
    """Put weights, optimizer and seeds of a version into the model.

    Args:
        connection: where the version is kept.
        version: its document.
        model: the model; it is built if it is not and the version says how.
        roles: which of `state.ROLES` to restore.
        match: glob or globs on paths of tensors (`"head/*"`): only these are read and restored.

    Raises:
        ValueError: if the model is not the one that was stored, lacks what `match` names, or a
            tensor is damaged.
    """
    roles = tuple(roles)
    unknown = set(roles) - set(state.ROLES)
    if unknown or not roles:
        raise ValueError(f"`roles` must be some of {state.ROLES}. Received: {roles}")
    if not model.built:
        _build(connection, version, model)
    db = versions.database(connection)
    # All of them are paired, so that a part goes where it goes in the whole.
    wanted = state.pairs(model, ((e, e) for e in versions.entries(db, version)), roles, match)
    hashes = {entry["hash"] for _, entry in wanted}
    values = {e["hash"]: a for e, a in versions.read(db, version, roles, match, hashes)}
    state.assign(model, [(variable, values[entry["hash"]]) for variable, entry in wanted])


def callback_tensors(
    connection: Connection, version: Mapping[str, Any]
) -> list[tuple[dict[str, Any], np.ndarray]]:
    """What callbacks remember that is too large for a document, with its manifest entries."""
    return list(versions.read(connection.db, version, ("callback",)))


def restore_metrics(
    connection: Connection, version: Mapping[str, Any], model: keras.Model, batch: Any
) -> None:
    """Put back what the running means had summed up in the middle of an epoch."""
    tensors = list(versions.read(versions.database(connection), version, ("metric",)))
    if len(tensors) != len(model.metrics_variables) and batch is not None:
        # On TensorFlow metrics are made in the first step; this is how Keras makes them elsewhere.
        model._symbolic_build(data_batch=batch)
    state.restore(model, tensors, ("metric",))


def _build(connection: Connection, version: Mapping[str, Any], model: keras.Model) -> None:
    import json

    config = json.loads(versions.config(versions.database(connection), version) or "{}")
    if not config.get("build_config"):
        raise ValueError(
            "`model` must be built before it is restored: give it an `Input`, or call it on a "
            f"batch. Received: an unbuilt {type(model).__name__}"
        )
    model.build_from_config(config["build_config"])
