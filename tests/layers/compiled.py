"""What a layer gives, compiled as a whole: op by op, jax compiles each for each shape."""

from __future__ import annotations

from typing import Any

import harness
import keras
import numpy as np
from harness import numpy


def compiled(layer: keras.layers.Layer, *arrays: np.ndarray) -> np.ndarray:
    (out,) = harness.called(layer, *arrays)
    return numpy(out)


def with_loss(
    layer: keras.layers.Layer, *arrays: np.ndarray, training: bool = False
) -> tuple[np.ndarray, float]:
    """The output, and the one loss that the layer adds; what it draws from moves on."""
    if not layer.built:
        layer.build(*(a.shape for a in arrays))
    trainable, state = layer.trainable_variables, layer.non_trainable_variables
    values = [v.value for v in trainable], [v.value for v in state]

    def function(given: Any) -> Any:
        outs, after, losses = layer.stateless_call(
            *values, *given, training=training, return_losses=True
        )
        (loss,) = losses
        return outs, loss, *after

    outs, loss, *after = harness.compiled(function, arrays)
    for variable, value in zip(state, after, strict=True):
        variable.assign(value)
    return numpy(outs), float(numpy(loss))
