"""What the wrappers have in common that run a layer with a kernel computed from its own."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops
from keras.src.backend import AutocastScope  # state must be handed on uncast; nothing public does

__all__ = ["EffectiveKernelWrapper"]


class EffectiveKernelWrapper(keras.layers.Wrapper):
    """Runs its layer with `effective_kernel(training)` in place of the layer's kernel.

    The kernel itself is never assigned: on jax an assignment to a trainable weight within a
    training step is lost. The layer runs on explicit values of all its variables, as in
    `stateless_call`, but by `__call__`, which also casts to the layer's dtype, passes masks on and
    records the layer's activity regularizer. What the layer updates is assigned afterwards.
    """

    def __init__(self, layer: keras.layers.Layer, **kwargs: Any) -> None:
        super().__init__(layer, **kwargs)
        self.supports_masking = layer.supports_masking

    @property
    def kernel(self) -> keras.Variable:
        """The layer's own kernel or embeddings, which is what is trained and saved."""
        for name in ("kernel", "embeddings"):
            kernel = getattr(self.layer, name, None)
            if isinstance(kernel, keras.Variable):
                return kernel
        raise ValueError(
            f"`layer` must have a weight `kernel` or `embeddings`, neither quantized nor with LoRA "
            f"enabled. Received: layer={self.layer}"
        )

    def effective_kernel(self, training: bool | None) -> Any:
        """The kernel to run the layer with, of any float dtype."""
        raise NotImplementedError

    def full_kernel(self) -> Any:
        """The kernel in float32 (or above): half precision is too little for sums of squares."""
        kernel = self.kernel.value
        return ops.cast(kernel, keras.backend.result_type(kernel.dtype, "float32"))

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        kwargs = {} if training is None else {"training": training}
        with AutocastScope(None):
            given = {id(variable): variable.value for variable in self.layer.variables}
            # Not `self.kernel.dtype`, which is Keras' `floatx` in such a scope.
            dtype = given[id(self.kernel)].dtype
            given[id(self.kernel)] = ops.cast(self.effective_kernel(training), dtype)
        with keras.StatelessScope(collect_losses=True) as scope:
            for variable in self.layer.variables:
                scope.add_update((variable, given[id(variable)]))
            outputs = self.layer(inputs, **kwargs)
        for variable in self.layer.non_trainable_variables:
            value = scope.get_current_value(variable)
            if value is not given[id(variable)]:
                variable.assign(value)
        for loss in scope.losses:
            self.add_loss(ops.copy(loss))  # a copy: Keras finds the owner by `id`
        return outputs

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        return self.layer.compute_mask(inputs, mask)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self.layer.compute_output_shape(input_shape)

    def compute_output_spec(self, inputs: Any, training: bool | None = None) -> Any:
        return self.layer.compute_output_spec(inputs)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        # Keras would build the layer with it, ahead of the wrapper and so not under its path.
        config["layer"].pop("build_config", None)
        return config
