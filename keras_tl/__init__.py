"""keras_tl: models, datasets, streams and tasks for people who use Keras 3.

Importing it imports Keras and nothing else that is heavy: what needs MongoDB, Kafka or a second
framework is loaded when it is used.
"""

import json
import os
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any


def _installed_backend() -> str | None:
    """The backend to take where Keras' own choice is not installed and nobody chose."""
    if "KERAS_BACKEND" in os.environ or "keras" in sys.modules:
        return None
    home = os.environ.get("KERAS_HOME")
    config = (Path(home) if home else Path.home() / ".keras") / "keras.json"
    try:
        chosen = json.loads(config.read_text()).get("backend", "tensorflow")
    except (OSError, ValueError, AttributeError):
        chosen = "tensorflow"
    if find_spec(chosen) is not None:
        return None
    return next((name for name in ("jax", "torch") if find_spec(name) is not None), None)


if _backend := _installed_backend():
    os.environ["KERAS_BACKEND"] = _backend

import keras  # noqa: E402, F401

if TYPE_CHECKING:
    from keras_tl import (
        callbacks,
        compat,
        datasets,
        initializers,
        layers,
        losses,
        metrics,
        models,
        regularizers,
        services,
        storage,
        streams,
    )
    from keras_tl.hub import Hub

__version__ = "0.1.0"

__all__ = [
    "Hub",
    "__version__",
    "callbacks",
    "compat",
    "datasets",
    "initializers",
    "layers",
    "losses",
    "metrics",
    "models",
    "regularizers",
    "services",
    "storage",
    "streams",
]


def __getattr__(name: str) -> Any:
    if name == "Hub":
        return import_module("keras_tl.hub").Hub
    if name in __all__:
        return import_module(f"keras_tl.{name}")
    raise AttributeError(f"module 'keras_tl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
