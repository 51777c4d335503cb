"""Where the windows of convolution and pooling lie."""

from __future__ import annotations

from typing import Any

from keras import ops

__all__ = ["windows"]


def windows(size: Any, window: int, stride: int, padding: str) -> tuple[Any, Any, Any]:
    """How many windows an axis has, and how much it is padded before and after, as Keras does.

    The numbers are integers, tensors if the size is one, as in a TensorFlow graph, or symbols, as
    in a trace of jax.
    """
    if padding == "valid":
        return (size - window) // stride + 1, 0, 0
    count = (size + stride - 1) // stride
    missing = (count - 1) * stride + window - size
    missing = ops.maximum(missing, 0) if ops.is_tensor(missing) else max(missing, 0)
    return count, missing // 2, missing - missing // 2
