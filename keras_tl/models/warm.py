"""Models kept in this process between tasks: of the next version only what changed is assigned."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_tl.models import buffers, state, versions
from keras_tl.storage.connection import Connection

_MOST = 2  # models

_lock = threading.RLock()
_models: OrderedDict[tuple[Any, ...], _Warm] = OrderedDict()
#: How many tensors were assigned, since the process began.
assigned = 0


class _Mark(NamedTuple):
    """By which a variable is known to hold what was assigned to it."""

    hash: str
    value: Any


class _Warm:
    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self.marks: dict[int, _Mark] = {}  # by the variable's id; the model keeps it alive
        self.compiled = _compiled(model)


def warm(connection: Connection, version: Mapping[str, Any]) -> keras.Model:
    """The model of a version, compiled; the same object as long as the config is the same.

    One that was frozen or compiled otherwise since is no more what was stored: it is made anew.

    Raises:
        ValueError: if it has no config, Keras refuses it, or a tensor is damaged.
    """
    key = (connection.address, connection.project, version["model"], version.get("config"))
    with _lock:
        held = _models.get(key)
        entries = [(e, e) for e in versions.entries(versions.database(connection), version)]
        wanted = _wanted(held, entries) if held is not None else None
        if held is None or wanted is None:
            held = _Warm(_build(connection, version))
            wanted = state.pairs(held.model, entries)
        _models.pop(key, None)  # of an assignment that fails half-way nothing is kept
        _assign(connection, version, held, wanted)
        _models[key] = held
        while len(_models) > _MOST:
            _models.popitem(last=False)
        return held.model


def clear() -> None:
    """Forget the models that are kept."""
    with _lock:
        _models.clear()


def _build(connection: Connection, version: Mapping[str, Any]) -> keras.Model:
    config = versions.config(versions.database(connection), version)
    if config is None:
        raise ValueError(
            "`warm` needs a config, which Keras could not make of the model "
            f"{version['model']!r}: build the model and use `restore_into`. "
            "Received: a version without one"
        )
    return state.revive(config)


def _wanted(held: _Warm, entries: list[Any]) -> list[tuple[keras.Variable, Any]] | None:
    """Where the tensors go in a model that is kept; `None` if it is no more what it was."""
    optimizer, config = _compiled(held.model)
    if optimizer is not held.compiled[0] or config != held.compiled[1]:
        return None
    try:
        return state.pairs(held.model, entries)
    except ValueError:
        return None


def _compiled(model: keras.Model) -> tuple[Any, dict[str, Any]]:
    """How it is compiled; the optimizer's config changes as it trains."""
    config = model.get_compile_config() or {}
    return getattr(model, "optimizer", None), {k: v for k, v in config.items() if k != "optimizer"}


def _assign(
    connection: Connection,
    version: Mapping[str, Any],
    held: _Warm,
    wanted: list[tuple[keras.Variable, Any]],
) -> None:
    global assigned
    db = versions.database(connection)
    state.synchronise(held.model)
    unsure = _unsure(held, wanted)
    if not unsure:
        return
    hashes = {entry["hash"] for _, entry in unsure}
    values = {e["hash"]: array for e, array in versions.read(db, version, hashes=hashes)}
    changed = []
    for variable, entry in unsure:
        array = values[entry["hash"]]
        if not _holds(variable, array):
            variable.assign(array)
            changed.append(variable)
        held.marks[id(variable)] = _Mark(entry["hash"], _mark(variable))
    assigned += len(changed)
    state.finalise(held.model, changed)


def _unsure(held: _Warm, wanted: list[tuple[keras.Variable, Any]]) -> list[Any]:
    """The variables that may hold something else than the version has."""
    return [
        (variable, entry)
        for variable, entry in wanted
        if (mark := held.marks.get(id(variable))) is None
        or mark.hash != entry["hash"]
        or not _untouched(variable, mark.value)
    ]


def _mark(variable: keras.Variable) -> Any:
    backend, value = keras.backend.backend(), variable.value
    if backend == "jax":
        return weakref.ref(value)
    if backend == "torch":
        return value._version, value.data_ptr()
    return None


def _untouched(variable: keras.Variable, mark: Any) -> bool:
    """Whether nothing was written to the variable since `mark` was taken, as far as is known.

    JAX's arrays never change; torch counts what it does to one; TensorFlow tells nothing, so that
    the values are compared.
    """
    backend, value = keras.backend.backend(), variable.value
    if backend == "jax":
        return mark() is value
    if backend == "torch":
        return bool(mark == (value._version, value.data_ptr()))
    return False


def _holds(variable: keras.Variable, array: np.ndarray) -> bool:
    """Whether the variable has these values bit for bit: cheaper than to assign them."""
    (found,) = buffers.views([variable])
    if found.dtype != array.dtype or found.shape != array.shape:
        return False
    bits = np.ascontiguousarray(found).reshape(-1).view(np.uint8)
    return bool(np.array_equal(bits, np.ascontiguousarray(array).reshape(-1).view(np.uint8)))
