"""The room `quantization` in the table of layers."""

from __future__ import annotations

import functools
from typing import Any

from harness import Case

from keras_tl.layers import (
    BinaryConv2D,
    BinaryDense,
    DoReFaConv2D,
    DoReFaDense,
    FakeQuantConv2D,
    FakeQuantConv2DWithBatchNorm,
    FakeQuantDense,
    FakeQuantDenseWithBatchNorm,
    Sign,
    TernaryConv2D,
    TernaryDense,
)


def dense(layer: Any, weight_bits: int | None = None, **more: Any) -> Case:
    arguments = {"weight_bits": weight_bits} if weight_bits else {}
    return Case(
        layer.__name__,
        functools.partial(layer, 3, activation="tanh", **arguments),
        ((2, 4, 5),),
        free=(1,),
        fixed=(2,),
        gradient="surrogate",
        masks=True,
        **more,
    )


def conv(layer: Any, name: str = "", data_format: str = "channels_last", **more: Any) -> Case:
    shape = (2, 6, 5, 4) if data_format == "channels_last" else (2, 4, 6, 5)
    return Case(
        layer.__name__ + name,
        functools.partial(
            layer, 6, 3, strides=2, padding="same", data_format=data_format, groups=2
        ),
        (shape,),
        free=(1, 2) if data_format == "channels_last" else (2, 3),
        fixed=(3,) if data_format == "channels_last" else (1,),
        gradient="surrogate",
        **more,
    )


ROUNDS: dict[str, Any] = {"mixed": False}  # inputs near a half round otherwise in half precision
TRAINS: dict[str, Any] = {"differs_in_training": True}

CASES = [
    Case("Sign", Sign, ((2, 4, 5),), free=(1,), gradient="surrogate", masks=True),
    dense(BinaryDense),
    conv(BinaryConv2D),
    dense(TernaryDense),
    conv(TernaryConv2D),
    dense(DoReFaDense, weight_bits=2, **ROUNDS),
    conv(DoReFaConv2D, **ROUNDS),
    dense(FakeQuantDense, **TRAINS),
    conv(FakeQuantConv2D, **TRAINS),
    dense(FakeQuantDenseWithBatchNorm, **TRAINS),
    conv(FakeQuantConv2DWithBatchNorm, **TRAINS),
    conv(FakeQuantConv2DWithBatchNorm, "-channels_first", "channels_first", **TRAINS),
]
