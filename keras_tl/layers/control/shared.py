"""Layers that are shared by name."""

from __future__ import annotations

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
        known = self.layers.setdefault(name, layer)
        if type(known) is not type(layer):
            raise ValueError(
                f"`{name}` is shared by layers of one class, {type(known).__name__}. "
                f"Received: {type(layer).__name__}"
            )
        old, new = known.get_config(), layer.get_config()
        if differing := [key for key in old if old[key] != new[key]]:
            raise ValueError(
                f"`{name}` is shared: it must be asked for with the arguments that it was made "
                "with. Received: "
                + ", ".join(f"{key}={new[key]!r}, not {old[key]!r}" for key in differing)
            )
        return known
