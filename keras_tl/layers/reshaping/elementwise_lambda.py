"""A registered function of several inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras

from keras_tl.layers.functions import FunctionLayer

__all__ = ["ElementwiseLambda"]


@keras.saving.register_keras_serializable(package="keras_tl")
class ElementwiseLambda(FunctionLayer):
    """Merges a list of inputs by a function.

    Unlike `keras.layers.Lambda` it is saved as data: the function by the name under which it is
    registered, and the arguments. Such a file loads with Keras' default `safe_mode`.

    Args:
        fn: `fn(*inputs, **arguments)`, a function of tensors under
            `@keras.saving.register_keras_serializable()`.
        arguments: further arguments by name, what JSON can hold.
        **kwargs: as for every layer, `name` and `dtype`.

    Input shape: a list of tensors; a single tensor is a list of one.

    Output shape: that of `fn`.

    The mask of the first input is passed on. TensorLayer's `fn_weights` are left to a layer of
    one's own.

    Raises:
        ValueError: if `fn` is not registered.

    Example:

    >>> import keras, numpy as np
    >>> from keras_tl.layers import ElementwiseLambda
    >>> @keras.saving.register_keras_serializable("example")
    ... def sample(noise, mean, log_variance, scale):
    ...     return mean + scale * noise * keras.ops.exp(0.5 * log_variance)
    >>> layer = ElementwiseLambda(sample, {"scale": 2.0})
    >>> noise, mean, log_variance = np.ones((1, 2)), np.array([[1.0, 2.0]]), np.zeros((1, 2))
    >>> keras.ops.convert_to_numpy(layer([noise, mean, log_variance])).tolist()
    [[3.0, 4.0]]
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        arguments: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(fn, **kwargs)
        self.arguments = dict(arguments or {})

    def call(self, inputs: Any) -> Any:
        tensors = inputs if isinstance(inputs, list | tuple) else [inputs]
        return self.fn(*tensors, **self.arguments)

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        return keras.tree.flatten(previous_mask)[0] if previous_mask is not None else None

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "arguments": dict(self.arguments)}
