"""What layers share that are made of a registered function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import keras

from keras_tl.layers import arguments

__all__ = ["FunctionLayer"]


class FunctionLayer(keras.layers.Layer):
    """A layer made of `fn`, which is saved by the name under which it is registered.

    Its output is what the function is found to return for symbolic inputs.
    """

    def __init__(self, fn: Callable[..., Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.fn = arguments.function("fn", fn)
        self.supports_masking = True

    def compute_output_spec(self, inputs: Any, **kwargs: Any) -> Any:
        return keras.Operation.compute_output_spec(self, inputs)

    def compute_output_shape(self, input_shape: Any) -> Any:
        inputs = keras.tree.map_shape_structure(
            lambda shape: keras.KerasTensor(shape, self.compute_dtype), input_shape
        )
        return keras.tree.map_structure(lambda t: t.shape, self.compute_output_spec(inputs))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "fn": keras.saving.serialize_keras_object(self.fn)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        fn = keras.saving.deserialize_keras_object(config["fn"])
        return cls(**{**config, "fn": fn})
