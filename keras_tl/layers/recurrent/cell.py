"""What the cells share: Keras' own LSTM cell, with its products apart from its gates."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_tl.layers import arguments

__all__ = ["Cell"]


class Cell(keras.layers.LSTMCell):
    """`keras.layers.LSTMCell`, of which a subclass writes the gates; arguments are checked.

    Keras takes a rate of 1 for no dropout, and one below 0 for 0; here both are refused.
    """

    def __init__(
        self,
        units: int,
        activation: Any = "tanh",
        recurrent_activation: Any = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
        unit_forget_bias: bool = True,
        kernel_regularizer: Any = None,
        recurrent_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        recurrent_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            arguments.integer("units", units),
            activation=activation,
            recurrent_activation=recurrent_activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            recurrent_initializer=recurrent_initializer,
            bias_initializer=bias_initializer,
            unit_forget_bias=unit_forget_bias,
            kernel_regularizer=kernel_regularizer,
            recurrent_regularizer=recurrent_regularizer,
            bias_regularizer=bias_regularizer,
            kernel_constraint=kernel_constraint,
            recurrent_constraint=recurrent_constraint,
            bias_constraint=bias_constraint,
            dropout=arguments.fraction("dropout", dropout),
            recurrent_dropout=arguments.fraction("recurrent_dropout", recurrent_dropout),
            seed=seed,
            **kwargs,
        )

    def build(self, input_shape: Any) -> None:
        arguments.static(self, input_shape, -1, "number of features")
        super().build(input_shape)

    def products(self, inputs: Any, hidden: Any, training: bool) -> tuple[Any, Any]:
        """`inputs @ kernel` and `hidden @ recurrent_kernel`, with dropout in training."""
        of_inputs = self.get_dropout_mask(inputs) if training else None
        of_hidden = self.get_recurrent_dropout_mask(hidden) if training else None
        return (
            _product(inputs, self.kernel, of_inputs),
            _product(hidden, self.recurrent_kernel, of_hidden),
        )

    def compute_output_shape(self, inputs_shape: Any, states_shape: Any = None) -> Any:
        state = (inputs_shape[0], self.units)
        return state, [state, state]


def _product(x: Any, kernel: Any, masks: Any) -> Any:
    """`x @ kernel`, x being masked; for each gate by itself if Keras drew a mask for each."""
    if masks is None:
        return ops.matmul(x, kernel)
    if not isinstance(masks, list):
        return ops.matmul(x * masks, kernel)
    parts = ops.split(kernel, len(masks), axis=1)
    products = [ops.matmul(x * m, part) for m, part in zip(masks, parts, strict=True)]
    return ops.concatenate(products, axis=-1)
