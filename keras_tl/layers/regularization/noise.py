"""How these layers draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

__all__ = ["dropped"]


def dropped(x: Any, shape: Sequence[Any], rate: float, seed: Any) -> Any:
    """`x`, where a mask of this shape keeps it, divided by the part that is kept; else zero.

    `keras.random.dropout` ignores the seed on torch, and would draw in half precision.
    """
    keep = keras.random.uniform(shape, dtype="float32", seed=seed) >= rate
    return ops.where(keep, x * (1 / (1 - rate)), ops.zeros((), x.dtype))
