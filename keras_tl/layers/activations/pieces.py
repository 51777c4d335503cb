"""The three pieces of these activations: below 0, up to 6, above."""

from __future__ import annotations

from typing import Any

from keras import ops

__all__ = ["pieces"]


def pieces(x: Any, low: Any, high: Any = 0) -> Any:
    """`low * x` below 0, `6 + high * (x - 6)` above 6, `x` between."""
    return ops.where(x < 0, low * x, ops.where(x > 6, 6 + high * (x - 6), x))
