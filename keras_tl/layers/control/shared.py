"""Layers that are shared by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import keras

__all__ = ["Shared"]


class Shared:
    """A scope of layers by name: asked for a name again, it gives the same layer again.

    A function that asks a scope for its layers can be called for several inputs, and all of them
    pass through the same weights. This is the keyed sharing of the TensorLayer paper
    (https://arxiv.org/abs/1707.08551, section 2.1), where a key names a layer. TensorLayer's keys
    were names in one global graph, and a layer of the same name with other arguments was an
    accident; here they belong to a scope, and other arguments are refused.

    The layers are ordinary ones under their names. A model that uses one several times trains and
    saves it once, and it is shared again when the model is loaded. (Keras cannot load a model in
    which two nested models share a layer, however it was shared. Use their layers in one model.)

    Attributes:
        layers: the layers by name. A subclassed model must hold them, for instance by
            `self.shared = scope.layers`, for Keras to see their weights.

    Raises:
        ValueError: if a name is asked for with another class or with other arguments.

    Example:

    >>> import keras
    >>> from keras_tl.layers import Shared
    >>> scope = Shared()
    >>> def tower(x):
    ...     x = scope("hidden", keras.layers.Dense, 8, activation="relu")(x)
    ...     return scope("out", keras.layers.Dense, 2)(x)
    >>> left, right = keras.Input((4,)), keras.Input((4,))
    >>> model = keras.Model([left, right], [tower(left), tower(right)])
    >>> [weight.path for weight in model.weights]
    ['hidden/kernel', 'hidden/bias', 'out/kernel', 'out/bias']
    """

    def __init__(self) -> None:
        self.layers: dict[str, keras.layers.Layer] = {}
        self._recipes: dict[str, dict[str, Any]] = {}

    def __call__(
        self, name: str, make: Callable[..., keras.layers.Layer], *args: Any, **kwargs: Any
    ) -> keras.layers.Layer:
        """The layer of this name, which is made if there is none.

        Args:
            name: the key within the scope, and the layer's own name.
            make: the layer's class, or a function that takes a `name` and returns a layer.
            *args: its arguments.
            **kwargs: its keyword arguments.
        """
        if not isinstance(name, str) or not name:
            raise ValueError(f"`name` must be a string that is not empty. Received: name={name!r}")
        layer = make(*args, name=name, **kwargs)
        new = _recipe(layer)
        if name not in self.layers:
            self.layers[name], self._recipes[name] = layer, new
        known = self.layers[name]
        if type(known) is not type(layer):
            raise ValueError(
                f"`{name}` is shared by layers of one class, {type(known).__name__}. "
                f"Received: {type(layer).__name__}"
            )
        # As it was made: some layers put other values in their arguments' place when built.
        old = self._recipes[name]
        if differing := [key for key in {**old, **new} if old.get(key) != new.get(key)]:
            raise ValueError(
                f"`{name}` is shared: it must be asked for with the arguments that it was made "
                "with. Received: "
                + ", ".join(f"{key}={new.get(key)!r}, not {old.get(key)!r}" for key in differing)
            )
        return known


def _recipe(layer: keras.layers.Layer) -> dict[str, Any]:
    """A layer's config, without the data of building and the names that Keras gave inner layers.

    Two layers of one recipe have inner layers `dense` and `dense_1`: both become `(Dense 0)`.
    """
    names: dict[str, str] = {}

    def look(value: Any) -> None:
        if isinstance(value, dict):
            kind, config = value.get("class_name"), value.get("config")
            name = config.get("name") if isinstance(config, dict) else None
            if isinstance(kind, str) and isinstance(name, str) and _generated(name, kind):
                names.setdefault(name, f"({kind} {len(names)})")
            value = list(value.values())
        if isinstance(value, list | tuple):
            for item in value:
                look(item)

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            kept = {
                k: v for k, v in value.items() if k not in ("build_config", "build_input_shape")
            }
            return {k: _renamed(v, names) if k == "name" else plain(v) for k, v in kept.items()}
        if isinstance(value, list | tuple):
            # A model refers to a layer's output by [name, node, tensor].
            if [type(item) for item in value] == [str, int, int]:
                return [_renamed(value[0], names), *value[1:]]
            return [plain(item) for item in value]
        return value

    config = layer.get_config()
    look(config)
    return plain(config)


def _generated(name: str, kind: str) -> bool:
    """Whether a name is the class's in snake case, numbered; Bidirectional puts a word before."""
    bare = re.sub(r"^(forward_|backward_)|_\d+$", "", name)
    return bare.replace("_", "") == kind.replace("_", "").lower()


def _renamed(name: Any, names: dict[str, str]) -> Any:
    return names.get(name, name) if isinstance(name, str) else name
