"""The room `sequences` in the table of layers."""

from __future__ import annotations

from functools import partial

import numpy as np
from harness import Arrays, Case

from keras_tl.layers import CRF


def tagged(rng: np.random.Generator) -> Arrays:
    features = rng.standard_normal((2, 5, 4)).astype("float32")
    return features, rng.integers(0, 3, (2, 5)).astype("int32")


CASES = [
    Case(
        "CRF",
        partial(CRF, 3),
        ((2, 5, 4), (2, 5)),
        "args",
        tagged,
        fixed=(2,),
        gradient="surrogate",  # that of the loss which the layer adds: in its own test
    ),
]
