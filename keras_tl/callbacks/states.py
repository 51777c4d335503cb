"""What the callbacks of a `fit` remember, so that a resumed one goes on as if nothing happened."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

# Keras' callbacks have no state protocol: these are the attributes that decide what they do next.
_ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "EarlyStopping": ("wait", "stopped_epoch", "best", "best_epoch"),
    "ReduceLROnPlateau": ("wait", "best", "cooldown_counter"),
    "ModelCheckpoint": ("best", "_batches_seen_since_last_saving", "_last_batch_seen"),
}
_WEIGHTS = "best_weights"  # of `EarlyStopping(restore_best_weights=True)`


def siblings(callback: keras.callbacks.Callback) -> list[keras.callbacks.Callback]:
    """The other callbacks of the same `fit`, as seen from within a hook that Keras calls.

    Keras tells a callback nothing of its siblings; the list that is calling it stands on the stack.
    """
    frame = sys._getframe(1)
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, keras.callbacks.CallbackList):
            return [c for c in caller.callbacks if c is not callback]
        frame = frame.f_back  # type: ignore[assignment]
    return []


def collect(callbacks: Iterable[Any]) -> list[dict[str, Any]]:
    """The states of Keras' own stateful callbacks, and of those with `get_state`/`set_state`."""
    found = []
    for callback in callbacks:
        kind = _kind(callback)
        if hasattr(callback, "get_state") and hasattr(callback, "set_state"):
            try:
                state = _checked(callback.get_state())
            except (TypeError, ValueError, RecursionError) as error:
                warnings.warn(
                    f"The state of {kind} is not kept: `get_state` must return what JSON and "
                    f"BSON can hold. Received: {error}",
                    stacklevel=2,
                )
                continue
            found.append({"class": kind, "state": state})
        elif kind in _ATTRIBUTES:
            values = {name: getattr(callback, name, None) for name in _ATTRIBUTES[kind]}
            found.append({"class": kind, "state": {k: _number(v) for k, v in values.items()}})
    return found


def arrays(callbacks: Iterable[Any]) -> list[tuple[str, np.ndarray]]:
    """What Keras' own callbacks remember that is too large for a document, with its paths."""
    found = []
    for name, callback in _stopping(callbacks):
        for i, array in enumerate(getattr(callback, _WEIGHTS, None) or []):
            # A copy: on some backends these are the variables' own buffers.
            found.append((f"{name}/{i}", np.array(keras.ops.convert_to_numpy(array), copy=True)))
    return found


def restore(
    states: Iterable[Mapping[str, Any]],
    callbacks: Iterable[Any],
    tensors: Iterable[tuple[Mapping[str, Any], np.ndarray]] = (),
) -> None:
    """Give each callback its state back: the first of a class the first state of that class.

    Args:
        states: what `collect` returned.
        callbacks: those that are to go on.
        tensors: what `arrays` returned, as pairs of a manifest entry and its array.
    """
    callbacks = list(callbacks)
    stored_arrays: dict[str, list[np.ndarray]] = {}
    for entry, array in tensors:
        stored_arrays.setdefault(entry["path"].rpartition("/")[0], []).append(array)
    for name, callback in _stopping(callbacks):
        if name in stored_arrays:
            setattr(callback, _WEIGHTS, stored_arrays[name])
    waiting = list(states)
    for callback in callbacks:
        kind = _kind(callback)
        stored = next((s for s in waiting if s["class"] == kind), None)
        if stored is None:
            continue
        waiting.remove(stored)
        if hasattr(callback, "set_state"):
            callback.set_state(stored["state"])
        else:
            for name, value in stored["state"].items():
                setattr(callback, name, value)


def updates(model: keras.Model) -> int:
    """How often the optimizer was called: once a step, if `train_step` is Keras' own."""
    optimizer = getattr(model, "optimizer", None)
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of one that scales the loss
    # Private: `iterations` counts a step only when its gradients are no longer accumulated.
    calls = getattr(optimizer, "_iterations", None)
    return int(keras.ops.convert_to_numpy(calls)) if calls is not None else 0


def steps(callback: keras.callbacks.Callback, before: int, most: int) -> int:
    """Steps of an epoch that is over, `before` being `updates` when it began.

    Keras tells which executions began, and not how long the last one was. The optimizer is
    believed about that one alone: a `train_step` may call it twice a step, or not at all.

    Args:
        callback: one of the `fit`.
        before: `updates` when the epoch began, less the steps that an earlier `fit` made of it.
        most: steps, if the last execution was a whole one.
    """
    done = updates(callback.model) - before
    least = most - callback.model.steps_per_execution
    if (callback.params or {}).get("steps") is None:
        least -= 1  # at the end of data of unknown length an execution may begin that has none
    return done if max(least, 0) < done <= most else most


def direction(model: keras.Model, monitor: str) -> str:
    """`"max"` or `"min"`, as Keras' `mode="auto"` decides it: by the metric, then by its name."""
    name = monitor.removeprefix("val_")
    for metric in model.metrics:
        for one in getattr(metric, "metrics", [metric]):
            if one.name == name and getattr(one, "_direction", None):
                return "max" if one._direction == "up" else "min"
    return "max" if any(part in name for part in ("acc", "auc", "fmeasure")) else "min"


def _stopping(callbacks: Iterable[Any]) -> list[tuple[str, Any]]:
    stopping = [c for c in callbacks if _kind(c) == "EarlyStopping"]
    return [(f"EarlyStopping/{i}/{_WEIGHTS}", c) for i, c in enumerate(stopping)]


def _checked(state: Any) -> Any:
    """The state as a document gives it back.

    Raises:
        ValueError: if no document can hold it, naming what.
    """
    from bson import decode, encode
    from bson.errors import BSONError

    try:
        return decode(encode({"state": json.loads(json.dumps(state))}))["state"]
    except (BSONError, OverflowError) as error:
        raise ValueError(str(error)) from error


def _kind(callback: Any) -> str:
    """The class, or Keras' own class that it extends."""
    for one in type(callback).__mro__:
        if one.__name__ in _ATTRIBUTES and one.__module__.startswith("keras."):
            return one.__name__
    return type(callback).__name__


def _number(value: Any) -> Any:
    return value if value is None or isinstance(value, (bool, int, str)) else float(value)
