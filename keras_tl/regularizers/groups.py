"""Which elements of a kernel belong to one neuron."""

from __future__ import annotations

import math
from typing import Any

GROUPS = ("inputs", "outputs")


def factor(value: Any) -> float:
    """`value` as a finite float of at least 0."""
    real = isinstance(value, int | float) and not isinstance(value, bool)
    if not real or not math.isfinite(value) or value < 0:
        raise ValueError(
            f"`factor` must be a finite number of at least 0. Received: factor={value!r}"
        )
    return float(value)


def axes(regularizer: Any, x: Any) -> tuple[int, ...]:
    """The axes of a kernel `(..., inputs, outputs)` along which a group lies."""
    rank = len(x.shape)
    if rank < 2:
        raise ValueError(
            f"`{type(regularizer).__name__}` of groups must be of a kernel of shape (..., inputs, "
            f"outputs). Received: shape={tuple(x.shape)}"
        )
    own = rank - 2 if regularizer.group == "inputs" else rank - 1
    return tuple(axis for axis in range(rank) if axis != own)
