"""The room `convolutional` in the table of layers."""

from __future__ import annotations

import functools

import numpy as np
from harness import Case

from keras_tl.layers import (
    DeformableConv2D,
    MaskedConv2D,
    MaskedConv3D,
    SpatialTransformer2D,
    SqueezeExcite2D,
)


def moved(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Images, offsets and modulation for two groups of four taps, at 3 x 2 places."""
    return (
        rng.standard_normal((2, 6, 5, 4)).astype("float32"),
        rng.standard_normal((2, 3, 2, 16)).astype("float32"),
        rng.random((2, 3, 2, 8), dtype="float32"),
    )


def transformed(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Images, channels first, and two transforms of each."""
    theta = np.eye(2, 3) + 0.3 * rng.standard_normal((2, 2, 2, 3))
    return rng.standard_normal((2, 3, 6, 5)).astype("float32"), theta.astype("float32")


CASES = [
    Case(
        "DeformableConv2D",
        functools.partial(DeformableConv2D, 3, 3, padding="same", activation="tanh"),
        ((2, 6, 5, 4),),
        free=(1, 2),
        fixed=(3,),
        gradient="surrogate",  # exact, but offsets near zero are near the kinks
    ),
    Case(
        "DeformableConv2D-modulated",
        functools.partial(
            DeformableConv2D,
            4,
            (3, 2),
            strides=2,
            padding="same",
            data_format="channels_first",
            groups=2,
            modulated=True,
            offset_groups=2,
        ),
        ((2, 4, 6, 5),),
        free=(2, 3),
        fixed=(1,),
        gradient="surrogate",
    ),
    Case(
        "DeformableConv2D-given",
        functools.partial(DeformableConv2D, 3, 2, strides=2, modulated=True, offset_groups=2),
        ((2, 6, 5, 4), (2, 3, 2, 16), (2, 3, 2, 8)),
        call="args",
        inputs=moved,
        free=(1, 2),
    ),
    Case(
        "MaskedConv2D",
        functools.partial(MaskedConv2D, 4, 3, padding="same", mask_type="A"),
        ((2, 5, 4, 2),),
        free=(1, 2),
    ),
    Case(
        "MaskedConv3D-channels_first",
        functools.partial(MaskedConv3D, 3, (1, 3, 3), data_format="channels_first", mask_type="B"),
        ((2, 2, 4, 5, 3),),
        free=(2, 3, 4),
    ),
    Case(
        "SpatialTransformer2D",
        functools.partial(SpatialTransformer2D, align_corners=True),
        ((2, 6, 5, 3), (2, 4)),
        call="args",
        free=(1, 2),
        fixed=(3,),
    ),
    Case(
        "SpatialTransformer2D-several",
        functools.partial(
            SpatialTransformer2D,
            (4, 3),
            transforms=2,
            use_head=False,
            fill_mode="nearest",
            data_format="channels_first",
        ),
        ((2, 3, 6, 5), (2, 2, 2, 3)),
        call="args",
        inputs=transformed,
        free=(2, 3),
        fixed=(1,),
    ),
    Case(
        "SqueezeExcite2D",
        functools.partial(SqueezeExcite2D, 2),
        ((2, 4, 3, 6),),
        free=(1, 2),
        fixed=(3,),
    ),
    Case(
        "SqueezeExcite2D-channels_first",
        functools.partial(
            SqueezeExcite2D, 2, excite_activation="hard_sigmoid", data_format="channels_first"
        ),
        ((2, 6, 4, 3),),
        free=(2, 3),
        fixed=(1,),
    ),
]
