"""The room `reshaping`."""

from typing import Any

import keras
from harness import Case

from keras_tl.layers import ChannelShuffle, EinMix, ElementwiseLambda, Padding, Rearrange, Reduce


@keras.saving.register_keras_serializable(package="keras_tl_tests")
def blend(x: Any, y: Any, weight: float) -> Any:
    return weight * x + (1 - weight) * y * y


# Keras 3.14 does not find on jax what comes of an unknown length that is split in two.
OLD = tuple(map(int, keras.version().split(".")[:2])) < (3, 15)
SPLIT = () if OLD and keras.backend.backend() == "jax" else (1,)

CASES = [
    Case("ChannelShuffle", lambda **kw: ChannelShuffle(2, **kw), ((2, 3, 4, 6),), free=(1,)),
    Case(
        "ChannelShuffle-channels_first",
        lambda **kw: ChannelShuffle(3, data_format="channels_first", **kw),
        ((2, 6, 3, 4),),
        free=(2, 3),
        fixed=(1,),
    ),
    Case("Padding", lambda **kw: Padding(((1, 2), 3, 0), value=0.5, **kw), ((2, 3, 4, 2),)),
    Case(
        "Padding-symmetric",
        lambda **kw: Padding(((1, 2), 2, 0), "symmetric", **kw),
        ((2, 3, 4, 2),),
        free=(1,),
    ),
    Case(
        "ElementwiseLambda",
        lambda **kw: ElementwiseLambda(blend, {"weight": 0.25}, **kw),
        ((2, 4, 3), (2, 4, 3)),
        call="list",
        masks=True,
    ),
    Case(
        "Rearrange",
        lambda **kw: Rearrange("b (h p) (w q) c -> b (h w) (p q c)", p=2, q=2, **kw),
        ((2, 4, 6, 3),),
        free=SPLIT,
    ),
    Case(
        "Reduce", lambda **kw: Reduce("b (t 2) c -> b t c", "mean", **kw), ((2, 6, 3),), free=SPLIT
    ),
    Case(
        "EinMix",
        lambda **kw: EinMix(
            "b t (h c) -> b h t d", "h c d", "d h", activation="tanh", h=2, c=3, d=4, **kw
        ),
        ((2, 5, 6),),
        free=(1,),
        fixed=(),
    ),
]
