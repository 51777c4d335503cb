from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_tl.compat.conversions import Arrays, Version, convert, unwoven
from keras_tl.compat.files import read_tensorlayer

__all__ = ["load_tensorlayer"]


def load_tensorlayer(
    model: Any,
    filepath: str | os.PathLike[str],
    layers: Sequence[Any] | Mapping[str, Any] | None = None,
    version: str | None = None,
    forget_bias: float = 1.0,
) -> None:
    """Set a Keras model's weights to those of a TensorLayer model of the same architecture.

    Each Keras layer takes as many of the file's arrays as it has weights, in order, and what the
    two libraries keep otherwise is converted: the order of gamma and beta of normalisations,
    the kernels, gates and forget bias of TensorFlow 1's RNN cells, the slopes of PReLU (a sigmoid
    of what is in the file), the channels in front of a `SubpixelConv2D` (files older than 1.6).
    Nothing is assigned unless all of it fits.

    Not everything is in a file of weights: padding (`"same"` there), strides, epsilons and
    activations are the model's own, see `examples/layers.md`.

    Args:
        model: built; its layers without weights do not count.
        filepath: of an `.npz`, `.npz_dict` or `.hdf5` file, see `read_tensorlayer`.
        layers: the Keras layers in the file's order; or a dict from the names of TensorLayer
            layers to them, for a file with names: then what it does not name is left out.
            None: `model.layers`, in order, models within it opened.
        version: the TensorLayer that wrote the file, as `"1.5.4"`. It is asked for where the file
            does not tell: by an `InstanceNormalization` or a `PReLU` in a file without names, and
            by a `SubpixelConv2D`.
        forget_bias: of TensorFlow 1's LSTM cells, which added it at each step.

    Raises:
        ValueError: if the file is not one of TensorLayer, a number of arrays or a shape is
            another than that of the model, or `version` is needed. Nothing was changed.

    Example:
        >>> import os, tempfile
        >>> import keras
        >>> import numpy as np
        >>> path = os.path.join(tempfile.mkdtemp(), "mlp.npz_dict")
        >>> arrays = {"dense/W:0": np.eye(2), "dense/b:0": np.array([1.0, 2.0])}
        >>> with open(path, "wb") as file:
        ...     np.savez(file, **arrays)
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
        >>> load_tensorlayer(model, path)
        >>> model.predict(np.zeros((1, 2)), verbose=0).tolist()
        [[1.0, 2.0]]
    """
    if not model.built:
        raise ValueError("`model` must be built. Received: a model whose layers have no weights")
    parsed = _parsed(version)
    found = read_tensorlayer(filepath)
    named = list(found) != [str(i) for i in range(len(found))]
    entries = [(name if named else None, array) for name, array in found.items()]
    if isinstance(layers, Mapping):
        if not named:
            raise ValueError(
                "`layers` must be a list for a file without names. "
                f"Received: layers={list(layers)}, a file of {len(found)} arrays"
            )
        parts = [(layer, _of(name, entries)) for name, layer in layers.items()]
        values = [
            (layer, _converted([layer], part, parsed, forget_bias)[0]) for layer, part in parts
        ]
    else:
        chosen = [x for x in (_layers(model) if layers is None else layers) if x.weights]
        values = list(zip(chosen, _converted(chosen, entries, parsed, forget_bias), strict=True))
    _unweave(model, values, parsed)
    for layer, arrays in values:
        if len(layer.weights) != len(arrays):
            raise ValueError(
                f"The layer {layer.name!r} has {len(layer.weights)} weights, as without a bias. "
                f"Received: {len(arrays)} arrays for them"
            )
        for weight, value in zip(layer.weights, arrays, strict=True):
            if tuple(weight.shape) != value.shape:
                raise ValueError(
                    f"The weight {weight.path!r} has the shape {tuple(weight.shape)}. "
                    f"Received: an array of the shape {value.shape}"
                )
    for layer, arrays in values:
        for weight, value in zip(layer.weights, arrays, strict=True):
            weight.assign(np.asarray(value, "float32"))


def _parsed(version: str | None) -> Version:
    if version is None:
        return None
    try:
        return tuple(int(part) for part in version.split("."))
    except (AttributeError, ValueError):
        raise ValueError(
            f"`version` must be a TensorLayer version, as '1.5.4'. Received: version={version!r}"
        ) from None


def _layers(model: Any) -> Iterator[Any]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
        else:
            yield layer


def _of(name: str, entries: list[tuple[str | None, np.ndarray]]) -> list[Any]:
    """The arrays of one layer; its name is the first part of theirs, or more of them."""
    part = [entry for entry in entries if str(entry[0]).startswith(f"{name}/")]
    if not part:
        known = sorted({str(entry).rsplit("/", 1)[0] for entry, _ in entries})
        raise ValueError(f"`layers` must name layers of the file: {known}. Received: {name!r}")
    return part


def _converted(
    layers: list[Any], entries: list[Any], version: Version, forget_bias: float
) -> list[list[np.ndarray]]:
    arrays = Arrays(entries, version, forget_bias)
    values = [convert(layer, arrays) for layer in layers]
    if arrays.left:
        raise ValueError(
            f"The layers {[layer.name for layer in layers]} need "
            f"{len(entries) - len(arrays.left)} arrays. Received: {len(entries)} in the file"
        )
    return values


def _unweave(model: Any, values: list[tuple[Any, list[np.ndarray]]], version: Version) -> None:
    """Reorder the channels of convolutions whose output a SubpixelConv2D spreads."""
    for layer in _layers(model):
        if keras.saving.get_registered_name(type(layer)) != "keras_tl>SubpixelConv2D":
            continue
        if layer.order == "tensorlayer_1.5":
            continue
        if version is None or (1, 6) <= version < (1, 6, 7):
            raise ValueError(
                f"`version` must tell in which order the channels of the layer {layer.name!r} "
                "are: below 1.6, or from 1.6.7 on; between them it changed in ways that are not "
                f"known here. Received: version={version}"
            )
        if version >= (1, 6, 7):
            if layer.order != "depth_to_space":
                raise ValueError(
                    f"The layer {layer.name!r} must have `order='depth_to_space'`, as "
                    f"TensorLayer from 1.6.7 on. Received: order={layer.order!r}"
                )
            continue
        source = _convolution(layer)
        for i, (known, arrays) in enumerate(values):
            if known is source:
                values[i] = (known, unwoven(layer.order, arrays, layer.scale))


def _convolution(layer: Any) -> Any:
    """The layer with weights whose output reaches `layer`, past activations alone."""
    source = layer
    while True:
        source = source.input._keras_history.operation
        if getattr(source, "weights", None) or not isinstance(source, keras.layers.Layer):
            break
        if not isinstance(source, keras.layers.Activation | keras.layers.ReLU):
            break
    if not isinstance(source, keras.layers.Conv2D) or source.data_format != "channels_last":
        raise ValueError(
            f"The layer {layer.name!r} must come after a Conv2D with channels last, whose channels "
            "are put in another order, or have `order='tensorlayer_1.5'`. "
            f"Received: {type(source).__name__}"
        )
    return source
