"""What every module stores with: tensors as bytes, records, blobs, the query language, leases.

Modules load on first use, so that a name from here costs no import of pymongo before it is needed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_tl.storage.blobs import Blobs as Blobs
    from keras_tl.storage.leases import Lease as Lease
    from keras_tl.storage.leases import LeaseLost as LeaseLost
    from keras_tl.storage.query import compile_query as compile_query

_HOMES = {"Blobs": "blobs", "Lease": "leases", "LeaseLost": "leases", "compile_query": "query"}

__all__ = ["Blobs", "Lease", "LeaseLost", "compile_query"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
