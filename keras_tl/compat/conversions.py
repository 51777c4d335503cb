"""How the arrays of one TensorLayer layer become those of its Keras sibling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

__all__ = ["Arrays", "Version", "convert", "unwoven"]

Version = tuple[int, ...] | None


class Arrays:
    """The arrays of a file that no layer has taken yet; `names` are None where the file has none.

    `forget_bias` is that of TensorFlow 1's LSTM cells, which it added at each step.
    """

    def __init__(
        self, named: list[tuple[str | None, np.ndarray]], version: Version, forget_bias: float
    ) -> None:
        self.left = named
        self.version = version
        self.forget_bias = forget_bias

    def take(self, layer: Any, count: int) -> list[np.ndarray]:
        """The next `count` arrays."""
        if len(self.left) < count:
            raise ValueError(
                f"The layer {layer.name!r} needs {count} more arrays. "
                f"Received: a file with {len(self.left)} left"
            )
        taken, self.left = self.left[:count], self.left[count:]
        return [array for _, array in taken]

    def roles(self, count: int) -> list[str] | None:
        """What the next `count` variables are called, as "beta" of "norm/beta:0"."""
        names = [name for name, _ in self.left[:count]]
        if not names or None in names:
            return None
        return [str(name).rsplit("/", 1)[-1].split(":")[0] for name in names]

    def older(self, layer: Any, than: tuple[int, ...], what: str) -> bool:
        """Whether the file was written by an older TensorLayer, which only the user knows."""
        if self.version is None:
            raise ValueError(
                f"`version` must tell which TensorLayer wrote the file: the layer {layer.name!r} "
                f"needs to know {what}, and the file has no names. Received: version=None"
            )
        return self.version < than


def convert(layer: Any, arrays: Arrays) -> list[np.ndarray]:
    """The values of `layer.weights`, made of the next arrays."""
    kind = keras.saving.get_registered_name(type(layer))
    if kind in _REGISTERED:
        return _REGISTERED[kind](layer, arrays)
    for known, function in _KINDS:
        if isinstance(layer, known):
            return function(layer, arrays)
    return arrays.take(layer, len(layer.weights))


def _batch_normalization(layer: Any, arrays: Arrays) -> list[np.ndarray]:
    # beta, gamma, moving mean, moving variance.
    values = arrays.take(layer, len(layer.weights))
    return [values[1], values[0], *values[2:]] if layer.center and layer.scale else values


def _gamma_first(layer: Any, arrays: Arrays, unnamed: Callable[[], bool]) -> list[np.ndarray]:
    """Gamma and beta, by their names or, without names, by `unnamed()`."""
    count = len(layer.weights)
    roles = arrays.roles(count)
    if count < 2:
        return arrays.take(layer, count)
    first = unnamed() if roles is None else roles[0] in ("gamma", "scale")
    values = arrays.take(layer, count)
    return values if first else values[::-1]


def _layer_normalization(layer: Any, arrays: Arrays) -> list[np.ndarray]:
    return _gamma_first(layer, arrays, lambda: False)


def _instance_normalization(layer: Any, arrays: Arrays) -> list[np.ndarray]:
    what = "whether gamma comes before beta, as before 2.0"
    return _gamma_first(layer, arrays, lambda: arrays.older(layer, (2,), what))


def _group_normalization(layer: Any, arrays: Arrays) -> list[np.ndarray]:
    return _gamma_first(layer, arrays, lambda: True)


def _wrapper(layer: Any, arrays: Arrays) -> list[np.ndarray]:
    return convert(layer.layer, arrays)


def _bidirectional(layer: Any, arrays: Arrays) -> list[np.ndarray]:
    return convert(layer.forward_layer, arrays) + convert(layer.backward_layer, arrays)


def _kernel(layer: Any, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The halves of TensorFlow 1's kernel of inputs and state; of 2.x they are two arrays."""
    features = layer.cell.kernel.shape[0]
    return value[:features], value[features:]


def _of_tensorflow_1(layer: Any, arrays: Arrays) -> bool:
    """Whether the next kernel is of inputs and state together."""
    units, features = layer.units, layer.cell.kernel.shape[0]
    return bool(arrays.left) and arrays.left[0][1].shape[:1] == (features + units,)


def _lstm(layer: Any, arrays: Arrays) -> list[np.ndarray]:
    if not _of_tensorflow_1(layer, arrays):
        return arrays.take(layer, len(layer.weights))
    kernel, bias = arrays.take(layer, 2)

    def reorder(value: np.ndarray) -> np.ndarray:
        i, j, f, o = np.split(value, 4, axis=-1)
        return np.concatenate([i, f, j, o], axis=-1)

    bias = reorder(bias)
    bias[layer.units : 2 * layer.units] += arrays.forget_bias
    return [*map(reorder, _kernel(layer, kernel)), bias]


def _gru(layer: Any, arrays: Arrays) -> list[np.ndarray]:
    if not _of_tensorflow_1(layer, arrays):
        return arrays.take(layer, len(layer.weights))
    if layer.reset_after:
        raise ValueError(
            f"The layer {layer.name!r} must have `reset_after=False`: TensorFlow 1's GRU cell "
            "resets the state before it is multiplied. Received: reset_after=True"
        )
    gates, gates_bias, candidate, candidate_bias = arrays.take(layer, 4)
    parts = []
    for gate, new in zip(_kernel(layer, gates), _kernel(layer, candidate), strict=True):
        r, z = np.split(gate, 2, axis=-1)
        parts.append(np.concatenate([z, r, new], axis=-1))
    r, z = np.split(gates_bias, 2)
    return [*parts, np.concatenate([z, r, candidate_bias])]


def _simple_rnn(layer: Any, arrays: Arrays) -> list[np.ndarray]:
    if not _of_tensorflow_1(layer, arrays):
        return arrays.take(layer, len(layer.weights))
    kernel, bias = arrays.take(layer, 2)
    return [*_kernel(layer, kernel), bias]


def _prelu(layer: Any, arrays: Arrays) -> list[np.ndarray]:
    count = len(layer.weights)
    roles = arrays.roles(count)
    what = "whether its slopes are those of a sigmoid, as from 1.9 on"
    plain = arrays.older(layer, (1, 9), what) if roles is None else roles[0] == "alphas"
    values = arrays.take(layer, count)
    if not plain:
        values = [(1 / (1 + np.exp(-v.astype("float64")))).astype(v.dtype) for v in values]
    # One slope, or one a channel, is that of all places along the shared axes.
    return [
        np.broadcast_to(value, weight.shape)
        if value.ndim == 1 and value.shape[0] in (1, weight.shape[-1])
        else value
        for value, weight in zip(values, layer.weights, strict=True)
    ]


def unwoven(order: str, values: list[np.ndarray], scale: tuple[int, int]) -> list[np.ndarray]:
    """A convolution's kernel and bias, the channels' order changed from that before 1.6.

    In front of a SubpixelConv2d those versions took channel `c * r * r + j * r + i` for row `i` and
    column `j` of a block; `order` is that of the Keras layer.
    """
    channels = values[-1].shape[-1]
    old = np.arange(channels).reshape(-1, scale[1], scale[0])  # channel, column, row
    axes = {"depth_to_space": (2, 1, 0), "torch": (0, 2, 1)}[order]
    return [value[..., old.transpose(axes).ravel()] for value in values]


# The first that fits counts.
_KINDS: list[tuple[type, Callable[[Any, Arrays], list[np.ndarray]]]] = [
    (keras.layers.BatchNormalization, _batch_normalization),
    (keras.layers.LayerNormalization, _layer_normalization),
    (keras.layers.GroupNormalization, _group_normalization),
    (keras.layers.Bidirectional, _bidirectional),
    (keras.layers.Wrapper, _wrapper),
    (keras.layers.LSTM, _lstm),
    (keras.layers.GRU, _gru),
    (keras.layers.SimpleRNN, _simple_rnn),
    (keras.layers.PReLU, _prelu),
]
# Layers of keras_tl.layers, which this package does not import.
_REGISTERED = {"keras_tl>InstanceNormalization": _instance_normalization}
