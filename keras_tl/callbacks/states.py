"""What the callbacks of a `fit` remember, so that a resumed one goes on as if nothing happened."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import keras

# Keras' callbacks have no state protocol: these are the attributes that decide what they do next.
_ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "EarlyStopping": ("wait", "stopped_epoch", "best", "best_epoch"),
    "ReduceLROnPlateau": ("wait", "best", "cooldown_counter"),
    "ModelCheckpoint": ("best", "_batches_seen_since_last_saving", "_last_batch_seen"),
}


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
            state = callback.get_state()
            try:
                json.dumps(state)
            except (TypeError, ValueError) as error:
                warnings.warn(
                    f"The state of {kind} is not kept: `get_state` must return what JSON can "
                    f"hold. Received: {error}",
                    stacklevel=2,
                )
                continue
            found.append({"class": kind, "state": state})
        elif kind in _ATTRIBUTES:
            values = {name: getattr(callback, name, None) for name in _ATTRIBUTES[kind]}
            found.append({"class": kind, "state": {k: _number(v) for k, v in values.items()}})
    return found


def restore(states: Iterable[Mapping[str, Any]], callbacks: Iterable[Any]) -> None:
    """Give each callback its state back: the first of a class the first state of that class."""
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
    """How often the optimizer has updated the model: once a step."""
    optimizer = getattr(model, "optimizer", None)
    return int(keras.ops.convert_to_numpy(optimizer.iterations)) if optimizer is not None else 0


def steps(model: keras.Model, before: int, most: int) -> int:
    """Steps of an epoch that is over, `before` being `updates` when it began.

    Keras tells which executions began, and not how long the last one was.
    """
    done = updates(model) - before
    return done if 0 < done <= most else most


def direction(model: keras.Model, monitor: str) -> str:
    """`"max"` or `"min"`, as Keras' `mode="auto"` decides it: by the metric, then by its name."""
    name = monitor.removeprefix("val_")
    for metric in model.metrics:
        for one in getattr(metric, "metrics", [metric]):
            if one.name == name and getattr(one, "_direction", None):
                return "max" if one._direction == "up" else "min"
    return "max" if any(part in name for part in ("acc", "auc", "fmeasure")) else "min"


def _kind(callback: Any) -> str:
    """The class, or Keras' own class that it extends."""
    for one in type(callback).__mro__:
        if one.__name__ in _ATTRIBUTES and one.__module__.startswith("keras."):
            return one.__name__
    return type(callback).__name__


def _number(value: Any) -> Any:
    return value if value is None or isinstance(value, (bool, int, str)) else float(value)
