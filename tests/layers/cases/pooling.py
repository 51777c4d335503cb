"""The room `pooling` in the table of layers."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from harness import Case

from keras_tl.layers import MaxPooling2DWithArgmax, MaxUnpooling2D


def pooled(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Values, and places in their windows of 2 x 2 in a plane of 4 x 6."""
    rows = 2 * np.arange(2)[:, None, None] + rng.integers(2, size=(2, 2, 3, 4))
    columns = 2 * np.arange(3)[:, None] + rng.integers(2, size=(2, 2, 3, 4))
    values = rng.standard_normal((2, 2, 3, 4)).astype("float32")
    return values, (rows * 6 + columns).astype("int32")


def distinct(*shape: int) -> Any:
    """Values that are far from each other, so that the greatest stays the greatest."""

    def inputs(rng: np.random.Generator) -> tuple[np.ndarray]:
        return (rng.permutation(np.prod(shape)).reshape(shape).astype("float32") / 20,)

    return inputs


def overlapping(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Values, channels first, and the middle of each window of 3 x 3 in a plane of 5 x 7."""
    places = (2 * np.arange(3)[:, None]) * 7 + 2 * np.arange(4)
    values = rng.standard_normal((2, 2, 3, 4)).astype("float32")
    return values, np.broadcast_to(places, values.shape).astype("int32")


# `TimeDistributed` of Keras takes one output; in half precision other values are the greatest.
two_outputs: Any = {"time_distributed": False, "mixed": False}

CASES = [
    Case(
        "MaxPooling2DWithArgmax",
        functools.partial(MaxPooling2DWithArgmax, 2),
        ((2, 5, 6, 3),),
        inputs=distinct(2, 5, 6, 3),
        free=(1, 2),
        **two_outputs,
    ),
    Case(
        "MaxPooling2DWithArgmax-channels_first",
        functools.partial(
            MaxPooling2DWithArgmax, (3, 2), 2, padding="same", data_format="channels_first"
        ),
        ((2, 3, 5, 6),),
        inputs=distinct(2, 3, 5, 6),
        free=(2, 3),
        **two_outputs,
    ),
    Case(
        "MaxUnpooling2D",
        functools.partial(MaxUnpooling2D, 2),
        ((2, 2, 3, 4), (2, 2, 3, 4)),
        call="args",
        inputs=pooled,
    ),
    Case(
        "MaxUnpooling2D-channels_first",
        functools.partial(
            MaxUnpooling2D,
            3,
            2,
            padding="same",
            output_size=(5, 7),
            data_format="channels_first",
        ),
        ((2, 2, 3, 4), (2, 2, 3, 4)),
        call="args",
        inputs=overlapping,
    ),
]
