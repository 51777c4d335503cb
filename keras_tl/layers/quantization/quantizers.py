"""The quantisers of the papers: what a tensor becomes, and through what its gradient passes.

Each gives a `Quantized`. The rounding has no useful gradient, so each paper names a surrogate, a
function whose gradient is taken instead.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
from keras import ops

__all__ = [
    "Quantized",
    "affine",
    "binary",
    "dorefa_inputs",
    "dorefa_weights",
    "fake_quantize",
    "full_precision",
    "ternary",
]


class Quantized(NamedTuple):
    """A quantised tensor: `scale * (codes - zero)`.

    codes: whole numbers from 0, held as floats. scale, zero: scalars. surrogate: of the codes'
    shape; its gradient stands for that of the values.
    """

    codes: Any
    scale: Any
    zero: Any
    surrogate: Any

    def forward(self) -> Any:
        """The values, with the surrogate's gradient.

        `ops.custom_gradient` does not serve: on torch it silently gives a Keras variable no
        gradient and refuses torch.func, on jax it has no forward mode. The difference below is an
        exact zero, so that the values are exact too.
        """
        values = self.scale * (self.codes - self.zero)
        return ops.stop_gradient(values) + (self.surrogate - ops.stop_gradient(self.surrogate))


def full_precision(x: Any) -> Any:
    """A tensor of float32 at least: thresholds and rounding are not for half precision."""
    x = ops.convert_to_tensor(x)
    return ops.cast(x, keras.backend.result_type(x.dtype, "float32"))


def binary(x: Any) -> Quantized:
    """Sign, which is 1 at 0 (arXiv:1602.02830); gradient 1 where |x| <= 1, else 0."""
    return Quantized(ops.cast(x >= 0, x.dtype), 2.0, 0.5, _inside(x, -1, 1))


def ternary(x: Any) -> Quantized:
    """alpha * {-1, 0, 1} (arXiv:1605.04711, equations 5 and 6); gradient 1."""
    size = ops.abs(x)
    kept = ops.cast(size > 0.7 * ops.mean(size), x.dtype)
    alpha = ops.sum(size * kept) / ops.maximum(ops.sum(kept), 1.0)
    return Quantized(1 + ops.sign(x) * kept, alpha, 1.0, x)


def dorefa_weights(x: Any, bits: int, variant: str) -> Quantized:
    """arXiv:1606.06160, equations 7 (one bit) and 9."""
    if bits == 1:
        return Quantized(ops.cast(x >= 0, x.dtype), 2 * ops.mean(ops.abs(x)), 0.5, x)
    if variant == "paper":
        squashed = ops.tanh(x)
        bounded = surrogate = squashed / ops.maximum(
            ops.max(ops.abs(squashed)), keras.config.epsilon()
        )
    else:
        bounded, surrogate = ops.clip(x, -1, 1), _inside(x, -1, 1)
    levels = 2**bits - 1
    codes = ops.round((bounded + 1) * (levels / 2))
    return Quantized(codes, 2 / levels, levels / 2, surrogate)


def dorefa_inputs(x: Any, bits: int, variant: str) -> Quantized:
    """arXiv:1606.06160, equation 11, of inputs that are bounded to [0, 1] before."""
    if variant == "tensorlayer":
        x = x * ops.stop_gradient(ops.sign(x))  # the gradient of `ops.abs` at 0 is not 0 on jax
    levels = 2**bits - 1
    return Quantized(ops.round(ops.clip(x, 0, 1) * levels), 1 / levels, 0.0, _inside(x, 0, 1))


def affine(low: Any, high: Any, levels: int) -> tuple[Any, Any]:
    """Scale and zero of codes 0 ... levels for [low, high], which holds 0.

    The zero is a whole number, so that 0.0 has a code (arXiv:1712.05877, section 3).
    """
    scale = (high - low) / levels
    scale = ops.where(scale > 0, scale, 1.0)  # an empty range: all is 0
    return scale, ops.round(-low / scale)


def fake_quantize(x: Any, low: Any, high: Any, levels: int) -> Quantized:
    """Codes 0 ... levels of [low, high] (arXiv:1712.05877); gradient 1 inside, 0 where clipped."""
    scale, zero = affine(low, high, levels)
    codes = ops.clip(ops.round(x * (1 / scale) + zero), 0, levels)
    return Quantized(codes, scale, zero, _inside(x, -zero * scale, (levels - zero) * scale))


def _inside(x: Any, low: Any, high: Any) -> Any:
    """`x` where it is in [low, high]. The gradient of `ops.clip` at a bound is 0.5 on jax."""
    return ops.where(ops.logical_and(x >= low, x <= high), x, 0.0)
