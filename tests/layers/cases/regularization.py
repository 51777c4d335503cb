"""Layers that disturb a network in training."""

from __future__ import annotations

from functools import partial

from harness import Case

from keras_tl.layers import (
    DropBlock2D,
    DropConnectConv2D,
    DropConnectDense,
    GaussianNoise,
    NoisyDense,
    StochasticDepth,
)

CASES = [
    Case(
        "DropConnectDense",
        partial(DropConnectDense, 3, "tanh", rate=0.4),
        ((2, 4, 5),),
        free=(1,),
        fixed=(2,),
        random=True,
        masks=True,
    ),
    Case(
        "DropConnectDense-per_sample",
        partial(DropConnectDense, 3, use_bias=False, per_sample=True),
        ((3, 5),),
        fixed=(1,),
        random=True,
    ),
    Case(
        "DropConnectConv2D",
        partial(DropConnectConv2D, 4, (3, 2), 2, "same", groups=2, rate=0.3),
        ((2, 5, 6, 2),),
        free=(1, 2),
        fixed=(3,),
        random=True,
    ),
    Case(
        "DropConnectConv2D-per_sample",
        partial(DropConnectConv2D, 4, (3, 2), 2, "valid", "channels_first", per_sample=True),
        ((2, 3, 5, 6),),
        free=(2, 3),
        fixed=(1,),
        random=True,
    ),
    Case(
        "StochasticDepth",
        partial(StochasticDepth, 0.3),
        ((6, 3, 2),),
        free=(1, 2),
        random=True,
        masks=True,
    ),
    Case(
        "DropBlock2D",
        partial(DropBlock2D, 0.3, 2),
        ((2, 5, 6, 3),),
        free=(1, 2, 3),
        random=True,
    ),
    Case(
        "DropBlock2D-channels_first",
        partial(DropBlock2D, 0.3, 3, "channels_first"),
        ((2, 3, 5, 6),),
        free=(1, 2, 3),
        random=True,
    ),
    Case(
        "NoisyDense",
        partial(NoisyDense, 3, "tanh"),
        ((2, 4, 5),),
        free=(1,),
        fixed=(2,),
        random=True,
        masks=True,
    ),
    Case(
        "NoisyDense-independent",
        partial(NoisyDense, 3, use_bias=False, factorized=False, sigma=0.2),
        ((2, 5),),
        fixed=(1,),
        random=True,
    ),
    Case(
        "GaussianNoise",
        partial(GaussianNoise, 0.5, mean=1.0),
        ((2, 4, 5),),
        free=(1, 2),
        random=True,
        masks=True,
    ),
]
