"""Activations with weights or a form that Keras lacks."""

from __future__ import annotations

from functools import partial

import numpy as np
from harness import Case

from keras_tl.layers import LeakyTwiceReLU6, Maxout, PReLU6, PTReLU6, Scale


def wide(*shape: int) -> partial[tuple[np.ndarray, ...]]:
    """Values on both sides of 0 and of 6."""
    return partial(_wide, shape)


def _wide(shape: tuple[int, ...], rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    return (rng.uniform(-6, 12, shape).astype("float32"),)


CASES = [
    Case("PReLU6", PReLU6, ((2, 4, 5),), inputs=wide(2, 4, 5), fixed=(1, 2), masks=True),
    Case(
        "PTReLU6",
        partial(PTReLU6, shared_axes=[1, 2]),
        ((2, 4, 5, 3),),
        inputs=wide(2, 4, 5, 3),
        free=(1, 2),
        fixed=(3,),
        masks=True,
    ),
    Case(
        "LeakyTwiceReLU6",
        partial(LeakyTwiceReLU6, 0.1, 0.3),
        ((2, 4, 5),),
        inputs=wide(2, 4, 5),
        free=(1, 2),
        masks=True,
    ),
    Case("Scale", Scale, ((2, 4, 5),), free=(1, 2), masks=True),
    Case("Maxout", partial(Maxout, 2), ((2, 4, 6),), free=(1,), fixed=(2,), masks=True),
    Case("Maxout-channels_first", partial(Maxout, 3, 1), ((2, 6, 3, 4),), free=(2, 3), fixed=(1,)),
]
