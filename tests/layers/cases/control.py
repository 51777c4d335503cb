"""The room `control`."""

from typing import Any

import keras
from harness import Case
from keras import ops

from keras_tl.layers import Control, Multiplexer


@keras.saving.register_keras_serializable(package="keras_tl_tests")
def squash(x: Any, step: Any, gain: Any, shift: Any) -> Any:
    return ops.tanh(gain * x) + shift


def multiplexer(selected: int, **kwargs: Any) -> Multiplexer:
    inner = {key: value for key, value in kwargs.items() if key == "dtype"}
    layers = [
        keras.layers.Activation("tanh", **inner),
        keras.layers.BatchNormalization(**inner),
        keras.layers.Dropout(0.5, seed=1, **inner),
    ]
    return Multiplexer(layers, selected, **kwargs)


CASES = [
    Case(
        "Control",
        lambda **kw: Control(squash, {"gain": 0.5, "shift": [0.0, 1.0, -1.0]}, **kw),
        ((4, 5, 3),),
        free=(1,),
        masks=True,
    ),
    Case("Multiplexer", lambda **kw: multiplexer(1, **kw), ((6, 4),), differs_in_training=True),
    Case(
        "Multiplexer-random",
        lambda **kw: multiplexer(2, **kw),
        ((6, 4),),
        random=True,
        gradient="none",
    ),
]
