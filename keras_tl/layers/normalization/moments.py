"""Means and variances that keep their accuracy and whose gradient costs one pass over the input."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

__all__ = ["masked_moments", "moments"]

Moments = Callable[[Any, tuple[int, ...]], tuple[Any, Any]]


def moments(x: Any, axes: tuple[int, ...]) -> tuple[Any, Any]:
    """Mean and variance of `x` over `axes`, which stay as axes of length 1.

    `ops.moments` does not serve: its variance is `E[x^2] - E[x]^2` on torch, which cancels where
    the mean is large, and on TensorFlow it has a wrong second derivative.
    """
    backend = keras.backend.backend()
    if backend == "jax":
        return _jax_moments()(x, axes)
    return _tensorflow_moments(x, axes) if backend == "tensorflow" else _plain_moments(x, axes)


def masked_moments(x: Any, axes: tuple[int, ...], mask: Any) -> tuple[Any, Any, Any]:
    """Mean and variance of what `mask` (1 or 0, broadcastable to `x`) keeps, and its count.

    What it hides may be anything, also NaN.
    """
    x = ops.where(mask > 0, x, 0.0)
    count = ops.sum(mask, axis=axes, keepdims=True)
    divisor = ops.maximum(count, 1.0)
    mean = ops.sum(x * mask, axis=axes, keepdims=True) / divisor
    variance = ops.sum(ops.square(x - mean) * mask, axis=axes, keepdims=True) / divisor
    return mean, variance, count


def _plain_moments(x: Any, axes: tuple[int, ...]) -> tuple[Any, Any]:
    mean = ops.mean(x, axis=axes, keepdims=True)
    return mean, ops.mean(ops.square(x - mean), axis=axes, keepdims=True)


@functools.cache
def _jax_moments() -> Moments:
    """The same with its derivative written as `x * a + b`.

    XLA puts that into the pass that differentiates the normalisation; the derivative that it finds
    for itself costs a pass more (1.5x of a training step, measured). `ops.custom_gradient` would
    leave jax without forward mode.
    """
    import jax

    @functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
    def moments(x: Any, axes: tuple[int, ...]) -> tuple[Any, Any]:
        return _plain_moments(x, axes)

    @moments.defjvp
    def derivative(axes: tuple[int, ...], primals: Any, tangents: Any) -> Any:
        (x,), (dx,) = primals, tangents
        mean, variance = moments(x, axes)
        size = math.prod(x.shape[axis] for axis in axes)
        dmean = ops.sum(dx, axis=axes, keepdims=True) / size
        dsquares = ops.sum(x * dx, axis=axes, keepdims=True) / size
        return (mean, variance), (dmean, 2 * (dsquares - mean * dmean))

    return moments


def _tensorflow_moments(x: Any, axes: tuple[int, ...]) -> tuple[Any, Any]:
    """As `_jax_moments`."""

    @ops.custom_gradient
    def moments(x: Any) -> Any:
        mean, variance = _plain_moments(x, axes)
        size = ops.cast(ops.size(x), x.dtype) / ops.cast(ops.size(mean), x.dtype)

        def gradient(dmean: Any, dvariance: Any) -> Any:
            factor = dvariance * (2 / size)
            return x * factor + (dmean / size - mean * factor)

        return (mean, variance), gradient

    return moments(x)
