"""keras_tl: models, datasets, streams and tasks for people who use Keras 3.

Importing it imports Keras and nothing else that is heavy: what needs MongoDB, Kafka or a second
framework is loaded when it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import keras  # noqa: F401  # chooses the backend before anything of ours is loaded

if TYPE_CHECKING:
    from keras_tl import callbacks, models, services, storage, streams
    from keras_tl.hub import Hub

__version__ = "0.1.0"

__all__ = ["Hub", "__version__", "callbacks", "models", "services", "storage", "streams"]


def __getattr__(name: str) -> Any:
    if name == "Hub":
        return import_module("keras_tl.hub").Hub
    if name in __all__:
        return import_module(f"keras_tl.{name}")
    raise AttributeError(f"module 'keras_tl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
