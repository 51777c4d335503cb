from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_tl.layers.autoencoders.reconstruction import Reconstruction

__all__ = ["pretrain"]


def pretrain(
    stack: keras.Model | Sequence[keras.layers.Layer],
    x: np.ndarray,
    *,
    epochs: int = 1,
    batch_size: int = 32,
    optimizer: Any = "adam",
    reconstruction: Callable[[keras.layers.Dense], Reconstruction] = Reconstruction,
    validation_split: float = 0.0,
    verbose: Any = "auto",
) -> list[keras.callbacks.History]:
    """Trains the `Dense` layers of a stack one after the other, each to reconstruct its input.

    The first is trained on `x`, the next on what the first makes of `x`, and so on; other layers
    are run in inference and stay as they are. Each is an ordinary `fit` of its `Reconstruction`.
    Afterwards the stack, and whatever model has its layers, starts from what was found.

    Bengio et al., *Greedy Layer-Wise Training of Deep Networks*, NIPS 2006; UFLDL, "Stacked
    autoencoders". TensorLayer's `ReconLayer.pretrain`.

    Args:
        stack: layers, each taking what the one before gives, as `model.layers[:-1]`; or a
            `keras.Sequential`.
        x: `(samples, ...)`, as the first layer takes it.
        epochs, batch_size, validation_split, verbose: of each `fit`, as Keras has them.
        optimizer: as of `compile`; each layer has one of its own.
        reconstruction: makes the `Reconstruction` of a layer, as
            `functools.partial(Reconstruction, noise=0.3)`.

    Returns:
        What each `fit` returned, in the order of the layers.

    Raises:
        ValueError: if the stack has no `Dense` layer, or is a graph.

    Example:
        >>> x = np.random.default_rng(0).random((64, 8)).astype("float32")
        >>> layers = [keras.layers.Dense(6, "tanh"), keras.layers.Dense(4, "tanh")]
        >>> classifier = keras.Sequential([*layers, keras.layers.Dense(2, "softmax")])
        >>> adam = keras.optimizers.Adam(0.01)
        >>> first, second = pretrain(layers, x, epochs=20, optimizer=adam, verbose=0)
        >>> first.history["loss"][-1] < first.history["loss"][0]
        True
    """
    if isinstance(stack, keras.Model) and not isinstance(stack, keras.Sequential):
        raise ValueError(
            f"`stack` must be a list of layers or a `keras.Sequential`. Received: stack={stack}"
        )
    layers = list(stack.layers if isinstance(stack, keras.Sequential) else stack)
    dense = [layer for layer in layers if isinstance(layer, keras.layers.Dense)]
    if not dense:
        raise ValueError(f"`stack` must have a `keras.layers.Dense`. Received: stack={layers}")
    x, histories = np.asarray(x), []
    for layer in layers:
        if isinstance(layer, keras.layers.Dense):
            model = keras.Sequential([keras.Input(x.shape[1:]), reconstruction(layer)])
            given = keras.optimizers.get(optimizer)
            model.compile(type(given).from_config(given.get_config()))
            history = model.fit(
                x,
                epochs=epochs,
                batch_size=batch_size,
                validation_split=validation_split,
                verbose=verbose,
            )
            histories.append(history)
        if len(histories) == len(dense):
            break
        x = encoded(layer, x, batch_size)
    return histories


def encoded(layer: keras.layers.Layer, x: np.ndarray, batch_size: int) -> np.ndarray:
    """What the layer makes of `x`. No model of it: a layer keeps what models it is part of."""
    parts = (x[i : i + batch_size] for i in range(0, len(x), batch_size))
    return np.concatenate([ops.convert_to_numpy(layer(part)) for part in parts])
