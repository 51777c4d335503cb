"""The room `sequences` in the table of layers."""

from __future__ import annotations

from functools import partial

import numpy as np
from harness import Arrays, Case

from keras_tl.layers import CRF, Seq2Seq


def tagged(rng: np.random.Generator) -> Arrays:
    features = rng.standard_normal((2, 5, 4)).astype("float32")
    return features, rng.integers(0, 3, (2, 5)).astype("int32")


def ids(rng: np.random.Generator) -> Arrays:
    source, target = rng.integers(1, 7, (2, 5)), rng.integers(1, 6, (2, 4))
    source[1, 3:] = target[1, 2:] = 0
    return source.astype("int32"), target.astype("int32")


CASES = [
    Case(
        "CRF",
        partial(CRF, 3),
        ((2, 5, 4), (2, 5)),
        "args",
        tagged,
        fixed=(2,),
        gradient="surrogate",  # that of the loss which the layer adds: in its own test
        jitted=True,
    ),
    Case(
        "Seq2Seq",
        partial(Seq2Seq, 7, 6, 4, embedding_dim=3, dropout=0.3),
        ((2, 5), (2, 4)),
        "args",
        ids,
        free=(1,),
        random=True,
        jitted=True,
    ),
]
