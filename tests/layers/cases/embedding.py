"""Vectors of words."""

from __future__ import annotations

from functools import partial

import numpy as np
from harness import Arrays, Case

from keras_tl.layers import AverageEmbedding, Word2VecEmbedding


def pairs(rng: np.random.Generator) -> Arrays:
    return tuple(rng.integers(0, 9, (2, 3)).astype("int32") for _ in range(2))


def padded(rng: np.random.Generator) -> Arrays:
    ids = rng.integers(1, 6, (3, 2, 4)).astype("int32")
    ids[1, 0] = 5  # nothing but padding
    ids[2, :, 2:] = 5
    return (ids,)


CASES = [
    Case(
        "Word2VecEmbedding",
        partial(Word2VecEmbedding, 9, 4, num_sampled=4, loss="sampled_softmax", seed=1),
        ((2, 3), (2, 3)),
        call="args",
        inputs=pairs,
    ),
    Case(
        "AverageEmbedding",
        partial(AverageEmbedding, 6, 4, pad_value=5),
        ((3, 2, 4),),
        inputs=padded,
        free=(1, 2),
    ),
]
